"""What the firewall lets through: real traffic between real namespaces."""

from __future__ import annotations

import ctypes
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest
from tests.kernel.reconcile import plans
from tests.kernel.reconcile.conftest import TAG, Host
from tests.kernel.snapshot import assert_same, network

from engine.reconcile import conntrack, netns
from engine.reconcile.applier import Sandbox
from engine.spec.errors import ApplyFailed
from engine.spec.firewall import Masquerade, PortMap
from engine.spec.resource import Plan

LAN_HOST, LAN_PEER = "198.51.100.1", "198.51.100.2"
LAN_HOST6, LAN_PEER6 = "2001:db8::1", "2001:db8::2"


def within(sandbox: Sandbox | None, function: Callable[[], object]):
    """Call a function in a thread that is in a sandbox (None: on the test's host)."""
    result: list[object] = []

    def run() -> None:
        if sandbox:
            with netns.opened(sandbox.path) as fd:
                assert ctypes.CDLL(None).setns(fd, 0x40000000) == 0
        result.append(function())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(20)
    return result[0]


@contextmanager
def server(sandbox: Sandbox | None, port: int, protocol: str = "tcp") -> Iterator[None]:
    """Answer each connection, or datagram, with the address that it seems to come from."""
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    sock = within(sandbox, lambda: socket.socket(socket.AF_INET6, kind))
    assert isinstance(sock, socket.socket)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("::", port))
    sock.settimeout(0.05)
    if protocol == "tcp":
        sock.listen(8)
    end = threading.Event()

    def serve() -> None:
        while not end.is_set():
            try:
                if protocol == "tcp":
                    peer, address = sock.accept()
                    with peer:
                        peer.sendall(address[0].removeprefix("::ffff:").encode())
                else:
                    _, address = sock.recvfrom(100)
                    sock.sendto(address[0].removeprefix("::ffff:").encode(), address)
            except TimeoutError:
                continue

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join(5)
        sock.close()


def ask(address: str, port: int, sandbox: Sandbox | None = None, protocol: str = "tcp", wait: float = 2) -> str | None:
    """Return the source address that a server sees; None if there is no answer."""
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    family = socket.AF_INET6 if ":" in address else socket.AF_INET

    def call() -> str | None:
        with socket.socket(family, kind) as sock:
            sock.settimeout(wait)
            try:
                sock.connect((address, port))
                sock.send(b"?")
                return sock.recv(100).decode()
            except OSError:
                return None

    answer = within(sandbox, call)
    assert answer is None or isinstance(answer, str)
    return answer


def lan(host: Host) -> Sandbox:
    """Give the host an uplink, and return what is on the other side: a machine that knows no route to containers."""
    outside = host.sandbox("lan")
    host.run("ip", "link", "add", "up0", "type", "veth", "peer", "name", "out0", "netns", outside.path)
    for address in (f"{LAN_HOST}/24", f"{LAN_HOST6}/64"):
        host.run("ip", "address", "add", address, "dev", "up0", *(["nodad"] if ":" in address else []))
    for address in (f"{LAN_PEER}/24", f"{LAN_PEER6}/64"):
        nodad = ["nodad"] if ":" in address else []
        host.run("ip", "address", "add", address, "dev", "out0", *nodad, sandbox=outside)
    host.run("ip", "link", "set", "up0", "up")
    host.run("ip", "link", "set", "out0", "up", sandbox=outside)
    host.run("ip", "route", "add", "default", "via", LAN_PEER)
    assert host.ping(LAN_HOST6, outside)
    return outside


def container(host: Host, i: int, n: int = 9, *more: PortMap, **port: bool) -> Sandbox:
    if f"net:{n}" not in host.reconciler.owners():
        host.reconciler.apply(f"net:{n}", plans.network(n))
    sandbox = host.sandbox(f"c{n}-{i}")
    host.reconciler.apply(f"ep:{n}:{i}", plans.endpoint(i, n, *more, **port), sandbox=sandbox)
    return sandbox


