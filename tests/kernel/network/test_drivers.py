"""All four drivers in a real kernel, through the manager."""

import json
from pathlib import Path

import pytest

from engine.network.model import ContainerRef
from engine.spec.errors import Conflict, Forbidden, InvalidParameter, Unavailable, Unsupported
from engine.spec.links import Extern

OUTSIDE, OUTSIDE6, HOST = "198.51.100.2", "2001:db8::2", "198.51.100.1"


def test_bridge_reaches_each_other_the_host_and_the_outside_and_leaves_nothing(host, ping):
    host.warm()
    before = host.snapshot()
    a, b = host.container("a", "bridge"), host.container("b", "bridge")
    assert (a.ifname, a.gateways) == ("eth0", ("172.17.0.1",))
    assert a.mac == "02:42:" + ":".join(f"{int(n):02x}" for n in a.address(4).split("."))
    assert ping(a, b.address(4))
    assert ping(a, "172.17.0.1")
    assert ping(a, OUTSIDE)  # the outside has no route back: the host's address must have been put in
    assert host.reconciler.diff(sandboxes=True) == []
    host.end(a)
    host.end(b)
    assert host.snapshot() == before
    assert [e[1] for e in host.events] == ["connect", "connect", "disconnect", "disconnect"]


def test_two_families(host, ping):
    host.networks.create("six", ipv6=True)
    a, b = host.container("a", "six"), host.container("b", "six")
    assert a.address(6).startswith("fd")
    assert ping(a, b.address(6))
    assert ping(a, OUTSIDE6)
    assert ping(a, OUTSIDE)
    assert host.reconciler.diff(sandboxes=True) == []


def test_networks_are_kept_apart_and_internal_ones_from_the_outside(host, ping):
    for name in ("one", "two"):
        host.networks.create(name)
    host.networks.create("inside", internal=True)
    host.networks.create("apart", options={"com.docker.network.bridge.enable_icc": "false"})
    a, b = host.container("a", "one"), host.container("b", "two")
    c, d = host.container("c", "inside"), host.container("d", "inside")
    e, f = host.container("e", "apart"), host.container("f", "apart")
    assert not ping(a, b.address(4), tries=1)
    assert ping(c, d.address(4))
    assert not ping(c, OUTSIDE, tries=1)
    assert not ping(e, f.address(4), tries=1)
    assert ping(e, OUTSIDE)


@pytest.fixture
def parent(host, run):
    run("ip", "link", "add", "p0", "mtu", "1400", "type", "veth", "peer", "name", "p1")
    run("ip", "link", "set", "p0", "up")
    run("ip", "link", "set", "p1", "up")
    return "p0"


@pytest.mark.parametrize("mode", ["bridge", "private", "vepa"])
def test_macvlan(host, ping, run, parent, mode):
    host.warm()
    before = host.snapshot()
    net = host.networks.default_network("macvlan", {"parent": parent, "macvlan_mode": mode})
    assert host.networks.default_network("macvlan", {"parent": parent, "mode": mode}).id == net.id
    a, b = host.container("a", net.name), host.container("b", net.id[:12])
    link = json.loads(run("ip", "-j", "-d", "link", "show", "eth0", namespace=a.sandbox))[0]
    assert link["mtu"] == 1400
    assert link["linkinfo"]["info_data"]["mode"] == mode
    assert link["address"] == a.mac
    assert ping(a, b.address(4), tries=3 if mode == "bridge" else 1) == (mode == "bridge")
    assert host.reconciler.diff(sandboxes=True) == []
    host.end(a)
    host.end(b)
    host.networks.remove(net.id)
    assert host.snapshot() == before


def test_passthru_has_one_container(host, parent):
    host.networks.create("pass", "macvlan", options={"parent": parent, "mode": "passthru"})
    a = host.container("a", "pass")
    with pytest.raises(Conflict, match="passthru"):
        host.container("b", "pass")
    host.end(a)
    host.container("b", "pass")


def test_macvlan_on_the_link_of_the_default_route_or_of_a_hardware_address(host, run):
    net = host.networks.default_network("macvlan")
    assert (net.name, net.predefined) == ("macvlan", False)
    host.container("a", "macvlan")
    plan = host.networks.plan("macvlan")
    assert [r.name for r in plan[0].plan.by_kind(Extern)] == ["up0"]
    assert plan[0].differences == ()
    mac = json.loads(run("ip", "-j", "link", "show", "up0"))[0]["address"]
    host.networks.create("known", "macvlan", options={"parent": f"mac:{mac}"}, ipam=[{"Subnet": "198.18.1.0/24"}])
    assert [r.name for r in host.networks.plan("known")[0].plan.by_kind(Extern)] == ["up0"]


def test_a_parent_that_is_absent_or_ours_is_refused_with_the_links_that_there_are(host, parent):
    host.networks.restore([])
    a = host.container("a", "bridge")
    with pytest.raises(Unavailable, match=r"no link 'eth9' on the host.*Links: p0, p1, up0") as caught:
        host.networks.create("m", "macvlan", options={"parent": "eth9"})
    assert caught.value.status == 503
    for name in ("lo", a.host_ifname, host.networks.get("bridge").ifname):
        with pytest.raises(InvalidParameter, match="cannot be a parent"):
            host.networks.create("m", "macvlan", options={"parent": name})


