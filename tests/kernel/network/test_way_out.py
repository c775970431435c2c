"""Networks that lead nowhere by themselves: the engine gives their containers a way out, and takes it away again.

The driver is a third party's: an isolated bridge whose way out is a bridge of the engine's.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.network.manager import NetworkManager
from engine.network.model import ContainerRef, EndpointSettings, PortRequest
from engine.reconcile.applier import Sandbox
from engine.spec.errors import Unsupported

HOST, OUTSIDE = "198.51.100.1", "198.51.100.2"
DRIVER = '''
from engine_sdk import Address, Bridge, LocalGateway, NetworkCaps, NetworkDriver, Plan, Segment, Veth

class Island(NetworkDriver):
    """A bridge that the host has no address on."""
    caps = NetworkCaps(gateway=LocalGateway(driver="bridge", options={"icc": "false"}))

    def network_plan(self, network):
        return Plan.of(Bridge(name=network.ifname, mac=network.mac), Segment(link=network.ifname, internal=True))

    def endpoint_plan(self, network, endpoint):
        return Plan.of(
            Veth(name=endpoint.host_ifname, master=network.ifname, peer=endpoint.ifname, peer_mac=endpoint.mac),
            [Address(link=endpoint.ifname, address=a) for a in endpoint.addresses],
        )
'''


@pytest.fixture
def island(host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The host, with that driver installed and two networks of it."""
    package = tmp_path / "package"
    info = package / "island-1.0.dist-info"
    info.mkdir(parents=True)
    (package / "island.py").write_text(DRIVER)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: island\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[engine.network]\nisland = island:Island\n")
    monkeypatch.syspath_prepend(str(package))
    host.start()
    host.networks.restore([])
    host.networks.create("one", "island")
    host.networks.create("two", "island")
    return host


def _chosen(networks: NetworkManager, container: str) -> list[str]:
    return list(networks.inspect_endpoints(container))


def _all(networks: NetworkManager, container: str) -> list[str]:
    return [e.network_name for e in networks._store.of_container(container)]


def _start(host, name: str, *networks: str, ports=()):
    ref = ContainerRef(id=name.encode().hex().ljust(64, "0"), name=name, hostname=name)
    sandbox = host.networks.sandbox_create(ref.id)
    host.networks.attach_all(ref, sandbox, [(n, EndpointSettings()) for n in networks], ports)
    return ref, sandbox


def test_a_container_reaches_the_outside_and_is_reached_at_its_ports(island, ping, run) -> None:
    ref, sandbox = _start(island, "a", "one", ports=[PortRequest(target_port=80, host_port=8080)])
    assert ping(sandbox.path, OUTSIDE)
    routes = run("ip", "route", namespace=sandbox.path)
    assert "default via 172." in routes.replace("default via 10.", "default via 172."), routes
    assert _chosen(island.networks, ref.id) == ["one"], "nobody chose the gateway network: it is not shown"
    assert _all(island.networks, ref.id) == ["one", "island-gateway"]
    assert island.networks.port_bindings(ref.id) == {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}]}
    assert "8080" in run("nft", "list", "map", "inet", island.reconciler.tag.table, "port4")
    island.networks.detach_all(ref.id)
    island.networks.remove("island-gateway")


def test_containers_of_different_networks_do_not_meet_on_the_way_out(island, ping) -> None:
    a, b = _start(island, "a", "one"), _start(island, "b", "two")
    (address,) = [e.address(4) for e in island.networks._store.of_container(b[0].id) if e.ifname == "eth1"]
    assert not ping(a[1].path, address, tries=1)
    for ref, _ in (a, b):
        island.networks.detach_all(ref.id)


def test_the_way_out_comes_and_goes_with_the_need_for_it(island, ping) -> None:
    ref, sandbox = _start(island, "a", "none")
    networks = island.networks
    networks.detach_all(ref.id)
    ref, sandbox = _start(island, "a", "one", "two", ports=[PortRequest(target_port=80, host_port=8080)])
    assert _all(networks, ref.id) == ["one", "two", "island-gateway"]
    networks.attach("bridge", ref, sandbox)
    assert _all(networks, ref.id) == ["one", "two", "bridge"], "the other network leads out"
    assert ping(sandbox.path, OUTSIDE)
    (port,) = [p for e in networks._store.of_container(ref.id) if e.network_name == "bridge" for p in e.ports]
    assert port.host_port == 8080, "ports go where replies go"
    networks.detach(ref.id, "bridge")
    assert _all(networks, ref.id) == ["one", "two", "island-gateway"]
    assert ping(sandbox.path, OUTSIDE)
    networks.detach(ref.id, "one")
    assert _all(networks, ref.id) == ["two", "island-gateway"]
    networks.detach(ref.id, "two")
    assert _all(networks, ref.id) == [], "it leads nowhere that anybody asked for"


def test_an_internal_network_has_no_way_out(island, ping) -> None:
    island.networks.create("closed", "island", internal=True)
    ref, sandbox = _start(island, "a", "closed")
    assert _all(island.networks, ref.id) == ["closed"]
    assert not ping(sandbox.path, OUTSIDE, tries=1)
    with pytest.raises(Unsupported, match="ports cannot be published"):
        island.networks.check_ports(["closed"], [PortRequest(target_port=80)])
    island.networks.check_ports(["one"], [PortRequest(target_port=80)])
    island.networks.attach("one", ref, sandbox, ports=[PortRequest(target_port=80, host_port=8081)])
    assert "8081" in str(island.networks.port_bindings(ref.id))
    assert ping(sandbox.path, OUTSIDE)
    island.networks.detach_all(ref.id)


def test_a_network_of_a_person_may_have_the_name(island) -> None:
    island.networks.create("island-gateway", "bridge")
    ref, _ = _start(island, "a", "one")
    assert _all(island.networks, ref.id) == ["one", "island-gateway-1"]
    again, _ = _start(island, "b", "two")
    assert _all(island.networks, again.id) == ["two", "island-gateway-1"]
    for container in (ref, again):
        island.networks.detach_all(container.id)


def test_an_ipv6_network_has_one_of_both_families(island, ping) -> None:
    island.networks.create("six", "island", ipv6=True)
    ref, sandbox = _start(island, "a", "six")
    assert _all(island.networks, ref.id) == ["six", "island-gateway6"]
    assert ping(sandbox.path, "2001:db8::2")
    assert Sandbox(sandbox.path) == sandbox
    island.networks.detach_all(ref.id)
