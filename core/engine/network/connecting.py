"""The networks of a container together: which one has its default route, which one its ports, and its way out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from engine.network.attaching import FAMILIES, Attaching, check_ports
from engine.network.model import Attachment, ContainerRef, EndpointSettings, NetworkRecord, PortRequest
from engine.network.parts import Parts
from engine.network.publishing import Publishing
from engine.network.replanning import elect
from engine.network.sandboxes import Sandboxes
from engine.network.store import Write
from engine.network.wayout import LOWEST_PRIORITY, WayOut
from engine.reconcile.applier import Sandbox
from engine.spec.errors import NotFound
from engine.spec.values import family_of

Told = Callable[[NetworkRecord, Attachment, str], object]
"""Emits an event about an endpoint: "connect", "disconnect"."""


class Connecting:
    """Puts containers on networks and takes them off. Safe to use from any thread."""

    def __init__(
        self,
        parts: Parts,
        attaching: Attaching,
        publishing: Publishing,
        way_out: WayOut,
        sandboxes: Sandboxes,
        told: Told,
    ) -> None:
        self._store = parts.store
        self._planner = parts.planner
        self._names = parts.names
        self._attaching = attaching
        self._publishing = publishing
        self._way_out = way_out
        self._sandboxes = sandboxes
        self._told = told

    def attach(
        self,
        network: str,
        container: ContainerRef,
        sandbox: Sandbox,
        settings: EndpointSettings | None = None,
        ports: Sequence[PortRequest] = (),
        also: Write | None = None,
    ) -> Attachment:
        """Attach a container to a network (`network connect`). On failure nothing is left, in the database or outside.

        `also` writes the container in the transaction in which it is attached for good.

        Raises NotFound, Conflict (connected already; address, MAC or port taken), InvalidParameter, Unsupported
        (ports, addresses), Unavailable (pool full, parent absent), DriverFault, DeadlineExceeded, ApplyFailed.
        """
        record = self._store.get(network)
        held = {family_of(g) for e in self._store.of_container(container.id) for g in e.gateways}
        if not self._way_out.publishes(record):
            check_ports(record, self._planner.caps(record.driver), ports)
        here = ports if self._planner.caps(record.driver).ports else ()
        attachment = self._attaching.attach(
            record.id, container, sandbox, settings or EndpointSettings(), here, FAMILIES - held, arriving=True
        )
        self._told(record, attachment, "connect")
        try:
            self.lead_out(container, sandbox, () if here else ports)
            self._names.attached(container.id, sandbox)
            if held:
                self._attaching.replanning.reroute(container.id)
                self._publishing.follow(container.id)
            return self._attaching.arrived(attachment, also)
        except BaseException:
            self.detach(container.id, record.id)
            raise

    def attach_all(
        self,
        container: ContainerRef,
        sandbox: Sandbox,
        wishes: Sequence[tuple[str, EndpointSettings]],
        ports: Sequence[PortRequest] = (),
    ) -> Sequence[Attachment]:
        """Attach a starting container to all its networks, in order; on failure to none."""
        records = [(self._store.get(ref), settings) for ref, settings in wishes]
        if extra := self._way_out.of([record for record, _ in records]):
            records.append((extra, EndpointSettings(gw_priority=LOWEST_PRIORITY)))
        winners = elect((r.id, r.name, s.gw_priority, self._way_out.routers(r)) for r, s in records)
        publisher = self._publisher([r for r, _ in records], winners.get(4, ""), ports)
        done: list[Attachment] = []
        try:
            for record, settings in records:
                route = frozenset(family for family, id in winners.items() if id == record.id)
                wanted = ports if record.id == publisher else ()
                done.append(self._attaching.attach(record.id, container, sandbox, settings, wanted, route))
                self._told(record, done[-1], "connect")
            self._names.attached(container.id, sandbox)
            if any(attachment.lease for attachment in done):  # only now is known where its router is
                self._attaching.replanning.reroute(container.id)
                self._publishing.follow(container.id)
        except BaseException:
            for attachment in reversed(done):
                self._detach(self._store.endpoint(attachment.id) or attachment, namespace_gone=False)
            raise
        return [self._store.endpoint(a.id) or a for a in done if not self._store.get(a.network).is_gateway]

    def lead_out(self, container: ContainerRef, sandbox: Sandbox, ports: Sequence[PortRequest] = ()) -> None:
        """Put a running container on the gateway network if its others do not lead out (any more), or take it off."""
        endpoints = self._store.of_container(container.id)
        needed = self._way_out.of([self._store.get(e.network) for e in endpoints])
        for endpoint in [e for e in endpoints if self._store.get(e.network).is_gateway]:
            if needed is None or endpoint.network != needed.id:
                self._attaching.replanning.reroute(container.id)
                self._publishing.follow(container.id, endpoint.network)
                self._detach(self._store.endpoint(endpoint.id) or endpoint, namespace_gone=False)
        if needed is not None and all(e.network != needed.id for e in endpoints):
            settings = EndpointSettings(gw_priority=LOWEST_PRIORITY)
            self._told(needed, self._attaching.attach(needed.id, container, sandbox, settings, ports), "connect")

    def _publisher(self, records: Sequence[NetworkRecord], favourite: str, ports: Sequence[PortRequest]) -> str:
        """Return the id of the network on which a container's ports are published: that of its default route, or else
        the first that can. Raises Unsupported if none can.
        """  # fmt: skip
        if not ports or not records:
            return ""
        able = [r.id for r in records if self._planner.caps(r.driver).ports]
        if not able:
            check_ports(records[0], self._planner.caps(records[0].driver), ports)
        return favourite if favourite in able else able[0]

    def check_ports(self, networks: Sequence[str], ports: Sequence[PortRequest]) -> None:
        """Raise Unsupported when a container of these networks could not publish ports: asked when it is created."""
        records = [self._store.get(ref) for ref in networks]
        if not any(self._way_out.publishes(record) for record in records):
            self._publisher(records, "", ports)

    def publishes(self, record: NetworkRecord) -> bool:
        """Return whether ports of a container on this network can be published, there or on its way out."""
        return self._way_out.publishes(record)

    def detach(
        self, container_id: str, network: str, *, namespace_gone: bool = False, also: Write | None = None
    ) -> None:
        """Take a container off a network. Raises NotFound if it is not on it.

        With `namespace_gone`, its network namespace was dropped before: that is quicker. `also` writes the container in
        the transaction in which it is taken off.
        """
        record = self._store.get(network)
        found = [e for e in self._store.of_container(container_id) if e.network == record.id]
        if not found:
            raise NotFound(f"container {container_id[:12]} is not connected to network {record.name}")
        if not namespace_gone:
            self._publishing.follow(container_id, record.id)
        self._detach(self._store.endpoint(found[0].id) or found[0], namespace_gone=namespace_gone, also=also)
        if not namespace_gone:
            if not record.is_gateway:
                self.lead_out(found[0].container, Sandbox(Path(found[0].sandbox)))
            self._attaching.replanning.reroute(container_id)

    def detach_all(self, container_id: str, *, shared: bool = False) -> None:
        """Take a container that has ended off all its networks.

        First nothing of it is wanted any more; then its network namespace is dropped, which takes the links with it at
        once; then its addresses are free. The namespace stays if it is `shared`: other processes live on in it.
        """
        endpoints = self._store.of_container(container_id)
        if endpoints and not shared:
            for endpoint in endpoints:
                self._attaching.forget(endpoint)
            self._sandboxes.remove(container_id)
        for endpoint in endpoints:
            self._detach(endpoint, namespace_gone=not shared)

    def _detach(self, endpoint: Attachment, *, namespace_gone: bool, also: Write | None = None) -> None:
        self._attaching.detach(endpoint, namespace_gone=namespace_gone, also=also)
        self._told(self._store.get(endpoint.network), endpoint, "disconnect")
