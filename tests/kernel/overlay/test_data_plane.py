"""What the overlay driver's plans do in the kernel: reach, isolation, silence, packet sizes, change, and removal."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.host import until
from tests.kernel.overlay.hosts import UNDERLAY_MTU, Host, Wire, run

from engine_sdk import Network, Peer

SUBNETS = ("10.7.0.0/24", "fd00:7::/64")


@pytest.fixture
def wire(tmp_path: Path) -> Iterator[Wire]:
    if os.geteuid():
        pytest.skip("network namespaces need root")
    with Wire(tmp_path, 3) as made:
        yield made


def _box(number: int) -> tuple[str, str]:
    return f"10.7.0.{number}/24", f"fd00:7::{number}/64"


def _full_mesh(
    hosts: list[Host], vni: int = 4097, *, six: bool = False, **options: object
) -> tuple[list[Network], list[Peer]]:
    """One container `a1`, `a2` ... of the network on every host, and everybody knows everybody."""
    networks = [host.network(vni, SUBNETS, six=six, **options) for host in hosts]
    for host, network in zip(hosts, networks, strict=True):
        host.use(network)
    peers = [h.attach(n, f"a{h.number}", _box(h.number)) for h, n in zip(hosts, networks, strict=True)]
    for host, network in zip(hosts, networks, strict=True):
        for other, peer in zip(hosts, peers, strict=True):
            if other is not host:
                host.learn(network, peer)
    return networks, peers


@pytest.mark.parametrize("six", [False, True], ids=["underlay-ipv4", "underlay-ipv6"])
def test_containers_of_three_hosts_reach_each_other_with_the_largest_packets(wire: Wire, six: bool) -> None:
    _full_mesh(wire.hosts, six=six)
    inner = UNDERLAY_MTU - (70 if six else 50)
    for host in wire.hosts:
        for other in wire.hosts:
            if other is host:
                continue
            until(lambda: host.ping(f"a{host.number}", f"10.7.0.{other.number}"), "an answer", 10)  # noqa: B023
            assert host.ping(f"a{host.number}", f"fd00:7::{other.number}")
            assert host.ping(f"a{host.number}", f"10.7.0.{other.number}", "-M", "do", "-s", inner - 28)
            assert not host.ping(f"a{host.number}", f"10.7.0.{other.number}", "-M", "do", "-s", inner - 27)
        assert host.reconciler.diff(sandboxes=True) == []


def test_overlays_with_one_subnet_are_apart(wire: Wire) -> None:
    first, second, _ = wire.hosts
    _full_mesh([first, second])
    others = {host: host.network(4098, SUBNETS) for host in (first, second)}
    for host, network in others.items():
        host.use(network)
    # The same addresses as in the first network, and one more that is not in it.
    peer = second.attach(others[second], "b2", _box(2))
    alone = second.attach(others[second], "b9", _box(9))
    first.attach(others[first], "b1", _box(1))
    first.learn(others[first], peer)
    first.learn(others[first], alone)
    second.learn(others[second], peer.model_copy(update={"host": first.address, "id": "b1b1b1b1b1b1", "mac":
                 "02:42:0a:07:00:01", "addresses": _box(1)}))  # fmt: skip
    until(lambda: first.ping("b1", "10.7.0.9"), "an answer in the second network", 10)
    until(lambda: first.ping("b1", "10.7.0.2"), "an answer in the second network", 10)
    assert not first.ping("a1", "10.7.0.9")
    run(second.boxes["b2"], "ip", "link", "set", "eth0", "down")
    assert first.ping("a1", "10.7.0.2"), "the first network's container is another one"
    assert not first.ping("b1", "10.7.0.2")


def test_nothing_is_flooded(wire: Wire) -> None:
    first = wire.hosts[0]
    _full_mesh(wire.hosts)
    until(lambda: first.ping("a1", "10.7.0.2"), "an answer", 10)
    sent = _sent(first)
    run(first.boxes["a1"], "ping", "-c2", "-W1", "-i0.2", "-b", "10.7.0.255", check=False)  # broadcast
    run(first.boxes["a1"], "ping", "-c1", "-W1", "10.7.0.77", check=False)  # ARP for nobody
    run(first.boxes["a1"], "ping", "-c1", "-W1", "ff02::1%eth0", check=False)  # multicast
    assert _sent(first) == sent, "frames without an entry left the host"
    assert "02:42:0a:07:00:02" in run(first.boxes["a1"], "ip", "neigh", "show", "10.7.0.2").stdout
    # Somebody answered for the container on the other host: the question did not travel.
    run(first.boxes["a1"], "ip", "neigh", "flush", "all")
    run(wire.path, "ip", "link", "set", "h2", "down")
    run(first.boxes["a1"], "ping", "-c1", "-W1", "10.7.0.2", check=False)
    assert "02:42:0a:07:00:02" in run(first.boxes["a1"], "ip", "neigh", "show", "10.7.0.2").stdout


def _sent(host: Host) -> int:
    """Return how many frames have left by the tunnel; the kernel counts those without an entry as dropped."""
    (link,) = json.loads(run(host.netns, "ip", "-s", "-j", "link", "show", "type", "vxlan").stdout)
    return int(link["stats64"]["tx"]["packets"])


def test_a_container_moves_and_goes_and_its_host_changes_address(wire: Wire) -> None:
    first, second, third = wire.hosts
    networks, peers = _full_mesh(wire.hosts)
    until(lambda: first.ping("a1", "10.7.0.2"), "an answer", 10)
    # The second host gets another address: its tunnel and the entries of the others follow, in place.
    run(second.netns, "ip", "address", "add", "192.0.2.22/24", "dev", "eth0")
    run(second.netns, "ip", "address", "del", f"{second.address}/24", "dev", "eth0")
    run(second.netns, "ip", "address", "replace", "192.0.2.22/24", "dev", "eth0")
    second.use(networks[1].model_copy(update={"host": "192.0.2.22"}))
    moved = peers[1].model_copy(update={"host": "192.0.2.22"})
    for host, network in ((first, networks[0]), (third, networks[2])):
        host.learn(network, moved)
    until(lambda: first.ping("a1", "10.7.0.2"), "an answer from the new address", 10)
    assert second.ping("a2", "10.7.0.3")
    for host in wire.hosts:
        assert host.reconciler.diff(sandboxes=True) == []
    # It goes: no entry is left, and nobody answers for it any more.
    first.forget(networks[0], moved)
    assert "10.7.0.2 " not in run(first.netns, "ip", "neigh").stdout
    assert moved.mac not in run(first.netns, "bridge", "fdb").stdout
    run(first.boxes["a1"], "ip", "neigh", "flush", "all")
    assert not first.ping("a1", "10.7.0.2")
    assert first.ping("a1", "10.7.0.3")


def test_what_somebody_takes_away_is_repaired(wire: Wire) -> None:
    first = wire.hosts[0]
    networks, peers = _full_mesh(wire.hosts[:2])
    bridge, tunnel = networks[0].ifname, networks[0].host_name("vx")
    run(first.netns, "bridge", "fdb", "del", peers[1].mac, "dev", tunnel, "self")
    run(first.netns, "ip", "neigh", "del", "10.7.0.2", "dev", bridge)
    run(first.netns, "bridge", "link", "set", "dev", tunnel, "neigh_suppress", "off", "flood", "on")
    states = {"/".join(d.key): d.state for d in first.reconciler.diff()}
    assert set(states.values()) == {"missing", "differs"}
    assert len(states) == 3
    first.reconciler.repair()
    assert first.reconciler.diff() == []
    until(lambda: first.ping("a1", "10.7.0.2"), "an answer", 10)


def test_many_peers_are_learned_at_once_and_a_bad_one_harms_no_other(wire: Wire) -> None:
    host = wire.hosts[0]
    network = host.network(4100, ("10.8.0.0/16",))
    host.use(network)
    peers = [
        Peer(id=f"{n:012x}", host=f"192.0.2.{2 + n % 2}", mac=f"02:42:0a:08:{n >> 8:02x}:{n & 255:02x}",
             addresses=(f"10.8.{n >> 8}.{n & 255}/16",))
        for n in range(1, 1001)
    ]  # fmt: skip
    assert host.learn_all(network, peers[:500]) == {}
    assert host.reconciler.diff() == []
    # One is in the kernel already, and leads elsewhere; one is another one's: the rest are made all the same.
    tunnel, twin = network.host_name("vx"), peers[0].model_copy(update={"id": "f" * 12})
    run(host.netns, "bridge", "fdb", "add", peers[700].mac, "dev", tunnel, "dst", "192.0.2.99", "self")
    assert list(host.learn_all(network, [*peers[500:], twin])) == [f"peer:{network.id}:{twin.id}"]
    assert host.reconciler.diff() == []
    assert len(run(host.netns, "ip", "-4", "neigh", "show", "dev", network.ifname).stdout.splitlines()) == 1000
    host.reconciler.remove_all([f"peer:{network.id}:{peer.id}" for peer in peers])
    assert "02:42:0a:08" not in run(host.netns, "bridge", "fdb").stdout
    assert "10.8." not in run(host.netns, "ip", "neigh").stdout
