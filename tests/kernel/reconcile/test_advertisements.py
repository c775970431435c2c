"""Router advertisements: what a container sends as a router must not reach the host's settings."""

from __future__ import annotations

import socket
import struct
from pathlib import Path

import pytest
from tests.kernel.reconcile import plans
from tests.kernel.reconcile.conftest import Host

from engine.reconcile import netns
from engine.reconcile.applier import Sandbox
from engine.reconcile.probes import link_kind_supported
from engine.reconcile.reconciler import Reconciler
from engine.spec.links import Address, Bridge, Dummy, Extern, Link, Macvlan, Route, Sysctl, Veth, Vlan, Vxlan
from engine.spec.resource import Plan

CONF = Path("/proc/sys/net/ipv6/conf")


def heeds(link: str) -> list[str]:
    return [(CONF / link / switch).read_text().strip() for switch in ("accept_ra", "autoconf")]


def advertisement() -> bytes:
    """A frame with a router advertisement: default route by fe80::bad, addresses of 2001:db8:bad::/64."""
    mac, source, everybody = bytes.fromhex("02000000bad0"), "fe80::bad", "ff02::1"
    prefix = struct.pack(">BBBBIII16s", 3, 4, 64, 0xC0, 3600, 3600, 0, socket.inet_pton(10, "2001:db8:bad::"))
    body = struct.pack(">BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0) + struct.pack(">BB6s", 1, 1, mac) + prefix
    ends = socket.inet_pton(10, source) + socket.inet_pton(10, everybody)
    words = struct.unpack(f">{(40 + len(body)) // 2}H", ends + struct.pack(">II", len(body), 58) + body)
    total = sum(words)
    total = (total >> 16) + (total & 0xFFFF)
    checksum = 0xFFFF ^ (total + (total >> 16)) & 0xFFFF
    body = body[:2] + struct.pack(">H", checksum) + body[4:]
    header = struct.pack(">IHBB", 6 << 28, len(body), 58, 255) + ends
    return bytes.fromhex("333300000001") + mac + b"\x86\xdd" + header + body


def send(sandbox: Sandbox, frame: bytes) -> None:
    def opened() -> socket.socket:
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        sock.bind(("eth0", 0))
        return sock

    with netns.call_within(sandbox.path, opened) as sock:
        sock.send(frame)


def test_a_container_on_an_ipv4_only_bridge_is_no_router_of_the_host(host: Host) -> None:
    host.reconciler.apply("net:9", Plan.of(Bridge(name="br9"), Address(ns="host", link="br9", address="10.9.0.1/24")))
    sandbox = host.sandbox("s")
    endpoint = Plan.of(Veth(name="v9", peer="eth0", master="br9"), Address(link="eth0", address="10.9.0.2/24"))
    host.reconciler.apply("ep:9", endpoint, sandbox=sandbox)
    assert host.ping("10.9.0.1", sandbox)
    send(sandbox, advertisement())
    assert host.ping("10.9.0.1", sandbox)  # by the same way: the frame before has arrived
    assert host.run("ip", "-6", "route", "show", "default") == ""
    assert "2001:db8:bad" not in host.run("ip", "-6", "addr")


@pytest.mark.parametrize(
    "link",
    [
        Bridge(name="x"), Dummy(name="x"), Macvlan(name="x", parent="p0"), Vlan(name="x", parent="p0", vid=7),
        Vxlan(name="x", vni=7, local="10.7.0.1"), Veth(name="x", peer="eth0"),
        Veth(name="other", peer="x", peer_ns="host"),
    ],
    ids=lambda link: link.kind,
)  # fmt: skip
def test_every_link_of_ours_on_the_host_ignores_them_and_others_stay_as_they_are(host: Host, link: Link) -> None:
    if not link_kind_supported(link.kind):
        pytest.skip(f"this kernel has no {link.kind}")
    host.run("ip", "link", "add", "p0", "type", "bridge")
    host.run("ip", "addr", "add", "10.7.0.1/24", "dev", "p0")
    host.run("ip", "link", "set", "p0", "up")
    parent = [Extern(name="p0")] if getattr(link, "parent", None) else []
    host.reconciler.apply("net:x", Plan.of(*parent, link), sandbox=host.sandbox("s"))
    assert heeds("x") == ["0", "0"]
    assert heeds("p0") == heeds("default") == ["1", "1"]
    assert ",UP" in host.run("ip", "link", "show", "x")
    assert host.reconciler.diff(sandboxes=True) == []


def repaired(reconciler: Reconciler) -> None:
    reconciler.repair()
    assert heeds("br9") == ["0", "0"]
    assert reconciler.diff() == []


def test_a_link_of_ours_that_heeds_them_is_a_difference_and_repaired(host: Host) -> None:
    host.reconciler.apply("net:9", plans.network())
    host.run("sysctl", "-qw", "net.ipv6.conf.br9.accept_ra=2")
    assert [d.fields for d in host.reconciler.diff()] == [{"heeds_routers": (False, True)}]
    repaired(host.reconciler)
    host.run("ip", "link", "del", "br9")
    repaired(host.reconciler)


def test_a_shim_that_was_lost_ignores_them_from_its_beginning(host: Host) -> None:
    host.run("ip", "link", "add", "p0", "type", "bridge")
    host.run("ip", "link", "set", "p0", "up")
    host.reconciler.apply("net:9", Plan.of(Extern(name="p0"), Macvlan(name="br9", parent="p0")))
    to_container = Plan.of(Route(ns="host", destination="10.5.0.2/32", link="br9"))
    host.reconciler.apply("ep:9", plans.macvlan(2) + to_container, sandbox=host.sandbox("s"))
    host.run("ip", "link", "del", "br9")
    repaired(host.reconciler)
    assert "10.5.0.2" in host.run("ip", "route")


def test_a_container_ignores_them_unless_it_asks(host: Host) -> None:
    host.reconciler.apply("net:9", plans.network())
    asking = Sysctl(name="net.ipv6.conf.{link}.accept_ra", value="1", link="eth0")
    for number, more in ((2, []), (3, [asking])):
        sandbox = host.sandbox(f"s{number}")
        host.reconciler.apply(f"ep:{number}", plans.endpoint(number, 9, *more), sandbox=sandbox)
        seen = host.run("cat", CONF / "eth0/accept_ra", CONF / "eth0/autoconf", sandbox=sandbox).split()
        assert seen == ["1" if more else "0", "0"]
