"""The cluster as the rest of the engine sees it.

    cluster.watch(listener)                       before `start`: who hears of networks, peers and hosts
    cluster.start()                               register this node, follow networks and nodes
    cluster.networks.create(build) / remove(id)   networks, once for all hosts
    cluster.endpoints.join(network, endpoint)     an endpoint with its addresses, in one transaction; `leave` undoes it
    cluster.use(network) / unuse(network)         hear of the endpoints on other hosts, while it is in use on this one
    cluster.members.publish({"wireguard": KEY})   values for other nodes, which see them in `Host.keys`

Running traffic needs none of it: while the store is away what is known stays, and is compared when it is back.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from engine.cluster.addresses import Endpoints
from engine.cluster.follow import Follower
from engine.cluster.membership import Membership, Memory
from engine.cluster.model import ENDPOINTS, NETWORKS, NODES, ClusterEndpoint, ClusterNetwork, Document, Node, decode
from engine.cluster.networks import Networks
from engine.cluster.options import GRACE_SECONDS, READY_SECONDS
from engine.cluster.peers import Changes, Peers, Remote, View
from engine.cluster.static import Partition
from engine.cluster.store import Batch, ClusterStore, Entry, Listing
from engine.spec.network import Host

__all__ = ["Changes", "Cluster", "Listener", "Remote", "Settings"]


class Listener(Protocol):
    """Who is told what happens in the cluster. Calls come from threads of the cluster, those of a kind in order."""

    def network(self, id: str, network: ClusterNetwork | None) -> None:
        """A network is there, or is not any more."""

    def peers(self, network: str, changes: Changes) -> Collection[str]:
        """Endpoints on other hosts have come, changed or gone.

        Returns those that could not be taken over: they are told again later, and all are if it raises.
        """

    def missed(self, network: str, endpoints: Collection[str]) -> None:
        """The cluster has these endpoints of this node no more: they have left, or somebody has taken them away.

        Told again later if it raises.
        """

    def hosts(self) -> None:
        """Nodes have come, gone, moved, or published something else."""

    def returned(self) -> None:
        """This node is in the cluster (again): what the cluster has of it may be old."""


@dataclass(frozen=True)
class Settings:
    """How patient a node is, in seconds."""

    grace: int = GRACE_SECONDS
    """How long a node without a sign of life keeps its endpoints."""
    ready: int = READY_SECONDS
    """After how long without a sign a daemon counts as down."""
    wait: float = 0.0
    """How long joins wait for a store that cannot be reached; 0: they fail at once."""
    memory: Memory = field(default_factory=Memory)
    partition: Partition | None = None
    """What hosts agree on without a word, where a file of peers stands for a store."""


class Cluster:
    """This node's way to its cluster. Thread-safe."""

    def __init__(self, store: ClusterStore, node: Node, settings: Settings | None = None) -> None:
        settings = settings or Settings()
        self.store = store
        self.partition = settings.partition
        self._listener: Listener | None = None
        self._guard = threading.Lock()
        self._nodes: dict[str, Node] = {}
        self.knows_hosts = False
        """Whether `hosts` are those of the cluster: not while a daemon that has just started has not heard of them."""
        self._away: dict[str, str] = {}
        self.members = Membership(
            store, node, settings.memory, grace=settings.grace, ready=settings.ready, changed=self._returned
        )
        self.networks = Networks(store, self._network, settings.wait)
        self.endpoints = Endpoints(store, self.members, settings.wait)
        self._peers = Peers(store, node.name, self._node_of, self._told, lambda: self.knows_hosts, self._missed)
        self._followers = [
            Follower(store, NODES, _Nodes(self), lambda why: self._reached("nodes", why)),
            Follower(store, NETWORKS, self.networks, lambda why: self._reached("networks", why)),
        ]

    @property
    def node(self) -> Node:
        """This node."""
        return self.members.node

    def watch(self, listener: Listener) -> None:
        """Say who is told; before `start`."""
        self._listener = listener

    def start(self, *, strict: bool = True, patience: float = 2.0) -> None:
        """Register, and follow what there is; `patience` is for how long the first listing is waited for.

        With `strict` it raises what keeps this node out: Unavailable, Conflict for a name or address that another node
        has, Unsupported for a cluster of another version, Forbidden. Otherwise it is tried again.
        """
        self.members.start(strict=strict)
        for follower in self._followers:
            follower.start()
        if self.members.fault is None:
            for follower in self._followers:
                follower.wait(patience)

    def hosts(self) -> tuple[Host, ...]:
        """Return the other nodes, by name."""
        with self._guard:
            others = [n for n in self._nodes.values() if n.name != self.node.name]
        return tuple(Host(name=n.name, address=n.address, keys=n.keys) for n in sorted(others, key=lambda n: n.name))

    def use(self, network: str) -> View:
        """Hear of a network's endpoints on other hosts from now on."""
        return self._peers.use(network)

    def unuse(self, network: str) -> None:
        """Hear of them no longer."""
        self._peers.unuse(network)

    def seed(self, network: str, known: Mapping[str, Remote]) -> None:
        """Use a network whose peers were known in an earlier life of the daemon: differences to them are told."""
        self._peers.seed(network, known)

    def faults(self) -> list[str]:
        """Say, in sentences, what is wrong between this node and the cluster."""
        found = [f"this node is not in the cluster: {self.members.fault}"] if self.members.fault else []
        with self._guard:
            away = {what: why for what, why in self._away.items() if why}
        if away and not found:
            found = [f"the {' and '.join(away)} of the cluster are not heard of: {next(iter(away.values()))}"]
        return found

    def garbage(self) -> list[str]:
        """Return the keys of nodes, networks and endpoints that hold something else. Raises Unavailable."""
        found: list[str] = []
        kinds: tuple[tuple[str, type[Document]], ...] = (
            (NODES, Node),
            (NETWORKS, ClusterNetwork),
            (ENDPOINTS, ClusterEndpoint),
        )
        for prefix, model in kinds:
            found += [e.key for e in self.store.list(prefix).entries if decode(model, e.key, e.value) is None]
        return found

    def close(self, *, leave: bool = False) -> None:
        """End it; with `leave` the node disappears from the cluster now, with its endpoints."""
        for follower in self._followers:
            follower.close()
        self._peers.close()
        self.members.close(leave=leave)
        self.store.close()

    def _node_of(self, name: str) -> Node | None:
        with self._guard:
            return self._nodes.get(name)

    def _reached(self, what: str, why: str) -> None:
        with self._guard:
            self._away[what] = why

    def _network(self, id: str, network: ClusterNetwork | None) -> None:
        if self._listener is not None:
            self._listener.network(id, network)

    def _told(self, network: str, changes: Changes) -> Collection[str]:
        return self._listener.peers(network, changes) if self._listener is not None else ()

    def _missed(self, network: str, endpoints: Collection[str]) -> None:
        if self._listener is not None:
            self._listener.missed(network, endpoints)

    def _returned(self) -> None:
        if self._listener is not None:
            self._listener.returned()

    def _put_nodes(self, gone: set[str], fresh: Mapping[str, Node]) -> None:
        with self._guard:
            before = dict(self._nodes)
            for name in gone:
                self._nodes.pop(name, None)
            self._nodes.update(fresh)
            changed = before != self._nodes or not self.knows_hosts
            self.knows_hosts = True
        if changed:
            self._peers.nodes_changed()
            if self._listener is not None:
                self._listener.hosts()


class _Nodes:
    """What the follower of the nodes tells."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def reset(self, listing: Listing) -> None:
        """Take in all nodes."""
        fresh = {n.name: n for entry in listing.entries if (n := _read(entry))}
        self._cluster._put_nodes(set(self._cluster._nodes) - fresh.keys(), fresh)

    def changed(self, batch: Batch) -> None:
        """Take in changes, in order."""
        for change in batch.changes:
            node = _read(change) if isinstance(change, Entry) else None
            name = change.key.removeprefix(NODES)
            self._cluster._put_nodes(set() if node else {name}, {name: node} if node else {})


def _read(entry: Entry) -> Node | None:
    node = decode(Node, entry.key, entry.value)
    return node if node is not None and NODES + node.name == entry.key else None
