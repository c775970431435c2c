"""Hosts as network namespaces on one wire, each with a reconciler: the overlay driver's plans, without a cluster.

The tests hand in what a cluster would: the network's number, this host's address, and the endpoints of the others.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.namespaces import call_in

from engine.network.vet import vet
from engine.reconcile import netns
from engine.reconcile.applier import Sandbox, Tag
from engine.reconcile.appliers import network_appliers
from engine.reconcile.reconciler import Reconciler
from engine.spec.errors import EngineError
from engine_drivers.network.overlay import OverlayDriver, OverlayOptions
from engine_sdk import Endpoint, LinkFact, Network, Peer, Plan, Subnet

UNDERLAY_MTU = 1500


def run(namespace: Path, *argv: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a command in a network namespace."""
    words = ["nsenter", f"--net={namespace}", *map(str, argv)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)
    assert not check or done.returncode == 0, f"{words}: {done.stderr or done.stdout}"
    return done


class Host:
    """One host: its namespace, its reconciler, and the containers (bare namespaces) on it."""

    def __init__(self, directory: Path, number: int, wire: Path) -> None:
        self.directory, self.number = directory, number
        self.address, self.address6 = f"192.0.2.{number}", f"2001:db8:2::{number}"
        self.netns = netns.create(directory / f"host{number}").path
        run(wire, "ip", "link", "add", f"h{number}", "type", "veth", "peer", "name", "eth0", "netns", self.netns)
        run(wire, "ip", "link", "set", f"h{number}", "master", "wire", "up")
        run(self.netns, "ip", "address", "add", f"{self.address}/24", "dev", "eth0")
        run(self.netns, "ip", "address", "add", f"{self.address6}/64", "dev", "eth0", "nodad")
        run(self.netns, "ip", "link", "set", "eth0", "up")
        self.tag = Tag(f"0000000{number}", 0x0BAD0000 + number, f"engine-h{number}")
        self.reconciler: Reconciler = call_in(self.netns, self._reconciler)
        self.driver = OverlayDriver()
        self.boxes: dict[str, Path] = {}

    def _reconciler(self) -> Reconciler:
        reconciler = Reconciler(self.tag, network_appliers(self.tag))
        reconciler.collect()  # its thread, which is made with its first work, is in this namespace
        return reconciler

    def network(self, vni: int, subnets: Sequence[str], *, six: bool = False, **options: Any) -> Network[Any]:
        """Return the network of a number as this host's driver gets it."""
        id = f"{vni:04x}".ljust(12, "0")
        return Network[Any](
            id=id,
            name=f"net{vni}",
            driver="overlay",
            options=OverlayOptions(**options),
            subnets=tuple(Subnet(prefix=prefix) for prefix in subnets),
            mac=f"02:0{self.number}:00:00:{vni >> 8:02x}:{vni & 255:02x}",
            ifname=f"br-{id}",
            vni=vni,
            host=self.address6 if six else self.address,
            underlay=LinkFact(name="eth0", mtu=UNDERLAY_MTU),
        )

    def use(self, network: Network[Any]) -> None:
        """Make the network."""
        plan = vet(self.driver.network_plan(network), network, driver="overlay")
        self.reconciler.apply(f"net:{network.id}", plan)

    def attach(self, network: Network[Any], name: str, addresses: Sequence[str]) -> Peer:
        """Start a container on the network; return what the other hosts get to know of it."""
        sandbox = netns.create(self.directory / f"box-{name}")
        self.boxes[name] = sandbox.path
        endpoint = endpoint_of(network, name, addresses)
        plan = vet(self.driver.endpoint_plan(network, endpoint), network, endpoint, driver="overlay")
        self.reconciler.apply(f"ep:{name}", plan, sandbox=Sandbox(sandbox.path))
        assert network.host is not None
        return Peer(id=endpoint.id, host=network.host, mac=endpoint.mac, addresses=tuple(addresses))

    def learn(self, network: Network[Any], peer: Peer) -> Plan:
        """Make what leads to a container of another host."""
        plan = self.driver.peer_plan(network, peer)
        self.reconciler.apply(f"peer:{network.id}:{peer.id}", plan)
        return plan

    def learn_all(self, network: Network[Any], peers: Sequence[Peer]) -> dict[str, EngineError]:
        """Make what leads to many containers of other hosts; return what fails."""
        return self.reconciler.apply_all(
            {f"peer:{network.id}:{p.id}": self.driver.peer_plan(network, p) for p in peers}
        )

    def forget(self, network: Network[Any], peer: Peer) -> None:
        """Remove what leads to a container of another host."""
        assert self.reconciler.remove(f"peer:{network.id}:{peer.id}") == []

    def ping(self, box: str, address: str, *options: object) -> bool:
        """Return whether an answer comes; one lost packet is no failure."""
        return run(self.boxes[box], "ping", "-c1", "-W2", "-i0.2", *options, address, check=False).returncode == 0

    def close(self) -> None:
        self.reconciler.remove("wireguard")  # its process would keep the namespace
        self.reconciler.close()
        for path in (*self.boxes.values(), self.netns):
            netns.destroy(path)


def endpoint_of(network: Network[Any], name: str, addresses: Sequence[str]) -> Endpoint:
    """Return a container's endpoint; its MAC address comes from its first address, as the core derives it."""
    parts = [int(part) for part in addresses[0].partition("/")[0].split(".")]
    return Endpoint(
        id=name.encode().hex().ljust(12, "0"),
        ifname="eth0",
        host_ifname=f"v{network.vni}{name}"[:15],
        mac="02:42:" + ":".join(f"{part:02x}" for part in parts),
        addresses=tuple(addresses),
    )


class Wire:
    """Hosts 1 to `count` on one bridge in a namespace of its own; a context manager."""

    def __init__(self, directory: Path, count: int) -> None:
        self.path = netns.create(directory / "wire").path
        run(self.path, "ip", "link", "add", "wire", "type", "bridge")
        run(self.path, "ip", "link", "set", "wire", "up")
        with ThreadPoolExecutor(count) as pool:
            self.hosts = list(pool.map(lambda n: Host(directory, n, self.path), range(1, count + 1)))

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        for host in self.hosts:
            host.close()
        netns.destroy(self.path)