def test_none_and_host(host, run):
    host.networks.restore([])
    a = host.container("a", "none")
    assert [link["ifname"] for link in json.loads(run("ip", "-j", "link", namespace=a.sandbox))] == ["lo"]
    assert "UP" in run("ip", "link", "show", "lo", namespace=a.sandbox)
    ref, sandbox = a.container, host.networks.sandbox_path(a.container.id)
    assert str(sandbox) == a.sandbox
    from engine.reconcile.applier import Sandbox

    with pytest.raises(Conflict, match="on network none can be on no other"):
        host.networks.attach("bridge", ref, Sandbox(sandbox))
    with pytest.raises(Forbidden, match="host's namespace"):
        host.container("b", "host")
    with pytest.raises(Forbidden, match="only 1 network of driver host"):
        host.networks.create("host2", "host")
    with pytest.raises(Unsupported, match="no addresses"):
        host.container("c", "none", ip="10.0.0.1")


def test_addresses_and_macs_that_were_asked_for(host, run):
    host.networks.create(
        "net", ipam=[{"Subnet": "10.9.0.0/29", "Gateway": "10.9.0.6", "AuxiliaryAddresses": {"nas": "10.9.0.1"}}]
    )
    a = host.container("a", "net", ip="10.9.0.4", mac="02-AA-bb-00-00-01")
    seen = json.loads(run("ip", "-j", "address", "show", "eth0", namespace=a.sandbox))[0]
    assert seen["address"] == "02:aa:bb:00:00:01"
    assert [i["local"] for i in seen["addr_info"] if i["family"] == "inet"] == ["10.9.0.4"]
    before = host.snapshot()
    for settings, kind, text in (
        ({"ip": "10.9.0.4"}, Conflict, "10.9.0.4 of network net is taken by container a"),
        ({"ip": "10.9.0.6"}, Conflict, "gateway"),
        ({"ip": "10.8.0.4"}, InvalidParameter, "no subnet of network net has the address 10.8.0.4.*10.9.0.0/29"),
        ({"ip": "10.9.0.999"}, InvalidParameter, "not an IP address"),
        ({"mac": "02:aa:bb:00:00:01"}, Conflict, "used by container a"),
        ({"mac": "01:00:5e:00:00:01"}, InvalidParameter, "group address"),
    ):
        with pytest.raises(kind, match=text):
            host.container("x", "net", **settings)
    assert host.snapshot() == before
    others = [host.container(f"c{n}", "net") for n in range(3)]
    assert sorted(o.address(4) for o in others) == ["10.9.0.2", "10.9.0.3", "10.9.0.5"]
    with pytest.raises(Unavailable, match=r"no address is free in 10\.9\.0\.0/29"):
        host.container("full", "net")
    host.end(others[0])
    assert host.container("again", "net").address(4) == others[0].address(4)


def test_several_networks_and_the_default_route(host, run):
    for name, number in (("na", 1), ("nb", 2)):
        host.networks.create(name, ipam=[{"Subnet": f"10.{number}.0.0/24"}])
    host.networks.create("inside", internal=True, ipam=[{"Subnet": "10.3.0.0/24"}])
    from engine.network.model import EndpointSettings
    from engine.reconcile.applier import Sandbox

    def routes():
        return [r["gateway"] for r in json.loads(run("ip", "-j", "route", "show", "default", namespace=a.sandbox))]

    ref = ContainerRef(id="a" * 64, name="a")
    sandbox = host.networks.sandbox_create(ref.id)
    wishes = [("inside", EndpointSettings()), ("nb", EndpointSettings()), ("na", EndpointSettings())]
    inside, b, a = host.networks.attach_all(ref, sandbox, wishes)
    assert [e.ifname for e in (inside, b, a)] == ["eth0", "eth1", "eth2"]
    assert routes() == ["10.1.0.1"]
    host.networks.detach(ref.id, "na")
    assert routes() == ["10.2.0.1"]
    again = host.networks.attach("na", ref, Sandbox(Path(a.sandbox)), EndpointSettings(gw_priority=5))
    assert (again.ifname, again.gateways) == ("eth2", ("10.1.0.1",))
    assert routes() == ["10.1.0.1"]
    assert host.reconciler.diff(sandboxes=True) == []
    with pytest.raises(Conflict, match="already connected"):
        host.networks.attach("na", ref, Sandbox(Path(a.sandbox)))
    assert set(host.networks.inspect_endpoints(ref.id)) == {"inside", "na", "nb"}


def test_a_restart_finds_its_address_on_the_wire_free(host, parent):
    net = host.networks.default_network("macvlan", {"parent": parent})
    host.end(host.container("a", net.name, mac="02:00:00:00:00:0a"))
    host.container("a", net.name, mac="02:00:00:00:00:0a")


def test_a_pool_that_was_taken_on_the_host_meanwhile_is_replaced_before_the_first_use(host, run):
    host.networks.restore([])
    fixed = host.networks.create("fixed", ipam=[{"Subnet": "10.7.0.0/24"}])
    assert host.networks.get("bridge").pools[0].subnet == "172.17.0.0/16"
    run("ip", "route", "add", "172.17.4.0/24", "via", OUTSIDE)
    run("ip", "route", "add", "172.18.0.0/16", "via", OUTSIDE)
    a = host.container("a", "bridge")
    assert a.addresses == ("172.19.0.2/16",)
    run("ip", "route", "add", "172.19.4.0/24", "via", OUTSIDE)
    assert host.container("b", "bridge").addresses == ("172.19.0.3/16",)
    assert host.networks.get("fixed").pools == fixed.pools
