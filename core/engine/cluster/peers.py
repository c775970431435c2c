"""Endpoints on other hosts, of the networks that are in use on this one; nothing is heard of other networks.

Changes are collected for a moment before they are handed on, so that a hundred joins at once are one piece of work.
What could not be handed on is tried again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from engine.cluster.follow import Follower
from engine.cluster.model import ENDPOINTS, ClusterEndpoint, Node, decode
from engine.cluster.store import Batch, ClusterStore, Entry, Listing
from engine.spec.errors import EngineError
from engine.spec.network import Peer

log = logging.getLogger(__name__)
DEBOUNCE_SECONDS = 0.005
FIRST_RETRY, LAST_RETRY = 1.0, 16.0
"""Seconds until what could not be handed on is tried again: twice as long each time."""
NodeOf = Callable[[str], Node | None]


@dataclass(frozen=True)
class Remote:
    """An endpoint on another host, as it is, and as drivers see it."""

    endpoint: ClusterEndpoint
    peer: Peer


Changes = Mapping[str, Remote | None]
"""By endpoint id: what an endpoint on another host is now; None: it is gone."""
Callback = Callable[[str, Changes], Collection[str]]
"""Told of a network's id and changes; returns those that it could not take over. It is told again of these later, and
of all if it raises."""
Missed = Callable[[str, Collection[str]], None]
"""Told of a network's id, and of endpoints of this node which the store does not have any more: they have left, or
somebody has taken them away. If it raises, it is told again later."""


class Peers:
    """The peers of all networks in use. The callback is called in one thread of this, and may take its time."""

    def __init__(
        self,
        store: ClusterStore,
        own_node: str,
        node_of: NodeOf,
        callback: Callback,
        nodes_known: Callable[[], bool] = lambda: True,
        missed: Missed = lambda network, ids: None,
    ) -> None:
        """Until `nodes_known`, which `nodes_changed` follows, an endpoint of a node that nobody knows is as it was."""
        self._store = store
        self.nodes_known = nodes_known
        self.own = own_node
        self._node_of = node_of
        self._callback = callback
        self._missed = missed
        self._views: dict[str, View] = {}
        self._wake = threading.Condition()
        self._due: dict[str, float] = {}
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="peers", daemon=True)
        self._thread.start()

    def use(self, network: str) -> View:
        """Follow a network from now on; one that is followed already is no error."""
        with self._wake:
            view = self._views.get(network)
            if view is None:
                view = self._views[network] = View(self, network)
                view.follower = Follower(self._store, f"{ENDPOINTS}{network}/", view)
                view.follower.start()
            return view

    def unuse(self, network: str) -> None:
        """Follow a network no longer; nothing more is heard of its peers."""
        with self._wake:
            view = self._views.pop(network, None)
            self._due.pop(network, None)
        if view is not None and view.follower is not None:
            view.follower.close()

    def view(self, network: str) -> View | None:
        """Return what is known of a network that is followed."""
        return self._views.get(network)

    def seed(self, network: str, known: Mapping[str, Remote]) -> None:
        """Say what the callback was told in an earlier life: it is told of differences to it alone."""
        with self._wake:
            self.use(network).told.update(known)

    def nodes_changed(self) -> None:
        """Look at all peers again: a node has come, gone or moved."""
        with self._wake:
            for view in self._views.values():
                view.touch(set(view.endpoints) | set(view.told))

    def close(self) -> None:
        """End."""
        with self._wake:
            self._closed = True
            self._wake.notify()
            views = list(self._views)
        for network in views:
            self.unuse(network)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def remote(self, endpoint: ClusterEndpoint) -> Remote | None:
        """Return an endpoint as a peer; None for one of this node, or of a node that nobody knows (yet)."""
        node = self._node_of(endpoint.node) if endpoint.node != self.own else None
        if node is None:
            return None
        peer = Peer(
            id=endpoint.id, host=node.address, mac=endpoint.mac, addresses=endpoint.addresses, node=endpoint.node
        )
        return Remote(endpoint, peer)

    def schedule(self, network: str, delay: float) -> None:
        """Hand on what is new of a network in a moment."""
        with self._wake:
            due = time.monotonic() + delay
            self._due[network] = min(due, self._due.get(network, due))
            self._wake.notify()

    def _run(self) -> None:
        while True:
            with self._wake:
                if self._closed:
                    return
                now = time.monotonic()
                ready = [network for network, due in self._due.items() if due <= now]
                if not ready:
                    self._wake.wait(min(self._due.values()) - now if self._due else None)
                    continue
                views = [self._views[n] for n in ready if self._due.pop(n) is not None and n in self._views]
            for view in views:
                self._hand_on(view)

    def _hand_on(self, view: View) -> None:
        with self._wake:
            changes, missed = view.changes(), set(view.missed)
        failed: Collection[str] = ()
        try:
            if changes:
                failed = self._callback(view.network, changes)
                with self._wake:
                    view.taken_over({id: remote for id, remote in changes.items() if id not in failed})
                if failed:
                    self._again(view, failed)
            if missed:
                self._missed(view.network, missed)
                with self._wake:
                    view.missed -= missed
        except Exception as err:  # whatever it is, it must be told again, and the other networks go on
            unforeseen = not isinstance(err, EngineError)
            log.warning("network %s does not follow the cluster, it is tried again: %s", view.network[:12], err,
                        exc_info=unforeseen)  # fmt: skip
            self._again(view, changes)
            return
        if not failed:
            view.pause = FIRST_RETRY

    def _again(self, view: View, ids: Collection[str]) -> None:
        with self._wake:
            view.touched |= set(ids)
            self.schedule(view.network, view.pause)
            view.pause = min(2 * view.pause, LAST_RETRY)


class View:
    """What is known of a network's endpoints on all hosts. Its fields are guarded by the lock of `Peers`."""

    def __init__(self, peers: Peers, network: str) -> None:
        self.network = network
        self.follower: Follower | None = None
        self.endpoints: dict[str, ClusterEndpoint] = {}
        self.told: dict[str, Remote] = {}
        """What the callback knows."""
        self.touched: set[str] = set()
        self.missed: set[str] = set()
        """Endpoints of this node that the store had, and has no more."""
        self.pause = FIRST_RETRY
        self.addresses: dict[str, int] = {}
        """Addresses that endpoints on all hosts have, counted."""
        self._peers = peers

    @property
    def complete(self) -> bool:
        """Whether all endpoints were heard of once."""
        return self.follower is not None and self.follower.wait(0)

    def taken(self) -> frozenset[str]:
        """Return the addresses that endpoints on all hosts have, as far as was heard."""
        with self._peers._wake:
            return frozenset(self.addresses)

    def reset(self, listing: Listing) -> None:
        """Take in all endpoints (called by the follower)."""
        fresh = {e.id: e for entry in listing.entries if (e := self._read(entry))}
        with self._peers._wake:
            former = set(self.endpoints)
            for id in former - fresh.keys():
                self._set(id, None)
            for id, endpoint in fresh.items():
                self._set(id, endpoint)
            self.touch(former | fresh.keys() | self.told.keys())

    def changed(self, batch: Batch) -> None:
        """Take in changes (called by the follower)."""
        read = [(c.key.rpartition("/")[2], self._read(c) if isinstance(c, Entry) else None) for c in batch.changes]
        with self._peers._wake:
            for id, endpoint in read:
                self._set(id, endpoint)
            self.touch({id for id, _ in read})

    def touch(self, ids: set[str]) -> None:
        """Compare these with what the callback knows, in a moment."""
        if ids:
            self.touched |= ids
            self._peers.schedule(self.network, DEBOUNCE_SECONDS)

    def changes(self) -> dict[str, Remote | None]:
        """Return what the callback does not know yet."""
        found: dict[str, Remote | None] = {}
        for id in self.touched:
            endpoint = self.endpoints.get(id)
            remote = self._peers.remote(endpoint) if endpoint else None
            if endpoint and remote is None and not self._peers.nodes_known():
                continue
            if remote != self.told.get(id):
                found[id] = remote
        self.touched = set()
        return found

    def taken_over(self, changes: Changes) -> None:
        """Note what the callback knows by now."""
        for id, remote in changes.items():
            if remote is None:
                self.told.pop(id, None)
            else:
                self.told[id] = remote

    def _set(self, id: str, endpoint: ClusterEndpoint | None) -> None:
        former = self.endpoints.pop(id, None)
        for address in _plain(former):
            self.addresses[address] -= 1
            if not self.addresses[address]:
                del self.addresses[address]
        if former is not None and endpoint is None and former.node == self._peers.own:
            self.missed.add(id)
        if endpoint is not None:
            self.missed.discard(id)
            self.endpoints[id] = endpoint
            for address in _plain(endpoint):
                self.addresses[address] = self.addresses.get(address, 0) + 1

    def _read(self, entry: Entry) -> ClusterEndpoint | None:
        endpoint = decode(ClusterEndpoint, entry.key, entry.value)
        if endpoint is not None and (endpoint.key != entry.key or endpoint.network != self.network):
            log.warning("the cluster's key %s holds endpoint %s, and is passed over", entry.key, endpoint.id)
            return None
        return endpoint


def _plain(endpoint: ClusterEndpoint | None) -> list[str]:
    return [a.partition("/")[0] for a in endpoint.addresses] if endpoint else []
