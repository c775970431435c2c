"""What the core adds to drivers' plans of endpoints."""

from __future__ import annotations

import pytest

from engine.network.extras import RATE, RATE_IN, SYSCTLS, extras
from engine.network.hairpin import with_hairpin
from engine.network.model import Attachment, ContainerRef, EndpointSettings
from engine.spec.errors import InvalidParameter, Unsupported
from engine.spec.links import Address, BridgePort, Ifb, Macvlan, Redirect, Shape, Sysctl, Veth
from engine.spec.network import Network
from engine.spec.options import NetworkOptions
from engine.spec.resource import Plan

PAIR = Plan.of(Veth(name="veth1", peer="eth0"), Address(link="eth0", address="10.0.0.2/24"))
CHILD = Plan.of(Macvlan(name="eth0", ns="sandbox", parent="p0"))


def of(plan: Plan, network: NetworkOptions | None = None, **options: str) -> list[object]:
    value = Network[NetworkOptions](
        id="a" * 64, name="n", driver="any", options=network or NetworkOptions(), mac="02:00:00:00:00:01", ifname="br"
    )
    endpoint = Attachment(
        id="b" * 64, network="a" * 64, network_name="n", driver="any", container=ContainerRef(id="c", name="c"),
        settings=EndpointSettings(driver_opts={k.replace("_", "-"): v for k, v in options.items()}), sandbox="/x",
        ifname="eth0", host_ifname="veth1", mac="02:00:00:00:00:02",
    )  # fmt: skip
    return extras(plan, value, endpoint)


def test_nothing_is_asked_for() -> None:
    assert of(PAIR) == of(Plan()) == []


def test_a_pair_is_shaped_on_the_host() -> None:
    ifb = "ifb" + "b" * 11
    assert of(PAIR, **{RATE: "10mbit", RATE_IN: "2gbit"}) == [
        Shape(ns="host", link="veth1", rate=2_000_000_000, burst=2_500_000),
        Ifb(name=ifb),
        Shape(ns="host", link=ifb, rate=10_000_000),
        Redirect(ns="host", link="veth1", to=ifb),
    ]


def test_a_link_without_a_host_end_is_shaped_in_the_sandbox() -> None:
    assert of(CHILD, NetworkOptions.model_validate({"rate": "10mbit", "rate_in": 8000})) == [
        Shape(link="eth0", rate=10_000_000),
        Ifb(name="ifb-eth0", ns="sandbox"),
        Shape(link="ifb-eth0", rate=8000),
        Redirect(link="eth0", to="ifb-eth0"),
    ]


def test_the_endpoint_s_option_goes_before_the_network_s() -> None:
    (bucket,) = of(CHILD, NetworkOptions.model_validate({"rate": "10mbit"}), **{RATE: "1.5 Mbit"})
    assert bucket == Shape(link="eth0", rate=1_500_000)


def test_sysctls_name_the_link() -> None:
    text = "net.ipv4.conf.IFNAME.arp_notify=1,net.ipv6.conf.IFNAME.accept_ra=2"
    assert of(CHILD, **{SYSCTLS: text}) == [
        Sysctl(name="net.ipv4.conf.{link}.arp_notify", value="1", link="eth0"),
        Sysctl(name="net.ipv6.conf.{link}.accept_ra", value="2", link="eth0"),
    ]


@pytest.mark.parametrize("text", ["x", "net.ipv4.ip_forward=1", "kernel.IFNAME.x.y=1", "net.ipv4.conf.IFNAME.a b=1"])
def test_other_sysctls_are_refused(text: str) -> None:
    with pytest.raises(InvalidParameter, match="invalid endpoint sysctl"):
        of(CHILD, **{SYSCTLS: text})


@pytest.mark.parametrize("text", ["", "fast", "10mbps", "-1", "7999", "1e3"])
def test_rates_that_are_none(text: str) -> None:
    with pytest.raises(InvalidParameter, match="invalid endpoint option rate="):
        of(PAIR, **{RATE: text})


def test_without_a_link_there_is_nothing_to_shape() -> None:
    with pytest.raises(Unsupported, match="has no link of its own"):
        of(Plan(), **{RATE: "1mbit"})


def test_a_port_of_a_bridge_sends_back_what_came_from_it() -> None:
    """Without it, a container does not reach its own published port where br_netfilter is loaded."""
    veth = Veth(name="veth1", peer="eth0", master="br")
    assert with_hairpin(Plan.of(veth), "eth0") == Plan.of(veth, BridgePort(link="veth1", hairpin=True))
    isolated = BridgePort(link="veth1", isolated=True)
    assert with_hairpin(Plan.of(isolated, veth), "eth0").resources[1] == isolated.model_copy(update={"hairpin": True})
    for plan in (PAIR, CHILD, Plan.of(veth, BridgePort(link="veth1", hairpin=False))):  # no bridge; the driver's word
        assert with_hairpin(plan, "eth0") == plan
