"""Endpoints on other hosts, on the networks that containers of this host are on: each has a plan of its own here.

The plan belongs to `peer:NETWORK:ENDPOINT`: what joins elsewhere costs this host no more. The endpoints are kept in the
database as well, so that the next daemon finds everything as it was before the cluster has said a word.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping

from engine.cluster.cluster import Changes, Remote
from engine.cluster.model import ClusterEndpoint
from engine.network.model import NetworkRecord
from engine.network.parts import Parts
from engine.spec.errors import EngineError
from engine.spec.network import Peer
from engine.spec.resource import Plan

log = logging.getLogger(__name__)
PEER = "peer"
"""Kind of objects in the database: endpoints on other hosts whose plans are applied here."""


class Remotes:
    """What is wanted here for endpoints on other hosts. The caller holds the lock of the network it speaks of."""

    def __init__(self, parts: Parts) -> None:
        self._state = parts.state
        self._planner = parts.planner
        self._reconciler = parts.reconciler
        self._names = parts.names

    def take_over(self, record: NetworkRecord, changes: Changes) -> dict[str, EngineError]:
        """Make what endpoints on other hosts are now; return by id what could not be done, after all that can be is."""
        gone = [id for id, remote in changes.items() if remote is None]
        for id in gone:
            self._names.remove_remote(id)
        self._reconciler.remove_all([_owner(record.id, id) for id in gone])
        present = {id: remote for id, remote in changes.items() if remote is not None}
        errors = self._apply(record, present)
        done = {id: remote for id, remote in present.items() if id not in errors}
        for remote in done.values():
            self._names.put_remote(remote.endpoint, record)
        with self._state.transaction():
            for id in gone:
                self._state.delete(PEER, id)
            for id, remote in done.items():
                doc = {"endpoint": remote.endpoint.model_dump(mode="json"), "host": remote.peer.host}
                self._state.put(PEER, id, doc)
        return errors

    def _apply(self, record: NetworkRecord, present: Mapping[str, Remote]) -> dict[str, EngineError]:
        network = self._planner.network(record, "known")
        plans: dict[str, Plan] = {}
        errors: dict[str, EngineError] = {}
        for id, remote in present.items():
            try:
                plans[_owner(record.id, id)] = self._planner.peer_plan(network, remote.peer)
            except EngineError as err:
                errors[id] = err
        failed = self._reconciler.apply_all(plans)
        return errors | {owner.rpartition(":")[2]: err for owner, err in failed.items()}

    def forget(self, network: str) -> None:
        """Want nothing any more for the endpoints of a network, which is not in use here."""
        gone = [endpoint.id for endpoint, _ in self._known() if endpoint.network == network]
        with self._state.transaction():
            for id in gone:
                self._state.delete(PEER, id)
        self._reconciler.remove_all([_owner(network, id) for id in gone])
        for id in gone:
            self._names.remove_remote(id)

    def restore(self, in_use: Mapping[str, NetworkRecord]) -> Iterator[Remote]:
        """Want the plans that an earlier daemon had on networks in use (by id), and yield whose they are."""
        for endpoint, host in list(self._known()):
            record = in_use.get(endpoint.network)
            if record is None:
                self._state.delete(PEER, endpoint.id)
                continue
            peer = Peer(
                id=endpoint.id, host=host, mac=endpoint.mac, addresses=endpoint.addresses, node=endpoint.node
            )  # fmt: skip
            try:
                plan = self._planner.peer_plan(self._planner.network(record, "known"), peer)
                self._reconciler.adopt(_owner(record.id, endpoint.id), plan)
            except EngineError as err:
                log.warning("network %s: a peer is planned anew when the cluster tells of it: %s", record.name, err)
                continue
            self._names.put_remote(endpoint, record)
            yield Remote(endpoint, peer)

    def _known(self) -> Iterator[tuple[ClusterEndpoint, str]]:
        """Yield what is written down; what cannot be read is dropped: the cluster tells of it again."""
        yield from self._state.read(PEER, lambda doc: (ClusterEndpoint.model_validate(doc["endpoint"]), doc["host"]))
        for row in self._state.unreadable(PEER):
            self._state.drop_unreadable(PEER, row.id)


def _owner(network: str, endpoint: str) -> str:
    return f"peer:{network}:{endpoint}"
