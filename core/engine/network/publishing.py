"""Ports of running containers: they come, go, and move to another container, each time in one transaction.

The driver is not asked: what publishes a port is no driver's. The other resources of a stored plan stay as they are.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from engine.network.model import Attachment, PortRequest, PortSpan, PublishedPort
from engine.network.planner import Planner
from engine.network.ports import Ports, carve, port_resources, routed_families, targets_of
from engine.network.replanning import elect
from engine.network.store import NetworkStore
from engine.reconcile.reconciler import Reconciler
from engine.spec.errors import InvalidParameter, NotFound, Unsupported
from engine.spec.firewall import OpenPort, PortMap
from engine.spec.resource import Plan
from engine.state import State

log = logging.getLogger(__name__)


class Note:
    """What others write in the transaction in which a change of ports is written, and how they take it back."""

    def write(self, ports: Sequence[PublishedPort]) -> None:
        """Write: these are the ports that come, go, or (as they are at their new place) move."""

    def undo(self) -> None:
        """Write what was before."""


@dataclass(frozen=True)
class _Change:
    """Ports that an endpoint is to have in place of those that it has."""

    endpoint: Attachment
    ports: tuple[PublishedPort, ...]

    def result(self) -> tuple[Attachment, Plan]:
        """Return the endpoint as it is to be, and its plan."""
        former = Plan.from_json(self.endpoint.plan)
        rest = [resource for resource in former.resources if not isinstance(resource, PortMap | OpenPort)]
        plan = Plan.of(rest, port_resources(self.ports, targets_of(self.endpoint)))
        return self.endpoint.model_copy(update={"ports": self.ports, "plan": plan.to_json()}), plan


class Publishing:
    """Changes the ports of running containers. The caller holds the containers' locks."""

    def __init__(
        self, state: State, store: NetworkStore, planner: Planner, ports: Ports, reconciler: Reconciler
    ) -> None:
        self._state = state
        self._store = store
        self._planner = planner
        self._ports = ports
        self._reconciler = reconciler

    def add(self, container_id: str, requests: Sequence[PortRequest], note: Note) -> None:
        """Publish further ports, all or none. Raises what `Ports.publish` raises, Unsupported if no network can."""
        with self._locked(container_id):
            endpoint = self._publisher(container_id)
            name, record = endpoint.container.name, self._store.get(endpoint.network)
            routed = routed_families(Plan.from_json(record.plan))  # it is in use: so that is how it is
            fresh = self._ports.publish(requests, targets_of(endpoint), endpoint.id, name, record.host_binding, routed)
            try:
                self._apply([_Change(endpoint, (*endpoint.ports, *fresh))], fresh, note)
            except BaseException:
                self._ports.release(fresh, endpoint.id)
                raise

    def remove(self, container_id: str, which: Sequence[PortSpan], note: Note) -> None:
        """Publish ports no longer. Raises NotFound for one that is not published."""
        with self._locked(container_id):
            changes, pieces = _cut(self._store.of_container(container_id), which)
            self._apply(changes, pieces, note)
            self._ports.replace([(change.endpoint, change.ports) for change in changes])

    def move(self, giver_id: str, taker_id: str, span: PortSpan, target: int, note: Note) -> None:
        """Let published ports lead to another container, to its ports from `target` on (0: of the same numbers).

        Raises NotFound for a port that is not published, InvalidParameter if the other container has no address of its
        family, Unsupported if it is on no network that can.
        """
        with self._locked(giver_id, taker_id):
            taker = self._publisher(taker_id)
            changes, pieces = _cut(self._store.of_container(giver_id), [span])
            moved = [_retargeted(port, taker, span, target) for port in pieces]
            changes.append(_Change(taker, (*taker.ports, *moved)))
            self._apply(changes, moved, note)
            self._ports.replace([(change.endpoint, change.ports) for change in changes])

    def follow(self, container_id: str, leaving: str = "") -> None:
        """Let a container's ports lead to where its default route is, as replies go there; `leaving` is a network that
        it is about to leave.

        Ports of a family that it does not have there end, which is logged.
        """  # fmt: skip
        with self._locked(container_id):
            others = [e for e in self._store.of_container(container_id) if e.network != leaving]
            taker = self._best(others)
            if taker is None:
                return
            for giver in self._store.of_container(container_id):
                if giver.ports and giver.id != taker.id:
                    self._hand_over(giver, taker)
                    taker = self._store.endpoint(taker.id) or taker

    def _hand_over(self, giver: Attachment, taker: Attachment) -> None:
        mapped = [port for port in giver.ports if port.host_port]  # the others are about this endpoint's own address
        moved = tuple(port for port in mapped if port.family in targets_of(taker))
        for port in set(mapped) - set(moved):
            log.warning(
                "port %d/%s of container %s is published no longer: it has no IPv%d address on network %s",
                port.host_port, port.protocol, giver.container.name, port.family, taker.network_name,
            )  # fmt: skip
        kept = tuple(port for port in giver.ports if not port.host_port)
        changes = [_Change(giver, kept), _Change(taker, (*taker.ports, *moved))]
        self._apply(changes, moved, Note())
        self._ports.replace([(change.endpoint, change.ports) for change in changes])

    @contextmanager
    def _locked(self, *containers: str) -> Iterator[None]:
        """Hold the locks of all networks of some containers, always in one order."""
        networks = {e.network for id in containers for e in self._store.of_container(id)}
        with ExitStack() as stack:
            for network in sorted(networks):
                stack.enter_context(self._store.lock(network))
            yield

    def _publisher(self, container_id: str) -> Attachment:
        """Return the endpoint that a container's ports are published on. Raises Unsupported if there is none."""
        endpoints = self._store.of_container(container_id)
        publishing = next((e for e in endpoints if e.ports), None) or self._best(endpoints)
        if publishing is None:
            name = endpoints[0].container.name if endpoints else container_id[:12]
            networks = ", ".join(e.network_name for e in endpoints) or "none"
            raise Unsupported(
                f"container {name} cannot publish ports",
                why=f"ports cannot be published on its networks: {networks}",
                hint="Connect it to one of driver bridge, for example",
            )
        return publishing

    def _best(self, endpoints: Sequence[Attachment]) -> Attachment | None:
        """Return the endpoint that has the default route, or else the first, of those whose network can publish."""
        able = [e for e in endpoints if self._planner.caps(e.driver).ports and e.addresses]
        winners = elect((e.id, e.network_name, e.settings.gw_priority, e.network_gateways) for e in endpoints)
        return next((e for e in able if winners.get(4, winners.get(6)) == e.id), able[0] if able else None)

    def _apply(self, changes: Sequence[_Change], ports: Sequence[PublishedPort], note: Note) -> None:
        """Write what is wanted, then make it so; on failure write what was."""
        fresh = [change.result() for change in changes]
        try:
            with self._state.transaction():
                for endpoint, _ in fresh:
                    self._store.put_endpoint(endpoint)
                note.write(ports)
            self._reconciler.exchange({endpoint.owner: plan for endpoint, plan in fresh})
        except BaseException:
            with self._state.transaction():
                for change in changes:
                    self._store.put_endpoint(change.endpoint)
                note.undo()
            raise


