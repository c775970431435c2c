"""Hosts of a cluster without a kernel: network managers on one store, with reconcilers that remember."""

from __future__ import annotations

import threading

from engine.cluster.cluster import Cluster, Settings
from engine.cluster.membership import Memory
from engine.cluster.model import Node
from engine.network.manager import NetworkManager
from engine.network.model import ContainerRef, EndpointSettings
from engine.network.names import NoNames
from engine.plugins import Plugins
from engine.reconcile.applier import Sandbox
from engine.spec.errors import ApplyFailed, Unavailable
from engine.spec.resource import Plan
from engine.state import State

DRIVER = """
from engine_sdk import *


class Options(NetworkOptions):
    vni: Vni = Field(default=None, description="Its number")


class Routes(NetworkDriver[Options]):
    '''Routes to the other hosts.'''

    caps = NetworkCaps(scope="global", hosts=True)

    def network_plan(self, network):
        return Plan.of(Sysctl(ns="host", name="net.ipv4.ip_forward", value="1"), Dummy(name=network.ifname, mtu=1000 + len(network.hosts)))

    def endpoint_plan(self, network, endpoint):
        return Plan.of(Veth(name=endpoint.host_ifname, peer=endpoint.ifname, peer_mac=endpoint.mac))

    def peer_plan(self, network, peer):
        return Plan.of(Route(ns="host", destination=a.partition("/")[0] + "/32", via=peer.host, link=network.ifname) for a in peer.addresses)
"""  # noqa: E501


class Reconciler:
    """Remembers plans, and fails on demand."""

    def __init__(self) -> None:
        self.plans: dict[str, Plan] = {}
        self.applied = 0
        self.fail = ""
        self.lock = threading.Lock()

    def apply(self, owner, plan, *, sandbox=None, creating=False):
        if self.fail and owner.startswith(self.fail):
            raise ApplyFailed("injected")
        with self.lock:
            self.plans[owner] = plan
            self.applied += 1

    def remove(self, owner, *, namespace_gone=False):
        with self.lock:
            self.plans.pop(owner, None)
        return []

    def apply_all(self, plans):
        errors = {}
        for owner, plan in plans.items():
            try:
                self.apply(owner, plan)
            except ApplyFailed as err:
                errors[owner] = err
        return errors

    def remove_all(self, owners):
        return [difference for owner in owners for difference in self.remove(owner)]

    def adopt(self, owner, plan, *, sandbox=None):
        self.plans[owner] = plan

    def plan_of(self, owner):
        return self.plans.get(owner)

    def peers(self) -> set[str]:
        """Return where there are routes to, as `address via host`."""
        with self.lock:
            plans = [plan for owner, plan in self.plans.items() if owner.startswith("peer:")]
        return {f"{r.destination} via {r.via}" for plan in plans for r in plan.resources}


class Names(NoNames):
    """Remembers the names of endpoints on other hosts."""

    def __init__(self) -> None:
        self.remote: dict[str, str] = {}

    def put_remote(self, endpoint, network):
        self.remote[endpoint.id] = endpoint.name

    def remove_remote(self, id):
        self.remote.pop(id, None)


class Breakable:
    """A store that can be out of reach."""

    def __init__(self, store) -> None:
        self.store, self.away = store, False

    def __getattr__(self, name):
        if self.away and name in ("get", "list", "commit", "watch", "grant", "keep", "revoke"):
            raise Unavailable("the store is away")
        return getattr(self.store, name)


class Host:
    """A host: its database and its reconciler outlive its daemon."""

    def __init__(self, path, store, number: int, **settings) -> None:
        self.path, self.number, self.settings = path / f"host{number}", number, settings
        self.path.mkdir()
        self.name = f"host{number}"
        self.store = Breakable(store)
        self.memory = Memory()
        self.reconciler = Reconciler()
        self.living: set[str] = set()
        self.start()

    def start(self) -> None:
        self.state, self.names = State(self.path / "db"), Names()
        self.networks = NetworkManager(
            self.state, Plugins(), self.reconciler, self.path / "netns", self, names=self.names
        )
        node = Node(name=self.name, id=self.name, address=f"192.0.2.{self.number}", spec=(1, 1))
        settings = {"grace": 30, "ready": 10, "memory": self.memory} | self.settings
        self.cluster = Cluster(self.store, node, Settings(**settings))
        self.networks.spanning.enter(self.cluster, self.path)
        self.networks.restore(self.living)
        self.cluster.start(strict=False)

    def kill(self) -> None:
        """End the daemon as if it had been killed: what the store has of it stays."""
        self.cluster._peers.close()
        for follower in self.cluster._followers:
            follower.close()
        self.cluster.members._closed.set()
        self.cluster.members._hurry.set()
        self.cluster.members._thread.join()
        self.networks.close()
        self.state.close()
        self.reconciler.plans.clear()

    def close(self) -> None:
        self.kill()

    def emit(self, *_arguments) -> None:
        """Events go nowhere."""

    def attach(self, name: str, network: str, **settings):
        ref = ContainerRef(id=name.encode().hex().ljust(64, "0"), name=name, hostname=name)
        self.living.add(ref.id)
        return self.networks.attach(network, ref, Sandbox(self.path / "netns" / ref.id), EndpointSettings(**settings))

    def detach(self, name: str, network: str) -> None:
        id = name.encode().hex().ljust(64, "0")
        self.living.discard(id)
        self.networks.detach(id, network, namespace_gone=True)