def test_a_published_port_is_reached_from_everywhere(host: Host) -> None:
    outside = lan(host)
    ports = [plans.port(8080, 2), plans.port(8080, 2, target="fd09::2")]
    a, neighbour, other = container(host, 2, 9, *ports), container(host, 3), container(host, 2, 8)
    with server(a, 80):
        assert ask(LAN_HOST, 8080, outside) == LAN_PEER  # the container sees who asks
        assert ask(LAN_HOST6, 8080, outside) == LAN_PEER6
        assert ask("127.0.0.1", 8080) == "10.9.0.1"
        assert ask(LAN_HOST, 8080) == LAN_HOST
        assert ask("10.9.0.1", 8080) == "10.9.0.1"
        assert ask(LAN_HOST6, 8080) == LAN_HOST6
        assert ask(LAN_HOST, 8080, neighbour) == "10.9.0.1"
        assert ask("10.9.0.1", 8080, neighbour) == "10.9.0.1"
        assert ask("fd09::1", 8080, neighbour) == "fd09::1"
        assert ask(LAN_HOST, 8080, a) == "10.9.0.1"  # hairpin: a container by its own published port
        assert ask(LAN_HOST, 8080, other)
        assert ask(LAN_HOST6, 8080, other)
        assert ask("10.9.0.2", 80, neighbour) == "10.9.0.3"
        assert ask(LAN_HOST, 8081, outside, wait=0.3) is None
        host.reconciler.remove("ep:9:2")
        assert ask(LAN_HOST, 8080, outside, wait=0.3) is None


def test_ports_of_one_host_address_and_ranges(host: Host) -> None:
    outside = lan(host)
    ports = [
        plans.port(8080, 2, host_ip=LAN_HOST),
        plans.port(8090, 2, host_ip="127.0.0.1"),
        plans.port(9000, 2, target_port=9000, count=10),
        plans.port(7000, 2, target_port=9000, count=10),
        plans.port(9100, 2, target_port=9100, count=10, host_ip=LAN_HOST),
    ]
    a = container(host, 2, 9, *ports)
    with ExitStack() as stack:
        for number in (80, 9007, 9109):
            stack.enter_context(server(a, number))
        assert ask(LAN_HOST, 8080, outside) == LAN_PEER
        assert ask("127.0.0.1", 8080, wait=0.3) is None
        assert ask("127.0.0.1", 8090)
        assert ask(LAN_HOST, 8090, outside, wait=0.3) is None
        assert ask(LAN_HOST, 9007, outside) == LAN_PEER
        assert ask(LAN_HOST, 7007, outside) == LAN_PEER
        assert ask("127.0.0.1", 9007)
        assert ask(LAN_HOST, 9109, outside) == LAN_PEER
        assert ask("127.0.0.1", 9109, wait=0.3) is None
    assert host.reconciler.diff() == []
    before = network()
    host.reconciler.apply("x", Plan.of(plans.port(9050, 3, target_port=9050, count=10)))
    host.reconciler.remove("x")
    assert_same(before, network())


def test_an_exact_address_goes_before_any_address(host: Host) -> None:
    outside = lan(host)
    a, b = container(host, 2, 9, plans.port(8080, 2)), container(host, 3, 9, plans.port(8080, 3, host_ip="127.0.0.1"))
    with server(a, 80):
        assert ask(LAN_HOST, 8080, outside) == LAN_PEER
        assert ask("127.0.0.1", 8080, wait=0.3) is None
    with server(b, 80):
        assert ask("127.0.0.1", 8080)


def test_nobody_on_the_wire_reaches_a_port_of_127_0_0_1(host: Host) -> None:
    outside = lan(host)
    a = container(host, 2, 9, plans.port(8090, 2, host_ip="127.0.0.1"))
    host.run("ip", "route", "add", "127.0.0.1/32", "via", LAN_HOST, "table", "5", sandbox=outside)
    host.run("sysctl", "-qw", "net.ipv4.conf.all.route_localnet=1", sandbox=outside)
    host.run("ip", "rule", "add", "pref", "0", "to", "127.0.0.1", "lookup", "5", sandbox=outside)
    host.run("ip", "rule", "del", "pref", "0", "lookup", "local", sandbox=outside)
    host.run("ip", "rule", "add", "pref", "1", "lookup", "local", sandbox=outside)
    host.run("sysctl", "-qw", "net.ipv4.conf.all.route_localnet=1")
    with server(a, 80), server(None, 8091):
        assert ask("127.0.0.1", 8090)
        assert ask("127.0.0.1", 8090, outside, wait=0.3) is None
        assert ask("127.0.0.1", 8091, outside, wait=0.3) is None


