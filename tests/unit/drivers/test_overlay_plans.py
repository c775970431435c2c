"""The plans of the overlay driver, as values."""

from __future__ import annotations

from typing import Any

import pytest

from engine.spec.errors import InvalidParameter, Unavailable
from engine.spec.firewall import SealedPort, Segment
from engine.spec.links import Address, Bridge, BridgePort, ForwardingEntry, Neighbour, Route, Veth, Vxlan
from engine.spec.network import Endpoint, LinkFact, Network, Peer, Subnet
from engine.spec.options import parse_options, wants_encryption
from engine.spec.resource import Plan
from engine_drivers.network.overlay import OverlayDriver, OverlayOptions

DRIVER = OverlayDriver()


def network(options: OverlayOptions | None = None, **fields: Any) -> Network[Any]:
    subnets = (Subnet(prefix="10.0.0.0/24", gateway="10.0.0.1"), Subnet(prefix="fd00::/64"))
    given = {
        "id": "ab" * 32, "name": "n", "driver": "overlay", "options": options or OverlayOptions(),
        "mac": "02:42:00:00:00:01", "ifname": "br-ababababab", "subnets": subnets, "vni": 4097, "host": "192.0.2.1",
        "underlay": LinkFact(name="eth0", mtu=1500),
    }  # fmt: skip
    return Network[Any](**given | fields)


def test_a_bridge_and_a_tunnel_that_floods_nothing() -> None:
    assert DRIVER.network_plan(network()) == Plan.of(
        Bridge(name="br-ababababab", mac="02:42:00:00:00:01", mtu=1450),
        Segment(link="br-ababababab", internal=True),
        Vxlan(name="br-ababababavx", master="br-ababababab", mtu=1450, vni=4097, local="192.0.2.1", port=4789),
        BridgePort(
            link="br-ababababavx", learning=False, neigh_suppress=True, flood=False, multicast_flood=False,
            broadcast_flood=False,
        ),
    )  # fmt: skip


def test_an_endpoint_has_no_default_route_here() -> None:
    endpoint = Endpoint(
        id="cd" * 32, ifname="eth0", host_ifname="v1", mac="02:42:0a:00:00:02", addresses=("10.0.0.2/24",),
        gateways=("10.0.0.1",),
    )  # fmt: skip
    plan = DRIVER.endpoint_plan(network(), endpoint)
    assert plan == Plan.of(
        Veth(name="v1", master="br-ababababab", mtu=1450, peer="eth0", peer_mac="02:42:0a:00:00:02", peer_mtu=1450),
        Address(link="eth0", address="10.0.0.2/24"),
    )
    assert not list(plan.by_kind(Route))


def test_a_peer_is_where_it_is_and_is_answered_for() -> None:
    peer = Peer(id="ef" * 16, host="192.0.2.2", mac="02:42:0a:00:00:03", addresses=("10.0.0.3/24", "fd00::3/64"))
    assert DRIVER.peer_plan(network(), peer) == Plan.of(
        ForwardingEntry(link="br-ababababavx", mac="02:42:0a:00:00:03", dst="192.0.2.2"),
        ForwardingEntry(link="br-ababababavx", mac="02:42:0a:00:00:03", table="master"),
        Neighbour(link="br-ababababab", address="10.0.0.3", mac="02:42:0a:00:00:03"),
        Neighbour(link="br-ababababab", address="fd00::3", mac="02:42:0a:00:00:03"),
    )


@pytest.mark.parametrize(
    ("host", "outside", "asked", "inside"),
    [("192.0.2.1", 1500, None, 1450), ("2001:db8::1", 1500, None, 1430), ("192.0.2.1", 9000, 1500, 1500)],
)
def test_packets_fit_into_the_underlay(host: str, outside: int, asked: int | None, inside: int) -> None:
    net = network(OverlayOptions(mtu=asked), host=host, underlay=LinkFact(name="eth0", mtu=outside))
    assert {link.mtu for link in DRIVER.network_plan(net).by_kind(Bridge, Vxlan)} == {inside}  # type: ignore[attr-defined]


@pytest.mark.parametrize(("outside", "asked"), [(1500, 1451), (1500, 1200), (1300, None)])
def test_packets_that_do_not_fit_are_refused(outside: int, asked: int | None) -> None:
    net = network(OverlayOptions(mtu=asked), underlay=LinkFact(name="eth0", mtu=outside))
    with pytest.raises(InvalidParameter, match="cannot have packets of"):
        DRIVER.network_plan(net)


def test_an_encrypted_network_has_a_port_of_its_own_that_is_sealed() -> None:
    options = DRIVER.settle_network(parse_options(OverlayOptions, {"encrypted": "true"}, driver="overlay"), ())
    assert wants_encryption(options)
    plan = DRIVER.network_plan(network(options, host="fd45::1", underlay=LinkFact(name="wg0", mtu=1420)))
    assert list(plan.by_kind(SealedPort)) == [SealedPort(port=4790, link="wg0")]
    assert [link.port for link in plan.by_kind(Vxlan)] == [4790]  # type: ignore[attr-defined]
    assert not list(DRIVER.network_plan(network()).by_kind(SealedPort))
    with pytest.raises(Unavailable, match="encrypted"):
        DRIVER.network_plan(network(options, underlay=None))


def test_options_as_docker_writes_them() -> None:
    given = {"encrypted": "", "com.docker.network.driver.overlay.vxlanid_list": "5000"}
    options = parse_options(OverlayOptions, given, driver="overlay")
    assert wants_encryption(options)
    assert options.vni == 5000


@pytest.mark.parametrize("given", [{"encrypted": "true", "port": "4789"}, {"port": "4790"}])
def test_the_ports_are_not_mixed(given: dict[str, str]) -> None:
    with pytest.raises(InvalidParameter, match="is not for this network"):
        DRIVER.settle_network(parse_options(OverlayOptions, given, driver="overlay"), ())


def test_without_a_cluster_it_says_how_to_get_one() -> None:
    with pytest.raises(Unavailable, match="in no cluster") as caught:
        DRIVER.network_plan(network(host=None))
    assert "--cluster etcd://" in str(caught.value.hint)
