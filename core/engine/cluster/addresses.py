"""Endpoints, and the addresses and MACs that they have for themselves: one change of the store for each join or leave.

An address is claimed by a key of its own, and the endpoint's record is written in the same transaction, which fails if
any of the claims is there. So two hosts never give one address, whatever each of them has heard by then.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable

from engine.cluster.membership import Membership
from engine.cluster.model import CLAIMS, ENDPOINTS, NETWORKS, ClusterEndpoint, decode
from engine.cluster.patience import patiently
from engine.cluster.store import ClusterStore, Condition, Delete, Entry, Exists, Holds, Is, LeaseLost, Operation, Put
from engine.spec.errors import Conflict, NotFound, Unavailable

log = logging.getLogger(__name__)
ATTEMPTS = 8


class Endpoints:
    """This node's endpoints in the cluster."""

    def __init__(self, store: ClusterStore, members: Membership, wait: float = 0.0) -> None:
        """`wait` is for how many seconds a join waits for a store that cannot be reached."""
        self._store = store
        self._members = members
        self._wait = wait

    def join(self, network_id: str, endpoint: ClusterEndpoint) -> None:
        """Write an endpoint and claim what it has for itself, all or nothing. One that is there is written anew.

        Raises Conflict, whose details name what is taken (`address` or `mac`) and by whom (`holder`, an endpoint id),
        NotFound when the network is gone, Unavailable.
        """
        patiently(self._wait, lambda: self._join(network_id, endpoint))

    def _join(self, network_id: str, endpoint: ClusterEndpoint) -> None:
        lease = self._members.lease()
        present: dict[str, Entry | None] = dict.fromkeys((endpoint.key, *endpoint.claims))
        for _ in range(ATTEMPTS):
            conditions: list[Condition] = [Exists(NETWORKS + network_id)]
            conditions += [Is(key, entry.revision if entry else 0) for key, entry in present.items()]
            operations: list[Operation] = [Put(endpoint.key, endpoint.encode(), lease)]
            operations += [Put(claim, endpoint.id.encode(), lease) for claim in endpoint.claims]
            operations += self._given_up(present[endpoint.key], endpoint)
            try:
                if self._store.commit(conditions, operations):
                    return
            except LeaseLost:
                self._members.lost()
                raise
            present = {key: self._store.get(key) for key in present}
            self._check(network_id, endpoint, present)
        raise Unavailable("the endpoint cannot be written", why="its keys change all the time")

    def _given_up(self, former: Entry | None, endpoint: ClusterEndpoint) -> list[Operation]:
        """Return what gives back the claims that an endpoint had and has no more."""
        known = decode(ClusterEndpoint, former.key, former.value) if former else None
        return [Delete(claim) for claim in known.claims if claim not in endpoint.claims] if known else []

    def _check(self, network_id: str, endpoint: ClusterEndpoint, present: dict[str, Entry | None]) -> None:
        """Find out why a join failed; return if it may succeed when it is tried again."""
        if self._store.get(NETWORKS + network_id) is None:
            raise NotFound("the network is no longer in the cluster", hint="See: engine network ls")
        for claim in endpoint.claims:
            entry = present[claim]
            holder = entry.value.decode(errors="replace") if entry else endpoint.id
            if holder != endpoint.id:
                _, kind, value = claim.removeprefix(CLAIMS).split("/")
                other = self.get(network_id, holder)
                who = f"container {other.name} on {other.node}" if other else "an endpoint on another host"
                raise Conflict(
                    f"the {'MAC address' if kind == 'mac' else kind} {value} is taken by {who}",
                    details={kind: value, "holder": holder, "node": other.node if other else ""},
                )

    def get(self, network_id: str, endpoint_id: str) -> ClusterEndpoint | None:
        """Return an endpoint. Raises Unavailable."""
        entry = self._store.get(f"{ENDPOINTS}{network_id}/{endpoint_id}")
        return decode(ClusterEndpoint, entry.key, entry.value) if entry else None

    def leave(self, network_id: str, endpoint: ClusterEndpoint) -> None:
        """Remove an endpoint and give back what it had; one that is gone is no error. Raises Unavailable."""
        key, own = f"{ENDPOINTS}{network_id}/{endpoint.id}", endpoint.id.encode()
        if self._store.commit([Holds(claim, own) for claim in endpoint.claims],
                              [Delete(key), *(Delete(claim) for claim in endpoint.claims)]):  # fmt: skip
            return
        # Some of the claims are not its own (any more): each by itself.
        self._store.commit([], [Delete(key)])
        for claim in endpoint.claims:
            self._store.commit([Holds(claim, own)], [Delete(claim)])

    def of_network(self, network_id: str) -> list[ClusterEndpoint]:
        """Return all endpoints of a network, on all hosts. Raises Unavailable."""
        entries = self._store.list(f"{ENDPOINTS}{network_id}/").entries
        return [e for entry in entries if (e := decode(ClusterEndpoint, entry.key, entry.value))]

    def taken(self, network_id: str) -> set[str]:
        """Return all addresses of a network that are taken. Raises Unavailable."""
        prefix = f"{CLAIMS}{network_id}/address/"
        return {entry.key.removeprefix(prefix) for entry in self._store.list(prefix).entries}

    def agree(self, network_id: str, own: Iterable[ClusterEndpoint]) -> Collection[Conflict]:
        """Make what the cluster has of this node's endpoints on a network what there is: `own`.

        Returns why endpoints cannot be written any more: while this node was away their addresses were given to others.
        Raises Unavailable, NotFound.
        """
        wanted, node = {e.id: e for e in own}, self._members.node.name
        known = {e.id: e for e in self.of_network(network_id) if e.node == node}
        for id in known.keys() - wanted.keys():
            log.info("endpoint %s is gone from this node, and is taken out of the cluster", id[:12])
            self.leave(network_id, known[id])
        refused: list[Conflict] = []
        for id, endpoint in wanted.items():
            if known.get(id) != endpoint:
                try:
                    self.join(network_id, endpoint)
                except Conflict as err:
                    refused.append(err)
        return refused
