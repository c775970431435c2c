"""Addresses from a DHCP server on the wire: dnsmasq on the other machine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from engine.spec.errors import Conflict, DeadlineExceeded, InvalidParameter
from engine.spec.links import Address

from .test_parent import until

pytestmark = pytest.mark.skipif(shutil.which("dnsmasq") is None, reason="dnsmasq is not installed (dnsmasq-base)")


class Server:
    """A DHCP server on the other machine."""

    def __init__(self, lan, directory: Path) -> None:
        self.lan, self.log = lan, directory / "dnsmasq.log"
        self.leases = directory / "leases"

    @contextmanager
    def running(self, *options: str, range: str = "192.0.2.100,192.0.2.109,1h") -> Iterator[None]:
        """Serve meanwhile. Each time it has forgotten its leases."""
        self.leases.unlink(missing_ok=True)
        start = len(self.said)
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                ["nsenter", f"--net={self.lan.path}", "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null",
                 "--port=0", "--interface=lan0", "--bind-dynamic", "--no-ping", "--log-dhcp", "--log-facility=-",
                 f"--dhcp-leasefile={self.leases}", f"--dhcp-range={range}", "--dhcp-authoritative", "--user=root",
                 "--pid-file=", *options],
                stdout=log, stderr=log,
            )  # fmt: skip
            try:
                until(lambda: "IP range" in self.said[start:] or process.poll() is not None, "the server")
                assert process.poll() is None, self.said
                yield
            finally:
                process.kill()
                process.wait(10)

    @property
    def said(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def count(self, word: str) -> int:
        """Return how many messages of a kind were seen."""
        return self.said.count(f"{word}(lan0)")


@pytest.fixture
def server(lan, tmp_path: Path) -> Server:
    return Server(lan, tmp_path)


@pytest.fixture
def home(host, lan) -> Iterator[str]:
    host.networks.create("home", "macvlan", options={"parent": "p0"}, ipam_driver="dhcp", ipam_options={"timeout": "2"})
    yield "home"
    host.networks.close()


def seen(run, endpoint) -> set[str]:
    """Return a container's addresses and the next hop of its default route."""
    link = json.loads(run("ip", "-j", "-4", "address", "show", "eth0", namespace=endpoint.sandbox))
    routes = json.loads(run("ip", "-j", "route", "show", "default", namespace=endpoint.sandbox))
    addresses = {f"{a['local']}/{a['prefixlen']}" for entry in link for a in entry.get("addr_info", ())}
    return addresses | {route["gateway"] for route in routes}


def test_a_lease_is_got_used_and_given_back(host, lan, run, ping, server, home):
    host.warm()
    before = host.snapshot()
    with server.running("--dhcp-option=option:dns-server,192.0.2.53", "--domain=lan.example"):
        a = host.container("a", home)
        assert a.address(4).startswith("192.0.2.10")
        assert seen(run, a) == {a.addresses[0], "192.0.2.1"}
        assert (a.lease.dns, a.lease.domain, a.lease.seconds) == (("192.0.2.53",), "lan.example", 3600)
        assert ping(a, "192.0.2.1")
        assert ping("/proc/thread-self/ns/net", a.address(4))  # over the shim
        row = server.leases.read_text().split()
        assert row[1:4] == [a.mac, a.address(4), "a"]
        assert host.reconciler.diff(sandboxes=True) == []
        host.end(a)
        until(lambda: server.count("DHCPRELEASE") == 1 and not server.leases.read_text(), "the release")
        again = host.container("a", home)
        assert again.address(4) == a.address(4)  # the server knows the container again
        host.networks.detach(again.container.id, home)
        until(lambda: server.count("DHCPRELEASE") == 2, "the release")
        host.end(again)
        host.networks.sandbox_remove(again.container.id)
    assert host.snapshot() == before


