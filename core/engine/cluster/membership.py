"""Nodes: this daemon's own place in the cluster, kept by two leases, and the other nodes.

The short lease says that the daemon answers: `ready` or `down`. The long one (the grace time) carries the node and its
endpoints: a daemon that is killed and started again within it finds everything as it was, since its number is kept on
the disk. Nobody has to clean up after a dead node: when the long lease ends, the store removes all that was its.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from secrets import token_hex

from engine.cluster.model import ADDRESSES, LAYOUT, NODES, READY, SPEC, Identity, Node, decode
from engine.cluster.options import GRACE_SECONDS, READY_SECONDS
from engine.cluster.store import ClusterStore, Condition, Delete, Entry, Holds, Is, LeaseLost, Put
from engine.spec.errors import Conflict, EngineError, NotFound, Unavailable, Unsupported
from engine.spec.network import NetworkDriver

log = logging.getLogger(__name__)
ATTEMPTS = 8
STATIC = b"static"
"""Stands for the sign of a node of which nobody hears."""


@dataclass(frozen=True)
class NodeState:
    """A node, and whether its daemon answers."""

    node: Node
    status: str
    """"ready"; "down": it gave no sign for some seconds; "static": nobody would hear of it."""
    own: bool = False


class Memory:
    """What a daemon keeps of its membership from one life to the next: the number of its long lease."""

    def __init__(self, lease: int = 0, write: Callable[[int], None] = lambda lease: None) -> None:
        self.lease = lease
        self._write = write

    def keep(self, lease: int) -> None:
        """Note another lease."""
        self.lease = lease
        self._write(lease)


class Membership:
    """This node. `changed` is called after it has registered, and after the store was away: things may have gone."""

    def __init__(
        self,
        store: ClusterStore,
        node: Node,
        memory: Memory,
        *,
        grace: int = GRACE_SECONDS,
        ready: int = READY_SECONDS,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store
        self._node = node
        self._memory = memory
        self._grace, self._ready = grace, min(ready, max(1, grace // 2))  # first down, then gone
        self._changed = changed
        self._guard = threading.RLock()
        self._registered = False
        self._fault: EngineError | None = None
        self._ready_lease = 0
        self._written: tuple[Holds, ...] = ()
        """What the store has of this node, as it was written last."""
        self._closed = threading.Event()
        self._hurry = threading.Event()
        self._thread = threading.Thread(target=self._run, name="membership", daemon=True)

    @property
    def node(self) -> Node:
        """This node."""
        return self._node

    @property
    def fault(self) -> EngineError | None:
        """Why this node is not in the cluster now."""
        return self._fault

    def start(self, *, strict: bool = True) -> None:
        """Register, and stay registered from now on; without `strict`, what keeps this node out is tried again.

        Raises Unavailable, Conflict for a name or an address that another node has, Unsupported for a cluster of
        another version, Forbidden.
        """
        try:
            self._register()
        except EngineError as err:
            if strict:
                raise
            self._fault = err
        self._thread.start()

    def lease(self) -> int:
        """Return the lease on which this node's things hang. Raises Unavailable, saying why there is none."""
        with self._guard:
            if self._registered:
                return self._memory.lease
            raise Unavailable(
                "this node is not in the cluster at the moment",
                why=str(self._fault or "it has not registered yet"),
                hint="Running containers go on. See: engine node ls, engine doctor",
            ) from self._fault

    def lost(self) -> None:
        """Say that the long lease was found to have ended: register anew, soon."""
        with self._guard:
            self._registered = False
        self._hurry.set()

    def publish(self, keys: Mapping[str, str]) -> None:
        """Publish values for other nodes, such as public keys; an empty one is taken back. Raises Unavailable."""
        with self._guard:
            merged = {k: v for k, v in {**self._node.keys, **keys}.items() if v}
            if merged != self._node.keys:
                self._node = self._node.model_copy(update={"keys": merged})
                if self._registered:
                    self._register()

    def states(self) -> list[NodeState]:
        """Return all nodes, by name. Raises Unavailable."""
        ready = {e.key.removeprefix(READY): e.value for e in self._store.list(READY).entries}
        nodes = [decode(Node, e.key, e.value) for e in self._store.list(NODES).entries]
        return [NodeState(n, _status(ready.get(n.name)), n.name == self._node.name) for n in nodes if n]

    def remove(self, name: str) -> None:
        """Make a node that is down disappear at once, with its endpoints.

        Raises NotFound, Conflict for one that answers, Unavailable.
        """
        entry = self._store.get(NODES + name)
        if entry is None:
            raise NotFound(f"the cluster has no node {name}", hint="See: engine node ls")
        if self._store.get(READY + name) is not None:
            raise Conflict(f"node {name} answers, and is not removed", hint="Stop its daemon first")
        node = decode(Node, entry.key, entry.value)
        if node is not None and node.lease:
            self._store.revoke(node.lease)
        self._store.commit([], [Delete(entry.key)])  # what hung on no lease, since it is garbage

    def close(self, *, leave: bool) -> None:
        """End. With `leave`, the node and all its endpoints disappear now, otherwise after the grace time."""
        self._closed.set()
        self._hurry.set()
        if self._thread.is_alive():
            self._thread.join()
        try:
            if self._ready_lease:
                self._store.revoke(self._ready_lease)
            if leave and self._memory.lease:
                self._store.revoke(self._memory.lease)
                self._memory.keep(0)
        except Unavailable as err:
            log.info("the cluster will notice by itself that this node has gone: %s", err)

    # Registration

    def _register(self) -> None:
        """Write this node into the store. Raises as `start` says, and Unavailable."""
        with self._guard:
            self._check_version()
            for _ in range(ATTEMPTS):
                lease = self._long_lease()
                if self._write(lease):
                    self._registered, self._fault = True, None
                    return
            raise Unavailable("this node cannot be registered", why="others change the same keys all the time")

    def _check_version(self) -> None:
        own = NetworkDriver.SPEC
        entry = self._store.get(SPEC)
        if entry is None:
            fresh = Identity(id=token_hex(16), spec=(own.major, own.minor))
            self._store.commit([Is(SPEC)], [Put(SPEC, fresh.encode())])
            entry = self._store.get(SPEC)
        found = decode(Identity, SPEC, entry.value) if entry else None
        if found is None:
            raise Unsupported(
                "the store holds something that is not a cluster of Engine's", why=f"the key {SPEC} cannot be read",
                hint="Give another etcd, or remove the key if nothing uses it",
            )  # fmt: skip
        if found.layout[0] != LAYOUT[0] or found.spec[0] != own.major:
            raise Unsupported(
                "the cluster is of another version",
                why=f"it has layout {_dotted(found.layout)} and network specification {_dotted(found.spec)}; "
                f"this engine has {_dotted(LAYOUT)} and {own}",
                hint="Nodes of one cluster have engines of the same major version",
            )

    def _long_lease(self) -> int:
        if self._memory.lease:
            try:
                self._store.keep(self._memory.lease)
                return self._memory.lease
            except LeaseLost:
                log.info("the time of grace is over: what this node had in the cluster is written anew")
        lease = self._store.grant(self._grace)
        self._memory.keep(lease)
        return lease

    def _write(self, lease: int) -> bool:
        node = self._node.model_copy(update={"lease": lease})
        key, place = NODES + node.name, ADDRESSES + node.address
        entry, holder = self._store.get(key), self._store.get(place)
        former = decode(Node, key, entry.value) if entry else None
        if former and former.id != node.id:
            raise Conflict(
                f"the cluster has a node {node.name} already", why=f"it is at {former.address}",
                hint=f"Choose another --node-name. If it is an earlier life of this host: engine node rm {node.name}",
                details={"node": node.name, "address": former.address},
            )  # fmt: skip
        if holder and holder.value.decode(errors="replace") != node.name:
            other = holder.value.decode(errors="replace")
            raise Conflict(
                f"the address {node.address} belongs to node {other} of the cluster",
                hint="Give this host's own address with --advertise", details={"node": other, "address": node.address},
            )  # fmt: skip
        if former:
            node = node.model_copy(update={"joined": former.joined})
        if not self._ready_lease:
            self._ready_lease = self._store.grant(self._ready)
        own = [
            Put(key, node.encode(), lease), Put(place, node.name.encode(), lease),
            Put(READY + node.name, node.id.encode(), self._ready_lease),
        ]  # fmt: skip
        moved = [Delete(ADDRESSES + former.address)] if former and former.address != node.address else []
        try:
            done = self._store.commit([_as_seen(key, entry), _as_seen(place, holder)], [*own, *moved])
        except LeaseLost:
            self._ready_lease = 0
            return False
        self._written = tuple(Holds(put.key, put.value) for put in own)
        return done

    # Staying

    def _run(self) -> None:
        settled = self._fault is None
        if settled:
            self._tell()
        while not self._closed.is_set():
            self._hurry.wait(self._ready / 3 if settled else min(1.0, self._ready / 3))
            self._hurry.clear()
            if self._closed.is_set():
                return
            was, settled = settled and self._registered, self._stay()
            if settled and not was:
                log.info("node %s is in the cluster", self._node.name)
                self._tell()

    def _stay(self) -> bool:
        """Keep both leases, and see that what was written is there; register where that is needed.

        Tells whether this node has been in the cluster all along.
        """
        registered = self._registered
        try:
            if registered:
                self._store.keep(self._memory.lease)
                self._store.keep(self._ready_lease)
                with self._guard:
                    self._registered = self._store.commit(self._written, [])
                if not self._registered:
                    log.warning("somebody has changed what the cluster has of this node: it is written anew")
                    self._hurry.set()
                    return False
            else:
                self._register()
        except LeaseLost:
            with self._guard:
                self._registered, self._ready_lease = False, 0
            self._hurry.set()
            return False
        except EngineError as err:
            if self._fault is None or str(err) != str(self._fault):
                log.warning("this node is not in the cluster: %s", err)
            with self._guard:
                self._fault = err
                self._registered = self._registered and isinstance(err, Unavailable)
            return False
        self._fault = None
        return True

    def _tell(self) -> None:
        try:
            self._changed()
        except Exception:  # whoever has a fault there, this node must stay in the cluster
            log.exception("what this node has in the cluster could not be compared")


def _as_seen(key: str, entry: Entry | None) -> Condition:
    return Is(key, entry.revision if entry else 0)


def _status(sign: bytes | None) -> str:
    return "down" if sign is None else "static" if sign == STATIC else "ready"


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))
