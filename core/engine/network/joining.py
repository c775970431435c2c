"""This host's endpoints on networks that span hosts: told to the cluster before they are made, and kept told."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from typing import TypeVar

from engine.cluster.cluster import Cluster
from engine.cluster.model import ClusterEndpoint
from engine.network.elsewhere import Elsewhere
from engine.network.model import Attachment, EndpointSettings, NetworkRecord
from engine.network.parts import Parts
from engine.network.remotes import Remotes
from engine.spec.errors import Conflict, EngineError, Unsupported
from engine.spec.options import wants_encryption

log = logging.getLogger(__name__)
ATTEMPTS = 32
"""So many addresses that other hosts were quicker to take are passed over for one endpoint."""
LISTING_SECONDS = 2.0
T = TypeVar("T")


class Joining:
    """Joins and leaves. The caller holds the lock of the network it speaks of."""

    def __init__(self, parts: Parts, remotes: Remotes, required: Callable[[str], Cluster]) -> None:
        """`required` returns the cluster that networks of a driver need, or raises Unsupported."""
        self._store = parts.store
        self._planner = parts.planner
        self._addresses = parts.addresses
        self._remotes = remotes
        self._required = required

    def claim(
        self, record: NetworkRecord, settings: EndpointSettings, choose: Callable[[], tuple[Attachment, T]]
    ) -> tuple[Attachment, T]:
        """Have the cluster's word for the addresses that `choose` chooses; it is asked again when others have them.

        Raises what `choose` and `Endpoints.join` raise.
        """
        cluster = self._required(record.driver)
        if cluster.partition is not None and (settings.mac or settings.ip or settings.ip6):
            raise Unsupported(
                "addresses cannot be chosen on a network of a cluster that is a file of peers",
                why="the other hosts would not hear of it", hint="A cluster on etcd can",
            )  # fmt: skip
        try:
            if self._planner.underlay is not None and self.encrypts(record):
                self._planner.underlay.secure(record.id)
            return self._claim(cluster, record, settings, choose)
        except BaseException:
            self.unused(record)
            raise

    def _claim(
        self,
        cluster: Cluster,
        record: NetworkRecord,
        settings: EndpointSettings,
        choose: Callable[[], tuple[Attachment, T]],
    ) -> tuple[Attachment, T]:
        view = cluster.use(record.id)
        elsewhere = Elsewhere(view.taken)
        if view.follower is not None and not view.follower.wait(LISTING_SECONDS):
            elsewhere.learn(cluster.endpoints.taken(record.id))
        for attempt in range(ATTEMPTS):
            elsewhere.watch_over(self._addresses, record, at_random=attempt > 0)
            attachment, chosen = choose()
            if cluster.partition is not None:
                mac = cluster.partition.mac(record.id, attachment.addresses[0].partition("/")[0])
                attachment = attachment.model_copy(update={"mac": mac})
            try:
                cluster.endpoints.join(record.id, endpoint_of(attachment, cluster.node.name))
            except Conflict as err:
                if _asked_for(settings, err) or attempt == ATTEMPTS - 1:
                    raise
                elsewhere.learn(cluster.endpoints.taken(record.id))
            else:
                return attachment, chosen
        raise AssertionError("unreachable: the last attempt returns or raises")

    def left(self, record: NetworkRecord, attachment: Attachment) -> None:
        """Tell the cluster that an endpoint is gone; if it cannot be told now, it is when it is back."""
        cluster = self._planner.cluster
        if cluster is None:
            return
        try:
            cluster.endpoints.leave(record.id, endpoint_of(attachment, cluster.node.name))
        except EngineError as err:
            log.warning("the cluster hears later that %s is gone: %s", attachment.container.name, err)
        self.unused(record)

    def renamed(self, attachment: Attachment) -> None:
        """Tell the cluster of an endpoint whose container has another name."""
        record, cluster = self._store.get(attachment.network), self._planner.cluster
        if cluster is None or record.scope != "global":
            return
        try:
            cluster.endpoints.join(record.id, endpoint_of(attachment, cluster.node.name))
        except EngineError as err:
            log.warning("the cluster hears later of the name %s: %s", attachment.container.name, err)

    def agree(self, cluster: Cluster, record: NetworkRecord) -> Collection[Conflict]:
        """Make what the cluster has of this host's endpoints what there is; see `Endpoints.agree`."""
        own = [endpoint_of(a, cluster.node.name) for a in self._store.endpoints_of(record.id)]
        return cluster.endpoints.agree(record.id, own)

    def unused(self, record: NetworkRecord) -> None:
        """Hear no more of a network's peers if no container here is on it (any more), and forget them."""
        if self._store.endpoints_of(record.id):
            return
        if self._planner.cluster is not None:
            self._planner.cluster.unuse(record.id)
        self._remotes.forget(record.id)
        if self._planner.underlay is not None:
            self._planner.underlay.release(record.id)

    def encrypts(self, record: NetworkRecord) -> bool:
        """Return whether a network's traffic between hosts is encrypted."""
        return wants_encryption(self._planner.network(record, "known").options)


def endpoint_of(attachment: Attachment, node: str) -> ClusterEndpoint:
    """Return what the cluster knows of an endpoint of this host."""
    container = attachment.container
    published = {f"{p.target_port + n}/{p.protocol}" for p in attachment.ports for n in range(p.count)}
    return ClusterEndpoint(
        id=attachment.id,
        network=attachment.network,
        node=node,
        mac=attachment.mac,
        addresses=attachment.addresses,
        container=container.id,
        name=container.name,
        hostname=container.hostname,
        aliases=attachment.settings.aliases,
        services=tuple(sorted({*container.exposed, *published})),
    )


def _asked_for(settings: EndpointSettings, err: Conflict) -> bool:
    """Return whether what another endpoint has was asked for by a person."""
    return err.details.get("address") in (settings.ip, settings.ip6) or err.details.get("mac") == settings.mac
