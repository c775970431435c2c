"""Other plans for endpoints that are there: when their addresses, default routes or parents have changed."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.network.model import Attachment
from engine.network.planner import Planner
from engine.network.ports import port_resources, targets_of
from engine.network.store import NetworkStore
from engine.reconcile import neighbourhood
from engine.reconcile.applier import Sandbox
from engine.reconcile.reconciler import Reconciler
from engine.spec.errors import Unavailable
from engine.spec.network import Network
from engine.spec.resource import Plan
from engine.spec.values import family_of

log = logging.getLogger(__name__)


class Replanning:
    """Makes plans of endpoints anew. Safe to use from any thread."""

    def __init__(self, store: NetworkStore, planner: Planner, reconciler: Reconciler) -> None:
        self._store = store
        self._planner = planner
        self._reconciler = reconciler

    def endpoint_plan(self, network: Network[Any], attachment: Attachment) -> Plan:
        """Return what must exist while a container is attached, published ports included."""
        plan = self._planner.endpoint_plan(network, attachment)
        return plan + Plan.of(port_resources(attachment.ports, targets_of(attachment))) if attachment.ports else plan

    def replan(self, changed: Attachment) -> Attachment:
        """Ask for the plan of an endpoint that has changed, and go over to it; on failure nothing has changed."""
        with self._store.lock(changed.network):
            former = self._store.endpoint(changed.id)
            network = self._planner.network(self._store.get(changed.network), "known")
            plan = self.endpoint_plan(network, changed)
            changed = changed.model_copy(update={"plan": plan.to_json()})
            self._store.put_endpoint(changed.model_copy(update={"unsettled": True}))
            try:
                self._reconciler.apply(changed.owner, plan, sandbox=Sandbox(Path(changed.sandbox)))
            except BaseException:
                if former is not None:
                    self._store.put_endpoint(former)
                raise
            self._store.put_endpoint(changed)
            return changed

    def settle(self, endpoint: Attachment) -> None:
        """Apply a plan again of which it is not known how far it was applied; what cannot be done is logged."""
        self._reconciler.repair(endpoint.owner, sandboxes=True)
        self._store.put_endpoint(endpoint.model_copy(update={"unsettled": False}))

    def follow_links(self, network_id: str) -> None:
        """Make the plans of a network anew, and go over to those that have changed; tell the wire of them."""
        changed: list[Attachment] = []
        with self._store.lock(network_id):
            record = self._store.get(network_id)
            try:
                network = self._planner.network(record, "same")
            except Unavailable:
                return  # a link is absent: the plans wait for it
            plan = self._planner.network_plan(network)
            if plan.to_json() != record.plan:
                self._store.put_network(record.model_copy(update={"plan": plan.to_json(), "links": network.links}))
                self._reconciler.apply(record.owner, plan)
            for endpoint in self._store.endpoints_of(record.id):
                if self.endpoint_plan(network, endpoint).to_json() != endpoint.plan:
                    changed.append(self.replan(endpoint))
        if self._planner.caps(record.driver).shares_wire:
            for endpoint in changed:
                announce(endpoint)

    def reroute(self, container_id: str) -> None:
        """Put a running container's default routes where they belong after its networks changed."""
        endpoints = self._store.of_container(container_id)
        winners = elect([(e.id, e.network_name, e.settings.gw_priority, e.network_gateways) for e in endpoints])
        wanted = {
            e.id: tuple(g for g in e.network_gateways if winners.get(family_of(g)) == e.id)
            for e in endpoints
        }  # fmt: skip
        changed = [e for e in endpoints if wanted[e.id] != e.gateways]
        # A route goes from the old link before it comes to the new one: a namespace has one of each family.
        for endpoint in sorted(changed, key=lambda e: len(wanted[e.id]) - len(e.gateways)):
            self.replan(endpoint.model_copy(update={"gateways": wanted[endpoint.id]}))


def announce(attachment: Attachment) -> None:
    """Tell the wire of an endpoint which addresses it has. One that is gone already is no error."""
    addresses = [a.partition("/")[0] for a in attachment.addresses]
    try:
        neighbourhood.announce(Sandbox(Path(attachment.sandbox)), attachment.ifname, addresses)
    except OSError as err:
        log.warning("cannot announce the addresses of container %s: %s", attachment.container.name, err)


def elect(candidates: Iterable[tuple[str, str, int, Sequence[str]]]) -> Mapping[int, str]:
    """Return by family who has the default route, of (id, network name, priority, gateways).

    As Docker: the highest priority, then the first name.
    """
    winners: dict[int, str] = {}
    for id, _, _, gateways in sorted(candidates, key=lambda c: (-c[2], c[1])):
        for gateway in gateways:
            winners.setdefault(family_of(gateway), id)
    return winners