def test_a_server_that_needs_no_second_question(host, lan, run, server, home):
    with server.running("--dhcp-rapid-commit"):
        a = host.container("a", home)
        assert seen(run, a) == {a.addresses[0], "192.0.2.1"}
        assert (server.count("DHCPDISCOVER"), server.count("DHCPREQUEST")) == (1, 0)
        host.end(a)


def test_nobody_answers(host, lan, home):
    host.warm()
    before = host.snapshot()
    with pytest.raises(DeadlineExceeded, match=r"no DHCP server gave container a an address on network home") as caught:
        host.container("a", home)
    assert "within 2 s" in caught.value.why
    assert host.snapshot() == before


def test_the_server_s_addresses_are_not_ours_to_choose(host, lan, server, home):
    with pytest.raises(InvalidParameter, match="has no subnets"):
        host.networks.create("bad", "macvlan", options={"parent": "p0"}, ipam_driver="dhcp",
                             ipam=[{"Subnet": "192.0.2.0/24"}])  # fmt: skip
    with server.running():
        a = host.container("a", home, ip="192.0.2.107")
        assert a.address(4) == "192.0.2.107"
        with pytest.raises(Conflict, match=r"does not give the address 192\.0\.2\.107"):
            host.container("b", home, ip="192.0.2.107")
        host.end(a)


def test_an_address_that_a_stranger_has_is_declined(host, lan, server, home):
    with server.running(range="192.0.2.100,192.0.2.101,1h"):
        a = host.container("a", home)
        used = a.address(4)
        host.end(a)
        until(lambda: server.count("DHCPRELEASE") == 1, "the release")
        lan.take(f"{used}/24")
        b = host.container("a", home)
        assert server.count("DHCPDECLINE") >= 1
        assert b.address(4) in {"192.0.2.100", "192.0.2.101"} - {used}
        host.end(b)


def age(host, container_id: str, seconds: float):
    """Let a container's lease be so old (a server's shortest lease is two minutes), and return its endpoint."""
    (now,) = host.networks.attachments(container_id)
    old = now.model_copy(update={"lease": replace(now.lease, obtained=time.time() - seconds)})
    host.networks._store.put_endpoint(old)
    host.networks._attaching.leasing.track(old)
    return old


def test_a_lease_is_renewed_and_an_address_that_changes_reaches_the_container(host, lan, run, ping, server, home):
    with server.running():
        a = host.container("a", home)
        for times, seconds in ((2, 1801), (3, 3200)):  # after T1 that server is asked, after T2 all are
            age(host, a.container.id, seconds)
            until(lambda times=times: server.count("DHCPACK") == times, "more time")
            until(lambda: host.networks.attachments(a.container.id)[0].lease.obtained > time.time() - 60, "the lease")
        assert host.networks.attachments(a.container.id)[0].addresses == a.addresses
        assert server.count("DHCPDISCOVER") == 1
    with server.running(range="192.0.2.120,192.0.2.129,1h"):
        age(host, a.container.id, 1801)
        until(lambda: any(x.startswith("192.0.2.12") for x in seen(run, a)), "the new address")
        assert server.count("DHCPNAK") == 1
        until(lambda: host.networks.attachments(a.container.id)[0].address(4).startswith("192.0.2.12"), "the record")
        (now,) = host.networks.attachments(a.container.id)
        until(lambda: seen(run, a) == {now.addresses[0], "192.0.2.1"}, "the routes")
        assert ping(lan.path, now.address(4))
        assert ping("/proc/thread-self/ns/net", now.address(4))
        until(lambda: host.reconciler.diff(sandboxes=True) == [], "agreement")
        host.end(now)


def test_leases_outlive_the_daemon(host, lan, run, server, home):
    with server.running():
        a = host.container("a", home)
        host.networks.close()
        host.reconciler.close()
        host.state.close()
        host.start()
        host.networks.restore([a.container.id])
        until(lambda: server.count("DHCPREQUEST") == 2, "the question whether the lease holds")
        (now,) = host.networks.attachments(a.container.id)
        assert now.addresses == a.addresses
        host.networks.close()
        host.reconciler.close()
        host.state.close()
    with server.running(range="192.0.2.120,192.0.2.129,1h"):
        host.start()
        host.networks.restore([a.container.id])
        until(lambda: any(x.startswith("192.0.2.12") for x in seen(run, a)), "another address")
        (now,) = host.networks.attachments(a.container.id)
        host.end(now)
        host.networks.close()


