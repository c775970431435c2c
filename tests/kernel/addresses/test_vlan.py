"""Parents that are VLAN sub-interfaces, and ipvlan."""

from __future__ import annotations

import pytest

from engine.reconcile.probes import link_kind_supported  # noqa: F401 - in the conditions
from engine.spec.errors import Unavailable, Unsupported
from engine.spec.links import Extern, Ipvlan, Vlan
from engine.spec.resource import Plan

from .test_conflicts import SUBNETS


def needs(kind: str):
    """Skip a test where the kernel has no links of a kind."""
    return pytest.mark.skipif(f"not link_kind_supported({kind!r})", reason=f"this kernel makes no links of kind {kind}")


@pytest.fixture
def vlan(host, lan):
    return host.networks.create("ten", "macvlan", options={"parent": "p0.10"}, ipam=SUBNETS)


def test_the_network_s_plan_has_the_sub_interface(host, vlan):
    (wanted,) = host.networks.plan("ten")
    assert wanted.plan == Plan.of(Extern(name="p0"), Vlan(name="p0.10", parent="p0", vid=10))


def test_what_is_no_sub_interface_is_absent(host, lan):
    for name in ("p9.10", "p0.0", "p0.4095", "p0.x", "p0.010", "lo.5"):
        with pytest.raises(Unavailable, match="no link"):
            host.networks.create("bad", "macvlan", options={"parent": name})


@pytest.mark.skipif("link_kind_supported('vlan')", reason="this kernel makes VLANs")
def test_a_kernel_without_vlans_says_so_and_nothing_is_left(host, vlan):
    before = host.snapshot()
    with pytest.raises(Unsupported, match="the kernel has no vlan"):
        host.container("a", "ten")
    assert host.snapshot() == before


@needs("vlan")
def test_the_sub_interface_comes_and_goes_with_the_network(host, lan, run, ping, vlan):
    lan.run("ip", "link", "add", "link", "lan0", "name", "lan0.10", "type", "vlan", "id", "10")
    lan.run("ip", "address", "add", "198.18.10.1/24", "dev", "lan0.10")
    lan.run("ip", "link", "set", "lan0.10", "up")
    host.networks.create("ten2", "macvlan", options={"parent": "p0.10"}, ipam=[{"Subnet": "198.18.10.0/24"}])
    a, b = host.container("a", "ten2"), host.container("b", "ten")
    assert ping(a, "198.18.10.1")
    host.end(b)
    assert "p0.10" in run("ip", "link")
    host.end(a)
    assert "p0.10" not in run("ip", "link")


def test_plans_of_ipvlan(host, lan):
    host.networks.create("ip", "ipvlan", options={"parent": "p0", "ipvlan_mode": "l3", "mtu": "1400"}, ipam=SUBNETS)
    (wanted,) = host.networks.plan("ip")
    assert wanted.plan == Plan.of(Extern(name="p0"))


@pytest.mark.skipif("link_kind_supported('ipvlan')", reason="this kernel makes ipvlan links")
def test_a_kernel_without_ipvlan_says_so_and_nothing_is_left(host, lan):
    host.networks.create("ip", "ipvlan", options={"parent": "p0"}, ipam=SUBNETS)
    before = host.snapshot()
    with pytest.raises(Unsupported, match="the kernel has no ipvlan"):
        host.container("a", "ip")
    assert host.snapshot() == before


@needs("ipvlan")
@pytest.mark.parametrize("mode", ["l2", "l3", "l3s"])
def test_ipvlan(host, lan, ping, mode):
    host.networks.create("ip", "ipvlan", options={"parent": "p0", "mode": mode}, ipam=SUBNETS)
    a, b = host.container("a", "ip"), host.container("b", "ip")
    assert ping(a, b.address(4))
    assert ping(a, b.address(6))
    assert any(isinstance(r, Ipvlan) for r in host.networks.plan("ip")[1].plan.resources)
    assert host.reconciler.diff(sandboxes=True) == []
    host.end(a)
    host.end(b)
