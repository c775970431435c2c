"""The host and its macvlan containers reach each other."""

from __future__ import annotations

import json

import pytest

from .test_conflicts import SUBNETS


@pytest.fixture
def home(host, lan):
    return host.networks.create("home", "macvlan", options={"parent": "p0"}, ipam=SUBNETS)


def test_the_host_reaches_containers_and_they_reach_it(host, lan, ping, home):
    host.warm()
    before = host.snapshot()
    a, b = host.container("a", "home"), host.container("b", "home")
    here = "/proc/thread-self/ns/net"
    for target in (a.address(4), a.address(6), b.address(4)):
        assert ping(here, target)
    for target in ("192.0.2.2", "2001:db8:2::2", "192.0.2.1", b.address(4), b.address(6)):
        assert ping(a, target)
    assert host.reconciler.diff(sandboxes=True) == []
    host.end(a)
    assert ping(here, b.address(4))
    host.end(b)
    assert host.snapshot() == before


def test_the_wire_keeps_the_parents_hardware_address_for_the_host(host, lan, run, ping, home):
    a = host.container("a", "home")
    here = "/proc/thread-self/ns/net"
    mac = json.loads(run("ip", "-j", "link", "show", "p0"))[0]["address"]
    lan.run("ip", "neighbour", "flush", "dev", "lan0")
    assert ping(here, a.address(4))
    assert ping(a, "192.0.2.2")
    for address in ("192.0.2.2", "2001:db8:2::2"):
        assert ping(lan.path, address)
        seen = json.loads(lan.run("ip", "-j", "neighbour", "show", address))
        assert [n["lladdr"] for n in seen] == [mac]
    host.end(a)


def test_without_a_shim_they_do_not(host, lan, ping, run):
    host.networks.create("home", "macvlan", options={"parent": "p0", "shim": "false"}, ipam=SUBNETS)
    links = run("ip", "-br", "link")
    a = host.container("a", "home")
    assert run("ip", "-br", "link") == links
    assert not ping(a, "192.0.2.2", tries=1)
    assert ping(a, "192.0.2.1")
    host.end(a)


def test_two_networks_on_one_parent(host, lan, ping, home):
    other = [{"Subnet": "198.18.7.0/24"}]
    host.networks.create("other", "macvlan", options={"parent": "p0"}, ipam=other)
    a, b = host.container("a", "home"), host.container("b", "other")
    here = "/proc/thread-self/ns/net"
    assert ping(here, a.address(4))
    assert ping(here, b.address(4))  # its subnet has no address of the host's: a route leads there
    assert ping(b, "192.0.2.2")
    assert host.reconciler.diff(sandboxes=True) == []
    host.end(a)
    assert ping(here, b.address(4))
    host.end(b)


def test_an_address_that_the_host_got_later_is_known_at_the_next_attachment(host, lan, run, ping):
    run("ip", "address", "flush", "dev", "p0", "scope", "global")
    host.networks.create("home", "macvlan", options={"parent": "p0"}, ipam=SUBNETS)
    a = host.container("a", "home")
    run("ip", "address", "add", "192.0.2.2/24", "dev", "p0")
    b = host.container("b", "home")
    assert ping("/proc/thread-self/ns/net", b.address(4))
    assert ping(b, a.address(4))
    host.end(a)
    host.end(b)