def test_the_lease_of_a_container_that_ended_without_a_daemon_is_given_back(host, lan, server, home):
    with server.running():
        a = host.container("a", home)
        host.networks.close()
        host.reconciler.close()
        host.state.close()
        host.start()
        host.networks.restore([])
        until(lambda: server.count("DHCPRELEASE") == 1, "the release")
        assert host.networks.attachments(a.container.id) == []


def test_a_lease_that_ends_is_not_used_any_longer(host, lan, run, server, home, monkeypatch):
    with server.running():
        a = host.container("a", home)
    monkeypatch.setattr("engine.network.leasing.ANSWER_SECONDS", 0.3)
    age(host, a.container.id, 3601)
    until(lambda: not seen(run, a), "the address to go")
    (now,) = host.networks.attachments(a.container.id)
    assert (now.addresses, now.lease) == ((), None)
    plan = host.networks.plan(home)[1].plan
    assert not list(plan.by_kind(Address))
    host.end(now)


def test_a_bridge_with_a_port_on_the_wire(host, lan, run, ping, server):
    """The operator plugs the wire into the network's own bridge; a first container without address holds it."""
    host.networks.create("sw", options={"name": "sw0"}, ipam_driver="dhcp", ipam_options={"timeout": "8"})
    with server.running():
        connect = subprocess.Popen(
            ["nsenter", f"--net=/proc/{os.getpid()}/task/{threading.get_native_id()}/ns/net", "sh", "-c",
             "until ip link set p0 master sw0 2>/dev/null; do sleep 0.05; done"],
        )  # fmt: skip
        try:
            a = host.container("a", "sw")
        finally:
            connect.kill()
            connect.wait()
        assert a.address(4).startswith("192.0.2.10")
        assert ping(a, "192.0.2.1")
        host.end(a)
    host.networks.close()


def test_an_adopted_bridge(host, lan, run, ping, server):
    """The operator's own bridge, with a port on the wire: containers are machines of that wire."""
    run("ip", "link", "add", "lab0", "type", "bridge")
    run("ip", "link", "set", "lab0", "up")
    run("ip", "link", "set", "p0", "master", "lab0")
    host.networks.create("lab", options={"name": "lab0", "adopt": "true"}, ipam_driver="dhcp")
    with server.running():
        a, b = host.container("a", "lab"), host.container("b", "lab")
        assert a.address(4).startswith("192.0.2.10")
        assert a.address(4) != b.address(4)
        assert ping(a, "192.0.2.1")
        for endpoint in (a, b):
            host.end(endpoint)
        until(lambda: server.count("DHCPRELEASE") == 2, "the leases to be given back")
    host.networks.close()
    assert "lab0" in run("ip", "-o", "link", "show", "lab0")


def test_the_end_of_the_daemon_does_not_wait_for_a_server(host, lan, run, server, home, monkeypatch):
    """Its successor asks whether leases hold, nobody answers, and it is stopped meanwhile: the lease goes on."""
    with server.running():
        a = host.container("a", home)
    host.networks.close()
    host.reconciler.close()
    host.state.close()
    monkeypatch.setattr("engine.network.leasing.ANSWER_SECONDS", 120.0)
    host.start()
    host.networks.restore([a.container.id])
    until(lambda: host.networks._attaching.leasing._due.get(a.id) is None, "the question")
    begin = time.monotonic()
    host.networks.close()
    assert time.monotonic() - begin < 60, "two minutes are what one question may take here"
    (now,) = host.networks.attachments(a.container.id)
    assert now.lease == a.lease
    host.end(now)
