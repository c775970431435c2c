"""Networks of scope global: defined once for all hosts, with their pools and VNIs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence

from engine.cluster.model import (
    ALLOCATION,
    CLAIMS,
    ENDPOINTS,
    FIRST_VNI,
    LAST_VNI,
    NETWORKS,
    ClusterEndpoint,
    ClusterNetwork,
    decode,
)
from engine.cluster.patience import patiently
from engine.cluster.store import Batch, ClusterStore, Condition, Delete, Entry, Is, Listing, Nothing, Put
from engine.spec.errors import Conflict, Unavailable

log = logging.getLogger(__name__)
ATTEMPTS = 32
"""So many times a network is tried to be made while other hosts make networks, too."""
Build = Callable[[Sequence[ClusterNetwork]], ClusterNetwork]
"""Makes a network, given all that there are: chooses name, pools and VNI beside theirs. Called again when others were
quicker."""


class Networks:
    """All networks of the cluster, mirrored. `changed` is told of each that is there (or not any more: None)."""

    def __init__(
        self, store: ClusterStore, changed: Callable[[str, ClusterNetwork | None], None], wait: float = 0.0
    ) -> None:
        """`wait` is for how many seconds a creation waits for a store that cannot be reached."""
        self._store = store
        self._wait = wait
        self._tell = changed
        self._guard = threading.Lock()
        self._known: dict[str, ClusterNetwork] = {}
        self._former: frozenset[str] = frozenset()

    def seed(self, ids: Iterable[str]) -> None:
        """Say which networks an earlier life of the daemon knew: that one is gone meanwhile is told, too."""
        self._former = frozenset(ids)

    def known(self) -> Mapping[str, ClusterNetwork]:
        """Return the networks by id, as they were seen last: also while the store cannot be reached."""
        with self._guard:
            return dict(self._known)

    def create(self, build: Build) -> ClusterNetwork:
        """Make a network. Raises what `build` raises, Conflict for a name or VNI that is taken, Unavailable."""
        return patiently(self._wait, lambda: self._create(build))

    def restore(self, network: ClusterNetwork) -> None:
        """Write a network anew that somebody took out of the cluster; one that is there is no error.

        Raises Conflict if another one has its name or VNI by now, Unavailable.
        """
        self._create(lambda found: next((other for other in found if other.id == network.id), network))

    def _create(self, build: Build) -> ClusterNetwork:
        for _ in range(ATTEMPTS):
            turn, entries = self._store.get(ALLOCATION), self._store.list(NETWORKS).entries
            found = _decoded(entries)
            network = build(found)
            if network in found:
                return network
            _check_unique(network, found)
            garbage = next((e.revision for e in entries if e.key == NETWORKS + network.id), 0)
            conditions = [Is(ALLOCATION, turn.revision if turn else 0), Is(NETWORKS + network.id, garbage)]
            operations = [Put(ALLOCATION, network.id.encode()), Put(NETWORKS + network.id, network.encode())]
            if self._store.commit(conditions, operations):
                return network
            entry = self._store.get(NETWORKS + network.id)
            if entry is not None and entry.value == network.encode():
                return network  # an answer got lost, and it was tried again
        raise Unavailable("the network cannot be made", why="other hosts make networks all the time")

    def remove(self, id: str) -> None:
        """Remove a network from the cluster; one that is gone is no error.

        Raises Conflict, naming containers and hosts, while it has endpoints anywhere; Unavailable.
        """
        for _ in range(ATTEMPTS):
            entry = self._store.get(NETWORKS + id)
            if entry is None:
                return
            endpoints = f"{ENDPOINTS}{id}/"
            unused: list[Condition] = [] if self._check_unused(entry, endpoints) else [Nothing(endpoints)]
            if self._store.commit(
                [Is(NETWORKS + id, entry.revision), *unused],
                [Delete(NETWORKS + id), Delete(f"{CLAIMS}{id}/", below=True)],
            ):
                return
        raise Unavailable("the network cannot be removed", why="it changes all the time")

    def _check_unused(self, network: Entry, endpoints: str) -> bool:
        """Raise Conflict for a network in use; tell whether there are endpoints that are assumed alone."""
        entries = self._store.list(endpoints).entries
        read = {entry.key: decode(ClusterEndpoint, entry.key, entry.value) for entry in entries}
        for key in (key for key, endpoint in read.items() if endpoint is None):
            self._store.commit([], [Delete(key)])  # what nobody can read belongs to nobody
        found = [e for e in read.values() if e and not e.assumed]
        if not found:
            return any(read.values())
        known = decode(ClusterNetwork, network.key, network.value)
        users = ", ".join(sorted(f"{e.name or e.id[:12]} on {e.node}" for e in found))
        raise Conflict(
            f"network {known.name if known else network.key} is in use by {users}",
            hint="Stop the containers, or: engine network disconnect",
            details={"containers": [e.container for e in found], "nodes": sorted({e.node for e in found})},
        )

    # What the follower of the prefix tells

    def reset(self, listing: Listing) -> None:
        """Take in all networks."""
        fresh = {n.id: n for n in _decoded(listing.entries)}
        with self._guard:
            former, self._known = self._known, dict(fresh)
            gone, self._former = (former.keys() | self._former) - fresh.keys(), frozenset()
        for id in gone:
            self._tell(id, None)
        for id, network in fresh.items():
            if former.get(id) != network:
                self._tell(id, network)

    def changed(self, batch: Batch) -> None:
        """Take in changes."""
        for change in batch.changes:
            id = change.key.removeprefix(NETWORKS)
            network = _network(change) if isinstance(change, Entry) else None
            with self._guard:
                if self._known.get(id) == network:
                    continue
                if network is None:
                    self._known.pop(id, None)
                else:
                    self._known[id] = network
            self._tell(id, network)


def free_vni(networks: Sequence[ClusterNetwork]) -> int:
    """Return the lowest VNI that no network has. Raises Unavailable when there is none."""
    taken = {n.vni for n in networks}
    vni = next((v for v in range(FIRST_VNI, LAST_VNI + 1) if v not in taken), None)
    if vni is None:
        raise Unavailable("there is no VNI left")
    return vni


def _network(entry: Entry) -> ClusterNetwork | None:
    network = decode(ClusterNetwork, entry.key, entry.value)
    if network is not None and NETWORKS + network.id != entry.key:
        log.warning("the cluster's key %s holds network %s, and is passed over", entry.key, network.id)
        return None
    return network


def _decoded(entries: Sequence[Entry]) -> list[ClusterNetwork]:
    return [network for entry in entries if (network := _network(entry))]


def _check_unique(network: ClusterNetwork, others: Sequence[ClusterNetwork]) -> None:
    for other in others:
        if other.name == network.name:
            raise Conflict(
                f"network with name {network.name} already exists in the cluster", hint="Choose another name"
            )
        if other.vni == network.vni:
            raise Conflict(
                f"the VNI {network.vni} belongs to network {other.name}", hint="Choose another one, or leave it to us",
                details={"vni": network.vni, "network": other.name},
            )  # fmt: skip