def _cut(endpoints: Sequence[Attachment], which: Sequence[PortSpan]) -> tuple[list[_Change], list[PublishedPort]]:
    """Cut ports out of a container's endpoints. Raises NotFound for one that it does not publish."""
    changes: list[_Change] = []
    pieces: list[tuple[PortSpan, PublishedPort]] = []
    for endpoint in endpoints:
        left, taken = carve(endpoint.ports, which)
        if taken:
            changes.append(_Change(endpoint, tuple(left)))
            pieces += taken
    for span in which:
        found = {port.start + n for s, port in pieces if s == span for n in range(port.count)}
        missing = set(range(span.host_port, span.host_port + span.count)) - found
        if missing:
            shown = sorted({port.span.text for e in endpoints for port in e.ports})
            one = span.model_copy(update={"host_port": min(missing), "count": 1})
            raise NotFound(
                f"port {one.text} is not published by this container",
                hint=f"Published: {', '.join(shown)}" if shown else "It publishes none",
            )
    return changes, [port for _, port in pieces]


def _retargeted(port: PublishedPort, taker: Attachment, span: PortSpan, target: int) -> PublishedPort:
    if not port.host_port:
        raise InvalidParameter(
            f"port {port.span.text} cannot move to container {taker.container.name}",
            why="it is open at its container's own address, and no port of the host",
        )
    if port.family not in targets_of(taker):
        raise InvalidParameter(
            f"port {port.span.text} cannot move to container {taker.container.name}",
            why=f"it has no IPv{port.family} address on network {taker.network_name}",
        )
    number = target + port.host_port - span.host_port if target else port.target_port
    if number + port.count - 1 > 65535:
        raise InvalidParameter(f"{port.count} ports from {number} on go beyond 65535")
    return port.model_copy(update={"target_port": number})
