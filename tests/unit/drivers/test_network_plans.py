"""The plans of the shipped network drivers, as values."""

import pytest

from engine.spec.errors import InvalidParameter
from engine.spec.firewall import Masquerade, Segment
from engine.spec.links import Address, Bridge, BridgePort, Extern, Ipvlan, Macvlan, Neighbour, Route, Sysctl, Veth
from engine.spec.network import Endpoint, LinkFact, Network, Subnet
from engine.spec.options import own_link_fields, parent_fields, parse_options
from engine.spec.resource import Plan
from engine_drivers.network.bridge import BridgeDriver, BridgeOptions
from engine_drivers.network.host import HostDriver
from engine_drivers.network.ipvlan import IpvlanDriver, IpvlanOptions
from engine_drivers.network.macvlan import MacvlanDriver, MacvlanOptions
from engine_drivers.network.none import NoneDriver

SUBNETS = (Subnet(prefix="10.0.0.0/24", gateway="10.0.0.1"), Subnet(prefix="fd00::/64", gateway="fd00::1"))
NO_DAD = Sysctl(ns="host", name="net.ipv6.conf.{link}.accept_dad", link="br-1", value="0")
ENDPOINT = Endpoint(
    id="cd" * 32,
    ifname="eth0",
    host_ifname="v123",
    mac="02:42:00:00:00:02",
    addresses=("10.0.0.2/24", "fd00::2/64"),
    gateways=("10.0.0.1", "fd00::1"),
)


def network(options, **fields):
    return Network(
        id="ab" * 32, name="n", driver="d", options=options, mac="02:42:00:00:00:01", ifname="br-1",
        **{"subnets": SUBNETS} | fields,
    )  # fmt: skip


def test_bridge():
    net = network(BridgeOptions())
    assert BridgeDriver().network_plan(net) == Plan.of(
        Bridge(name="br-1", mac="02:42:00:00:00:01", mtu=1500),
        Segment(link="br-1"),
        NO_DAD,
        Address(ns="host", link="br-1", address="10.0.0.1/24"),
        Masquerade(subnet="10.0.0.0/24"),
        Address(ns="host", link="br-1", address="fd00::1/64"),
        Masquerade(subnet="fd00::/64"),
    )
    assert BridgeDriver().endpoint_plan(net, ENDPOINT) == Plan.of(
        Veth(name="v123", master="br-1", mtu=1500, peer="eth0", peer_mac="02:42:00:00:00:02", peer_mtu=1500),
        Address(link="eth0", address="10.0.0.2/24"),
        Address(link="eth0", address="fd00::2/64"),
        Route(link="eth0", destination="0.0.0.0/0", via="10.0.0.1"),
        Route(link="eth0", destination="::/0", via="fd00::1"),
    )


def test_bridge_options():
    options = parse_options(
        BridgeOptions,
        {
            "com.docker.network.bridge.enable_ip_masquerade": "false",
            "com.docker.network.bridge.enable_icc": "false",
            "mtu": "1400",
        },
        driver="bridge",
    )
    plan = BridgeDriver().network_plan(network(options))
    assert not list(plan.by_kind(Masquerade))
    forwarding = [s.name for s in plan.by_kind(Sysctl) if s != NO_DAD]
    assert forwarding == ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"]
    assert next(iter(plan.by_kind(Segment))).inter_container is False
    assert next(iter(plan.by_kind(Bridge))).mtu == 1400
    ports = BridgeDriver().endpoint_plan(network(options), ENDPOINT)
    assert list(ports.by_kind(BridgePort)) == [BridgePort(link="v123", isolated=True)]
    assert own_link_fields(BridgeOptions) == ("name",)


def test_an_internal_bridge_neither_masquerades_nor_forwards():
    plan = BridgeDriver().network_plan(network(BridgeOptions(), internal=True))
    assert list(plan.by_kind(Masquerade, Sysctl)) == [NO_DAD]
    assert next(iter(plan.by_kind(Segment))).internal


def test_a_routed_bridge_opens_ports_and_hides_nothing():
    options = BridgeOptions(gateway_mode="routed", gateway_mode_ipv6="nat", trusted_host_interfaces="up0:up1")
    plan = BridgeDriver().network_plan(network(options))
    assert list(plan.by_kind(Segment)) == [Segment(link="br-1", routed=(4,), trusted=("up0", "up1"))]
    assert list(plan.by_kind(Masquerade)) == [Masquerade(subnet="fd00::/64")]
    inside = BridgeDriver().network_plan(network(options, internal=True))
    assert list(inside.by_kind(Segment)) == [Segment(link="br-1", internal=True, trusted=("up0", "up1"))]


def test_an_unprotected_bridge_masquerades_and_lets_in():
    options = BridgeOptions(gateway_mode_ipv4="nat-unprotected")
    plan = BridgeDriver().network_plan(network(options))
    assert list(plan.by_kind(Segment)) == [Segment(link="br-1", unprotected=(4,))]
    assert len(list(plan.by_kind(Masquerade))) == 2


def test_an_isolated_bridge_has_no_address_of_the_host():
    options = BridgeOptions(gateway_mode="isolated")
    plan = BridgeDriver().network_plan(network(options, internal=True))
    assert not list(plan.by_kind(Address, Masquerade))
    with pytest.raises(InvalidParameter, match="has no way out"):
        BridgeDriver().network_plan(network(options))


