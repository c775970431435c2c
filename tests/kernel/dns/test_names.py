"""Names through the public command line, on real namespaces."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import dns.flags
import dns.message
import dns.query
import dns.rrset
import pytest
from tests.host import GATEWAY, until
from tests.kernel.dns.conftest import Net
from tests.namespaces import call_in


@pytest.fixture(autouse=True)
def _only_the_asker_is_left(net: Net) -> Iterator[None]:
    yield
    others = set(net.host.engine("ps", "-a", "--format", "{{.Names}}").stdout.split()) - {"asker"}
    if others:
        net.host.engine("rm", "-f", *others)


def test_what_a_container_sees(net: Net) -> None:
    id = net.run("web", "front", "--network-alias", "www", "--hostname", "box", "--expose", "80")
    own = net.address("web", "front")
    for name in ("web", "www", "box", id[:12], "WEB", "web.front"):
        assert net.ask("asker", name) == [own], name
        assert net.ask("asker", name, tcp=True) == [own], name
    assert net.message("asker", "web").answer[0].ttl <= 5
    assert net.ask("asker", "web", "AAAA") == []
    reverse = ".".join(reversed(own.split("."))) + ".in-addr.arpa"
    assert net.ask("asker", reverse, "PTR") == ["web."]
    assert net.ask("asker", "_http._tcp.web", "SRV") == ["0 0 80 web."]
    files = net.host.engine("exec", "web", "cat", "/etc/resolv.conf", "/etc/hosts").stdout
    assert "nameserver 127.0.0.11\nsearch corp.test\noptions ndots:0\n" in files
    assert f"{own}\tbox\n" in files


def test_the_c_library_and_busybox_find_names(net: Net) -> None:
    net.run("web", "front")
    own = net.address("web", "front")
    assert own in net.host.engine("exec", "asker", "nslookup", "web.").stdout
    assert own in net.host.engine("exec", "asker", "ping", "-c", "1", "-W", "2", "web").stdout
    lookup = net.host.engine("exec", "asker", "nslookup", "www.example.test", check=False)  # it has no AAAA
    assert "203.0.113.7" in lookup.stdout


def test_the_outside(net: Net) -> None:
    assert net.ask("asker", "a.example.test") == ["203.0.113.7"]
    assert net.ask("asker", "a.example.test", tcp=True) == ["203.0.113.7"]
    assert net.ask("asker", "nobody.test") == "NXDOMAIN"
    assert net.ask("asker", "short.test", "TXT") == ['"hello"']
    assert net.asked("a.example.test") == 1  # kept for its time to live, whichever way it is asked for


def test_a_long_answer_comes_by_tcp(net: Net) -> None:
    short = net.message("asker", "long.test", "TXT")
    assert short.flags & dns.flags.TC
    assert len(net.ask("asker", "long.test", "TXT", tcp=True)) == 20


def test_networks_keep_their_names(net: Net) -> None:
    net.run("hidden", "back")
    for name in ("hidden", "hidden.back", net.host.engine("ps", "-q", "--filter", "name=hidden").stdout.strip()):
        assert net.ask("asker", name) == "NXDOMAIN", name
    reverse = ".".join(reversed(net.address("hidden", "back").split("."))) + ".in-addr.arpa"
    assert net.ask("asker", reverse, "PTR") == "NXDOMAIN"


def test_connect_disconnect_and_rename_are_seen_at_once(net: Net) -> None:
    net.run("wanderer", "back")
    net.run("friend", "back")
    net.host.engine("network", "connect", "--alias", "guest", "front", "wanderer")
    here, there = net.address("wanderer", "front"), net.address("wanderer", "back")
    assert net.ask("asker", "wanderer") == net.ask("asker", "guest") == [here]
    assert net.ask("friend", "wanderer") == [there]
    assert net.ask("friend", "guest") == "NXDOMAIN"
    assert net.ask("wanderer", "asker") == [net.address("asker", "front")]
    assert net.ask("wanderer", "friend") == [net.address("friend", "back")]
    net.host.engine("rename", "wanderer", "settler")
    assert net.ask("asker", "settler") == [here]
    assert net.ask("asker", "wanderer") == "NXDOMAIN"
    net.host.engine("network", "disconnect", "front", "settler")
    assert net.ask("asker", "settler") == "NXDOMAIN"
    assert net.ask("friend", "settler") == [there]
    net.host.engine("rm", "-f", "settler")
    assert net.ask("friend", "settler") == "NXDOMAIN"


def test_a_containers_own_hosts_file(net: Net) -> None:
    net.run("web", "front", "--hostname", "box", "--add-host", "db:10.9.9.9")

    def read() -> list[str]:
        return net.host.engine("exec", "web", "cat", "/etc/hosts").stdout.splitlines()

    first = read()
    net.host.engine("exec", "web", "sh", "-c", "echo 10.8.8.8 mine >> /etc/hosts")
    net.host.engine("network", "connect", "back", "web")
    assert read() == [*first, "10.8.8.8 mine", f"{net.address('web', 'back')}\tbox"]
    net.host.engine("network", "disconnect", "back", "web")
    assert read() == [*first, "10.8.8.8 mine"]


def test_containers_that_share_an_alias_take_turns(net: Net) -> None:
    for n in range(3):
        net.run(f"w{n}", "front", "--network-alias", "workers")
    found = [net.message("asker", "workers").answer[0] for _ in range(60)]
    assert {len(rrset) for rrset in found} == {3}
    assert len({rrset[0].to_text() for rrset in found}) == 3


def test_the_default_network_has_no_names_until_another_is_joined(net: Net) -> None:
    net.run("plain", "bridge")
    read = ("exec", "plain", "cat", "/etc/resolv.conf")
    assert net.host.engine(*read).stdout == f"nameserver {GATEWAY}\nsearch corp.test\n"
    net.host.engine("network", "connect", "front", "plain")
    assert net.host.engine(*read).stdout.startswith("nameserver 127.0.0.11\n")
    assert net.ask("plain", "asker") == [net.address("asker", "front")]
    assert net.ask("plain", "b.example.test") == ["203.0.113.7"]


def test_the_hosts_own_resolver_on_its_loopback(net: Net) -> None:
    """As with systemd-resolved: containers cannot reach it, the engine can; and a change of the file counts at once."""
    before = net.resolv_conf.read_text()
    argv = ["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--user=root"]
    argv += ["--listen-address=127.0.0.53", "--bind-interfaces", "--pid-file=", "--address=/stub.test/198.51.100.1"]
    with net.host.process(*argv):
        try:
            net.resolv_conf.write_text("nameserver 127.0.0.53\n")
            until(lambda: net.ask("asker", "a.stub.test") == ["198.51.100.1"], "the host's resolver")
            net.run("plain", "bridge")
            assert net.ask("plain", "b.stub.test") == ["198.51.100.1"]
            assert net.ask("plain", "asker") != [net.address("asker", "front")]
        finally:
            net.resolv_conf.write_text(before)
    assert net.ask("plain", "c.example.test") == ["203.0.113.7"]


def test_internal_networks_carry_nothing_out(net: Net) -> None:
    net.host.engine("network", "create", "--internal", "jail")
    net.run("prisoner", "jail")
    net.run("mate", "jail")
    assert net.ask("prisoner", "mate") == [net.address("mate", "jail")]
    assert net.ask("prisoner", "secret.example.test") == "REFUSED"
    assert net.asked("secret.example.test") == 0


def test_own_servers(net: Net) -> None:
    """--dns is asked from the container's namespace: here another container, which the host's resolver knows not of."""
    net.run("resolver", "front")
    address = net.address("resolver", "front")
    net.run("client", "front", "--dns", address, "--dns-search", "lan.test", "--dns-option", "ndots:1")
    with answering(net, "resolver", "192.0.2.77"):
        assert net.ask("client", "any.name.test") == ["192.0.2.77"]
        assert net.ask("client", "resolver") == [address]
        assert net.ask("client", "undotted") == "NXDOMAIN"
    text = net.host.engine("exec", "client", "cat", "/etc/resolv.conf").stdout
    assert text == "nameserver 127.0.0.11\nsearch lan.test\noptions ndots:1\n"
    assert net.asked("any.name.test") == 0


@contextlib.contextmanager
def answering(net: Net, container: str, address: str) -> Iterator[None]:
    """Serve DNS at 0.0.0.0:53 in a container meanwhile, with one answer to everything."""

    def bind() -> tuple[socket.socket, socket.socket]:
        udp, tcp = socket.socket(type=socket.SOCK_DGRAM), socket.socket()
        udp.bind(("0.0.0.0", 53))
        tcp.bind(("0.0.0.0", 53))
        tcp.listen()
        return udp, tcp

    udp, tcp = call_in(net.netns(container), bind)

    def serve() -> None:
        while True:
            data, peer = udp.recvfrom(4096)
            if not data:
                return
            query = dns.message.from_wire(data)
            response = dns.message.make_response(query)
            response.answer.append(dns.rrset.from_text(query.question[0].name, 5, "IN", "A", address))
            udp.sendto(response.to_wire(), peer)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        own = udp.getsockname()[1]
        call_in(net.netns(container), lambda: socket.socket(type=socket.SOCK_DGRAM).sendto(b"", ("127.0.0.1", own)))
        thread.join(5)
        udp.close()
        tcp.close()


def test_a_container_may_serve_dns_itself(net: Net) -> None:
    net.run("pihole", "front")
    with answering(net, "pihole", "192.0.2.66"):
        address = net.address("pihole", "front")
        assert net.ask("asker", "ads.example.test", at=address) == ["192.0.2.66"]
        assert net.ask("pihole", "ads.example.test", at="127.0.0.1") == ["192.0.2.66"]
        assert net.ask("pihole", "asker") == [net.address("asker", "front")]
        assert net.ask("pihole", "d.example.test") == ["203.0.113.7"]
        assert net.ask("asker", "pihole", tcp=True) == [address]


def test_joined_containers_and_those_on_the_hosts_network(net: Net) -> None:
    net.run("web", "front")
    net.run("sidecar", "container:web")
    net.run("onhost", "host")
    assert net.ask("sidecar", "asker") == [net.address("asker", "front")]
    assert net.host.engine("exec", "sidecar", "cat", "/etc/resolv.conf").stdout.startswith("nameserver 127.0.0.11\n")
    text = net.host.engine("exec", "onhost", "cat", "/etc/resolv.conf").stdout
    assert text == net.resolv_conf.read_text()


def test_names_on_macvlan(net: Net) -> None:
    subnet = ("--subnet", "192.0.2.0/24", "--gateway", GATEWAY, "--ip-range", "192.0.2.64/27")
    net.host.engine("network", "create", "-d", "macvlan", "-o", "parent=eth0", *subnet, "lan")
    net.run("m1", "lan")
    net.run("m2", "lan", "--network-alias", "two")
    assert net.ask("m1", "two") == net.ask("m1", "m2.lan") == [net.address("m2", "lan")]
    assert net.ask("m1", "e.example.test") == ["203.0.113.7"]


def test_names_with_a_strangers_driver(net: Net) -> None:
    net.host.engine("network", "create", "-d", "ptp", "theirs")
    net.run("t1", "theirs")
    net.run("t2", "theirs", "--network-alias", "two", "--expose", "80")
    assert net.ask("t1", "two") == net.ask("t1", "t2.theirs") == [net.address("t2", "theirs")]
    assert net.ask("t1", "_80._tcp.two", "SRV") == ["0 0 80 t2."]
    assert net.ask("t1", "f.example.test") == ["203.0.113.7"]
    assert net.ask("asker", "t2") == "NXDOMAIN"


@pytest.mark.parametrize("end", ["stop_daemon", "kill_daemon"])
def test_a_new_daemon_answers_again(net: Net, end: str) -> None:
    net.run("web", "front")
    own = net.address("web", "front")
    found: list[list[str] | str] = []
    netns = net.netns("asker")

    def patient() -> None:
        """As the C library does: one socket, the question again when no answer came."""
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            sock.settimeout(0.2)
            sock.connect(("127.0.0.11", 53))
            query = dns.message.make_query("web", "A")
            for _ in range(300):
                try:
                    sock.send(query.to_wire())
                    message = dns.message.from_wire(sock.recv(4096))
                except TimeoutError:
                    continue
                found.append([record.to_text() for record in message.answer[0]])
                return

    getattr(net.host, end)()
    thread = threading.Thread(target=lambda: call_in(netns, patient))
    thread.start()
    net.host.start_daemon()
    thread.join(60)
    assert found == [[own]]
    assert net.ask("web", "asker") == [net.address("asker", "front")]
    net.run("late", "front")
    assert net.ask("web", "late") == [net.address("late", "front")]


def test_another_port_when_the_usual_one_is_taken(net: Net) -> None:
    net.run("web", "front")

    def bind() -> socket.socket:
        sock = socket.socket(type=socket.SOCK_DGRAM)
        sock.bind(("127.0.0.11", 61053))
        return sock

    netns = net.netns("web")
    net.host.stop_daemon()
    with call_in(netns, bind):
        net.host.start_daemon()
        assert net.ask("web", "asker") == net.ask("web", "asker", tcp=True) == [net.address("asker", "front")]
    net.host.restart_daemon()
    assert net.ask("web", "asker") == [net.address("asker", "front")]


def test_nothing_of_it_is_left(net: Net) -> None:
    net.run("web", "front")
    netns = net.netns("web")
    rules = net.host.run("nsenter", f"--net={netns}", "nft", "list", "ruleset").stdout
    assert rules.count("dport set 61053") == rules.count("sport set 53") == 2
    inode = netns.stat().st_ino
    net.host.engine("rm", "-f", "web")

    def holders() -> list[str]:
        daemon = net.host.daemon
        assert daemon is not None
        fds = net.host.run("ls", "-l", f"/proc/{daemon.pid}/fd").stdout
        return [line for line in fds.splitlines() if f"net:[{inode}]" in line]

    until(lambda: not holders(), "the daemon lets go of the namespace")
    assert "engine_names" not in net.host.run("nft", "list", "ruleset").stdout
