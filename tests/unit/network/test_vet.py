"""What a driver may not return."""

from typing import Literal

import pytest

from engine.network.vet import vet
from engine.spec.errors import DriverFault
from engine.spec.firewall import Masquerade, PortMap, Segment
from engine.spec.links import Address, Bridge, Extern, Macvlan, Route, Sysctl, Veth, Vxlan
from engine.spec.mounts import Directory
from engine.spec.network import Endpoint, LinkFact, Network, Subnet
from engine.spec.options import NetworkOptions
from engine.spec.resource import Plan

NETWORK = Network(
    id="ab" * 32,
    name="n",
    driver="x",
    options=NetworkOptions(),
    mac="02:42:00:00:00:01",
    ifname="br-abababababab",
    subnets=(Subnet(prefix="10.0.0.0/24"),),
    links={"parent": LinkFact(name="p0", mtu=1500)},
)
ENDPOINT = Endpoint(id="cd" * 32, ifname="eth0", host_ifname="veth1", mac="02:42:00:00:00:02")
BR = NETWORK.ifname


@pytest.mark.parametrize(
    "resource",
    [
        Bridge(name=BR),
        Vxlan(name=NETWORK.host_name("vx"), vni=7, master=BR),
        Macvlan(name=NETWORK.host_name("sh"), parent="p0"),
        Extern(name="p0"),
        Address(ns="host", link=BR, address="10.0.0.1/24"),
        Route(ns="host", link=BR, destination="10.0.0.0/24"),
        Segment(link=BR),
        Masquerade(subnet="10.0.0.128/25"),
        Sysctl(ns="host", name="net.ipv4.ip_forward", value=1),
        Sysctl(ns="host", name="net.ipv4.conf.{link}.rp_filter", value=1, link=BR),
    ],
)
def test_what_a_network_may_have(resource):
    assert vet(Plan.of(resource), NETWORK, driver="x") == Plan.of(resource)


@pytest.mark.parametrize(
    "resource",
    [
        Bridge(name="docker0"),
        Bridge(name="br-other"),
        Vxlan(name=NETWORK.host_name("vx"), vni=7, master="docker0"),
        Macvlan(name=NETWORK.host_name("sh"), parent="eth0"),
        Extern(name="eth0"),
        Address(ns="host", link="p0", address="10.0.0.1/24"),
        Route(ns="host", link="p0", destination="10.0.0.0/24"),
        Route(ns="host", via="10.0.0.1", destination="10.0.0.0/24"),
        Route(ns="host", link=BR, destination="0.0.0.0/0"),
        Segment(link="eth0"),
        Masquerade(subnet="10.0.0.0/16"),
        Masquerade(subnet="fd00::/64"),
        Sysctl(ns="host", name="net.ipv4.tcp_syncookies", value=0),
        Sysctl(ns="host", name="net.ipv4.conf.eth0.rp_filter", value=0),
        Sysctl(ns="host", name="net.ipv4.conf.{link}.rp_filter", value=0, link="eth0"),
        PortMap(protocol="tcp", host_port=80, target="10.0.0.2", target_port=80),
        Directory(path="/etc"),
        Address(link="eth0", address="10.0.0.2/24"),
        Veth(name=BR, peer="eth0"),
    ],
)
def test_what_a_network_may_not_have(resource):
    with pytest.raises(DriverFault, match="the driver's plan is refused") as caught:
        vet(Plan.of(Bridge(name=BR), resource), NETWORK, driver="x")
    assert caught.value.driver == "x"


@pytest.mark.parametrize(
    "resource",
    [
        Bridge(name=BR),
        Veth(name="veth2", peer="eth0"),
        Veth(name="veth1", peer="eth0", master="docker0"),
        Veth(name="veth1", peer="other", peer_ns="host"),
        Macvlan(name="eth0", ns="sandbox", parent="eth0"),
        Bridge(name="lo", ns="sandbox"),
        PortMap(protocol="tcp", host_port=80, target="10.0.0.2", target_port=80),
    ],
)
def test_what_an_endpoint_may_not_have(resource):
    with pytest.raises(DriverFault, match="the driver's plan is refused"):
        vet(Plan.of(resource), NETWORK, ENDPOINT, driver="x")


def test_an_endpoint_has_its_own_links_and_all_of_its_sandbox():
    plan = Plan.of(
        Veth(name="veth1", peer="eth0", master=BR),
        Sysctl(name="net.ipv4.conf.{link}.arp_notify", value=1, link="eth0"),
        Route(link="eth0", destination="0.0.0.0/0", via="10.0.0.1"),
    )
    assert vet(plan, NETWORK, ENDPOINT, driver="x") == plan


@pytest.mark.filterwarnings("ignore:Pydantic serializer")
def test_no_plan_too_large_a_plan_and_forged_ones():
    with pytest.raises(DriverFault, match="no plan"):
        vet(None, NETWORK, driver="x")
    with pytest.raises(DriverFault, match="256 is the limit"):
        many = (Address(ns="host", link=BR, address=f"10.1.{n // 250}.{n % 250}/32") for n in range(257))
        vet(Plan.of(many), NETWORK, driver="x")

    class Sly(Bridge):
        kind: Literal["sly"] = "sly"

        @property
        def key(self):
            return ("link", "host", BR)

    with pytest.raises(DriverFault, match="Sly is no kind"):
        vet(Plan.of(Sly(name=BR)), NETWORK, driver="x")
    forged = Bridge(name=BR)
    forged.__dict__["mtu"] = "huge"
    with pytest.raises(DriverFault, match="not valid"):
        vet(Plan.of(forged), NETWORK, driver="x")