def test_udp_and_that_a_flow_follows_the_port(host: Host) -> None:
    outside = lan(host)
    a = container(host, 2, 9, plans.port(53, 2, protocol="udp", target_port=53))
    b = container(host, 3)
    with server(a, 53, "udp"), server(b, 53, "udp"), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as _:
        assert ask(LAN_HOST, 53, outside, "udp") == LAN_PEER
        assert ask("127.0.0.1", 53, None, "udp") == "10.9.0.1"
        client = within(outside, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        assert isinstance(client, socket.socket)
        client.settimeout(0.5)
        client.connect((LAN_HOST, 53))
        client.send(b"?")
        assert client.recv(10)
        host.reconciler.apply("ep:9:2", plans.endpoint(2), sandbox=a)
        changed = plans.endpoint(3, 9, plans.port(53, 3, protocol="udp", target_port=53))
        host.reconciler.apply("ep:9:3", changed, sandbox=b)
        time.sleep(0.1)  # flows are forgotten behind the caller's back
        flows = conntrack.forget(plans.port(53, 2, protocol="udp", target_port=53))
        assert flows == 0, "the former target's flows are still known"
        host.run("ip", "link", "set", "eth0", "down", sandbox=a)
        client.send(b"?")
        assert client.recv(100).decode() == LAN_PEER
        client.close()


def test_segments_are_kept_apart(host: Host) -> None:
    outside = lan(host)
    a, b, other = container(host, 2), container(host, 3), container(host, 2, 8)
    host.run("ip", "route", "add", "10.9.0.0/24", "via", LAN_HOST, sandbox=outside)
    host.run("ip", "-6", "route", "add", "fd09::/64", "via", LAN_HOST6, sandbox=outside)
    with server(a, 80):
        assert ask("10.9.0.2", 80, b) == "10.9.0.3"
        assert ask("10.9.0.2", 80) == "10.9.0.1"
        assert ask("10.9.0.2", 80, other, wait=0.3) is None
        assert ask("fd09::2", 80, other, wait=0.3) is None
        assert ask("10.9.0.2", 80, outside, wait=0.3) is None  # what is not published is not reached from outside
        assert ask("fd09::2", 80, outside, wait=0.3) is None
    with server(outside, 80):
        assert ask(LAN_PEER, 80, a) == LAN_HOST
        assert ask(LAN_PEER6, 80, a) == LAN_HOST6


def test_an_unprotected_segment_is_open_to_whoever_has_a_route(host: Host) -> None:
    outside = lan(host)
    host.reconciler.apply("net:9", plans.network(unprotected=(4,)))
    a, other = container(host, 2), container(host, 2, 8)
    host.run("ip", "route", "add", "10.9.0.0/24", "via", LAN_HOST, sandbox=outside)
    host.run("ip", "-6", "route", "add", "fd09::/64", "via", LAN_HOST6, sandbox=outside)
    with server(a, 80):
        assert ask("10.9.0.2", 80, outside) == LAN_PEER
        assert ask("fd09::2", 80, outside, wait=0.3) is None
        assert ask("10.9.0.2", 80, other, wait=0.3) is None
        host.reconciler.apply("net:9", plans.network())
        assert ask("10.9.0.2", 80, outside, wait=0.3) is None
    with server(outside, 80):
        assert ask(LAN_PEER, 80, a) == LAN_HOST


def test_an_internal_segment_has_no_outside(host: Host) -> None:
    outside = lan(host)
    host.reconciler.apply("net:9", plans.network(internal=True))
    a, b, other = container(host, 2), container(host, 3), container(host, 2, 8, plans.port(8080, 2, 8))
    with server(outside, 80), server(other, 80), server(a, 80):
        assert ask(LAN_PEER, 80, a, wait=0.3) is None
        assert ask(LAN_HOST, 8080, a, wait=0.3) is None
        assert ask("10.9.0.2", 80, b) == "10.9.0.3"
        assert ask("10.9.0.2", 80) == "10.9.0.1"
        host.reconciler.apply("net:9", plans.network())
        assert ask(LAN_PEER, 80, a) == LAN_HOST


def test_a_segment_whose_containers_do_not_reach_each_other(host: Host) -> None:
    host.reconciler.apply("net:9", plans.network(inter_container=False))
    a = container(host, 2, 9, plans.port(8080, 2), isolated=True)
    b = container(host, 3, 9, isolated=True)
    for sandbox, via in ((a, "10.9.0.3"), (b, "10.9.0.2")):  # also not by way of the host
        host.run("ip", "route", "add", f"{via}/32", "via", "10.9.0.1", sandbox=sandbox)
    with server(a, 80):
        assert ask("10.9.0.2", 80, b, wait=0.3) is None
        assert ask("10.9.0.2", 80) == "10.9.0.1"
        assert ask("127.0.0.1", 8080) == "10.9.0.1"
        # A sibling's published port depends on br_netfilter: with it, the rewritten packet is bridged, and stopped.


def test_the_operator_filters_by_the_published_port(host: Host) -> None:
    outside = lan(host)
    a = container(host, 2, 9, plans.port(8080, 2), plans.port(8081, 2))
    host.run("nft", "add", "rule", "inet", TAG.table, "user", "tcp", "dport", "8080", "drop")
    with server(a, 80):
        assert ask(LAN_HOST, 8080, outside, wait=0.3) is None
        assert ask(LAN_HOST, 8081, outside) == LAN_PEER


def dockers_network(host: Host, link: str, subnet: str) -> Sandbox:
    """Make a bridge with one container as dockerd does; `subnet` is the first three numbers."""
    inside = host.sandbox(link)
    host.run("ip", "link", "add", link, "type", "bridge")
    host.run("ip", "link", "add", f"v{link}", "type", "veth", "peer", "name", "eth0", "netns", inside.path)
    host.run("ip", "link", "set", f"v{link}", "up", "master", link)
    host.run("ip", "address", "add", f"{subnet}.1/24", "dev", link)
    host.run("ip", "link", "set", link, "up")
    host.run("ip", "address", "add", f"{subnet}.2/24", "dev", "eth0", sandbox=inside)
    host.run("ip", "link", "set", "eth0", "up", sandbox=inside)
    host.run("ip", "route", "add", "default", "via", f"{subnet}.1", sandbox=inside)
    return inside


DOCKERS_RULES = """
table ip filter {
    chain DOCKER-USER { ip daddr 198.51.100.2 tcp dport 81 drop; return; }
    chain DOCKER { iifname != "docker0" oifname "docker0" ip daddr 172.17.0.2 tcp dport 82 accept; }
    chain DOCKER-ISOLATION-STAGE-1 {
        oifname "inside" ip saddr != 172.18.0.0/24 drop
        iifname "inside" ip daddr != 172.18.0.0/24 drop
        return
    }
    chain FORWARD {
        type filter hook forward priority filter; policy drop;
        jump DOCKER-USER
        jump DOCKER-ISOLATION-STAGE-1
        oifname "docker0" ct state established,related accept
        oifname "docker0" jump DOCKER
        iifname "docker0" oifname != "docker0" accept
    }
}
"""
"""Those of dockerd 20.10, which leaves it to the policy to keep others out; an operator's rule in DOCKER-USER."""


def test_beside_dockerd(host: Host) -> None:
    outside = lan(host)
    dockers, inside = dockers_network(host, "docker0", "172.17.0"), dockers_network(host, "inside", "172.18.0")
    (host.path / "rules").write_text(DOCKERS_RULES)
    host.run("nft", "-f", host.path / "rules")
    theirs = host.run("nft", "list", "table", "ip", "filter")
    a = container(host, 2, 9, plans.port(8080, 2))
    with ExitStack() as stack:
        for place, port in ((a, 80), (outside, 80), (outside, 81), (dockers, 80), (dockers, 82), (inside, 80)):
            stack.enter_context(server(place, port))
        assert ask(LAN_HOST, 8080, outside) == LAN_PEER
        assert ask(LAN_PEER, 80, a) == LAN_HOST
        assert ask(LAN_PEER, 81, a, wait=0.3) is None  # what the operator closed in DOCKER-USER
        assert ask("172.17.0.2", 80, a, wait=0.3) is None  # what dockerd's policy closes
        assert ask("172.18.0.2", 80, a, wait=0.3) is None
        assert ask(LAN_HOST, 8080, inside, wait=0.3) is None
        assert ask("172.17.0.2", 82, a) == "172.17.0.1"  # what dockerd opens
        assert ask(LAN_HOST, 8080, dockers) == "172.17.0.2"
        host.run("nft", "flush ruleset")  # dockerd is restarted, and has one more network
        assert host.reconciler.repair().ok
        dockers = dockers_network(host, "br-custom", "172.19.0")
        (host.path / "rules").write_text(DOCKERS_RULES.replace("docker0", "br-custom"))
        host.run("nft", "-f", host.path / "rules")
        stack.enter_context(server(dockers, 80))
        wrong = {"rule in ip filter FORWARD": (True, False), "links of dockerd": (True, False)}
        assert [d.fields for d in host.reconciler.diff()] == [wrong]
        assert host.reconciler.repair().ok
        assert host.reconciler.collect() == []
        assert ask(LAN_HOST, 8080, outside) == LAN_PEER
        assert ask("172.19.0.2", 80, a, wait=0.3) is None
    for owner in ("ep:9:2", "net:9"):
        host.reconciler.remove(owner)
    assert len(host.reconciler.collect()) == 2
    assert host.run("nft", "list", "table", "ip", "filter") == theirs.replace("docker0", "br-custom")
    assert host.run("nft", "list", "tables").split() == ["table", "ip", "filter"]


def test_the_rule_of_an_older_version_leaves_docker_user(host: Host) -> None:
    lan(host)
    container(host, 2, 9)
    (host.path / "rules").write_text(DOCKERS_RULES)
    host.run("nft", "-f", host.path / "rules")
    host.run("nft", "insert", "rule", "ip", "filter", "DOCKER-USER", "accept", "comment", f'"{TAG.table}"')
    assert host.reconciler.repair().ok
    assert TAG.table not in host.run("nft", "list", "chain", "ip", "filter", "DOCKER-USER")
    assert TAG.table in host.run("nft", "list", "chain", "ip", "filter", "FORWARD")


def test_beside_a_firewall_that_drops_by_default(host: Host) -> None:
    """ufw, or anybody's `iptables -P FORWARD DROP`: its rules stand, its policy does not hit containers."""
    outside = lan(host)
    host.run("nft", "add table ip filter")
    host.run("nft", "add chain ip filter FORWARD { type filter hook forward priority filter; policy drop; }")
    host.run("nft", "add rule ip filter FORWARD tcp dport 81 drop")
    theirs = host.run("nft", "list", "table", "ip", "filter")
    a = container(host, 2, 9, plans.port(8080, 2), plans.port(8081, 2, target_port=81))
    with server(a, 80), server(a, 81), server(outside, 80):
        assert ask(LAN_HOST, 8080, outside) == LAN_PEER
        assert ask(LAN_PEER, 80, a) == LAN_HOST
        assert ask(LAN_HOST, 8081, outside, wait=0.3) is None
        for change in ("add rule ip filter FORWARD tcp dport 82 drop", "flush chain ip filter FORWARD"):
            host.run("nft", change)
            assert [d.fields for d in host.reconciler.diff()] == [{"rule in ip filter FORWARD": (True, False)}]
            assert host.reconciler.repair().ok
            assert host.reconciler.diff() == []
            assert ask(LAN_HOST, 8080, outside) == LAN_PEER
        host.run("nft", "insert rule ip filter FORWARD tcp dport 81 drop")
        assert ask(LAN_HOST, 8081, outside, wait=0.3) is None
    for owner in ("ep:9:2", "net:9"):
        host.reconciler.remove(owner)
    assert len(host.reconciler.collect()) == 2
    assert host.run("nft", "list", "table", "ip", "filter") == theirs


def test_forwarding_keeps_a_default_route_that_was_learned(host: Host) -> None:
    lan(host)
    host.run("sysctl", "-qw", "net.ipv6.conf.up0.accept_ra=1")
    host.reconciler.apply("net:9", plans.network())
    assert host.run("cat", "/proc/sys/net/ipv6/conf/up0/accept_ra").strip() == "2"
    assert host.run("cat", "/proc/sys/net/ipv6/conf/all/forwarding").strip() == "1"


def test_a_subnet_that_overlaps(host: Host) -> None:
    host.reconciler.apply("net:9", plans.network())
    before = network()
    with pytest.raises(ApplyFailed, match=r"masquerade .*overlaps with an existing one"):
        host.reconciler.apply("net:1", Plan.of(Masquerade(subnet="10.44.0.0/24"), Masquerade(subnet="10.0.0.0/8")))
    assert_same(before, network())


def test_two_engines_side_by_side(host: Host) -> None:
    from engine.reconcile.applier import Tag
    from engine.reconcile.appliers import network_appliers
    from engine.reconcile.reconciler import Reconciler

    tag = Tag("00000001", 0x00000101, "engine_00000001")
    second = Reconciler(tag, network_appliers(tag))
    host.reconcilers.append(second)
    container(host, 2, 9, plans.port(8080, 2))
    before = network()
    second.apply("net:8", plans.network(8))
    assert second.collect() == []
    assert host.reconciler.collect() == []
    assert second.diff() == host.reconciler.diff() == []
    second.remove("net:8")
    second.collect()
    assert_same(before, network())