def test_an_adopted_bridge_is_not_touched():
    options = BridgeOptions(name="br-1", adopt=True)
    links = {"name": LinkFact(name="br-1", mtu=9000, mac="02:00:00:00:00:01")}
    net = network(options, links=links)
    assert BridgeDriver().network_plan(net) == Plan.of(Extern(name="br-1"))
    (pair,) = BridgeDriver().endpoint_plan(net, ENDPOINT).by_kind(Veth)
    assert (pair.mac, pair.mtu, pair.peer_mtu) == ("fe:42:00:00:00:02", 9000, 9000)
    for options_ in (options.model_copy(update={"gateway_mode": "routed"}), options):
        with pytest.raises(InvalidParameter, match="no rules are made for br-1"):
            BridgeDriver().network_plan(network(options_, links=links, internal=options_ is options))


def test_a_bridge_without_ipv6_sets_nothing_of_it():
    plan = BridgeDriver().network_plan(network(BridgeOptions(), subnets=SUBNETS[:1]))
    assert not list(plan.by_kind(Sysctl))


@pytest.mark.parametrize("mode", ["bridge", "private", "vepa", "passthru"])
def test_macvlan(mode):
    options = parse_options(MacvlanOptions, {"parent": "p0", "macvlan_mode": mode}, driver="macvlan")
    net = network(options, links={"parent": LinkFact(name="p0", mtu=1400)})
    assert MacvlanDriver().network_plan(net) == Plan.of(Extern(name="p0"))
    link = next(iter(MacvlanDriver().endpoint_plan(net, ENDPOINT).by_kind(Macvlan)))
    mac = None if mode == "passthru" else ENDPOINT.mac  # the kernel gives such a child the parent's
    assert (link.ns, link.parent, link.mode, link.mtu, link.mac) == ("sandbox", "p0", mode, 1400, mac)
    assert parent_fields(MacvlanOptions) == ("parent",)
    assert len(link.provides()) == (2 if mode == "passthru" else 1)


def test_macvlan_refuses_an_mtu_above_the_parents():
    net = network(MacvlanOptions(mtu=9000), links={"parent": LinkFact(name="p0", mtu=1500)})
    with pytest.raises(InvalidParameter, match="9000 is larger than the parent's: p0 has 1500"):
        MacvlanDriver().network_plan(net)


@pytest.mark.parametrize("driver", [HostDriver(), NoneDriver()])
def test_host_and_none_make_nothing(driver):
    assert driver.endpoint_plan(network(driver.options_model(), subnets=()), ENDPOINT) == Plan()
    assert driver.caps.alone


def test_macvlan_shim():
    fact = LinkFact(name="p0", mtu=1450, mac="02:00:00:00:00:09", addresses=("10.0.0.9/24", "2001:db8::9/64"))
    net = network(MacvlanOptions(parent="p0"), links={"parent": fact})
    assert MacvlanDriver().network_plan(net) == Plan.of(
        Extern(name="p0"),
        Macvlan(name="br-1", parent="p0", mac="02:42:00:00:00:01", mtu=1450),
        Sysctl(ns="host", name="net.ipv4.conf.{link}.arp_ignore", value="8", link="br-1"),
    )
    plan = MacvlanDriver().endpoint_plan(net, ENDPOINT)
    assert plan.resources[-7:] == (
        Route(ns="host", destination="10.0.0.2/32", link="br-1", source="10.0.0.9"),
        Neighbour(ns="host", link="br-1", address="10.0.0.2", mac=ENDPOINT.mac),
        Neighbour(ns="sandbox", link="eth0", address="10.0.0.9", mac="02:42:00:00:00:01"),
        Route(ns="host", destination="fd00::2/128", link="br-1", source="2001:db8::9"),
        Neighbour(ns="host", link="br-1", address="fd00::2", mac=ENDPOINT.mac),
        Neighbour(ns="sandbox", link="eth0", address="2001:db8::9", mac="02:42:00:00:00:01"),
        Route(link="eth0", destination="2001:db8::9/128"),
    )
    for options in ({"shim": False}, {"mode": "private"}, {"mode": "passthru"}):
        net = network(MacvlanOptions(parent="p0", **options), links={"parent": fact})
        assert MacvlanDriver().network_plan(net) == Plan.of(Extern(name="p0"))
        assert not list(MacvlanDriver().endpoint_plan(net, ENDPOINT).by_kind(Neighbour))


@pytest.mark.parametrize("mode", ["l2", "l3", "l3s"])
def test_ipvlan(mode):
    options = parse_options(
        IpvlanOptions, {"parent": "p0", "ipvlan_mode": mode, "ipvlan_flag": "private"}, driver="ipvlan"
    )
    net = network(options, links={"parent": LinkFact(name="p0", mtu=1450, mac="02:00:00:00:00:09")})
    assert IpvlanDriver().network_plan(net) == Plan.of(Extern(name="p0"))
    routed = mode != "l2"
    assert IpvlanDriver().endpoint_plan(net, ENDPOINT) == Plan.of(
        Ipvlan(name="eth0", ns="sandbox", parent="p0", mode=mode, isolation="private", mtu=1450),
        Address(link="eth0", address="10.0.0.2/24"),
        Address(link="eth0", address="fd00::2/64"),
        Route(link="eth0", destination="0.0.0.0/0", via=None if routed else "10.0.0.1"),
        Route(link="eth0", destination="::/0", via=None if routed else "fd00::1"),
    )
