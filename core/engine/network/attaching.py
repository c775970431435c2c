"""Attaches containers to networks and takes them off again: database first, then the host, all or nothing."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from engine.network.addresses import Chosen, check_mac, derived_mac, mac_of_address, with_lengths
from engine.network.arriving import Arriving, host_addresses
from engine.network.joining import Joining
from engine.network.model import Attachment, ContainerRef, EndpointSettings, NetworkRecord, PortRequest, PublishedPort
from engine.network.parts import Parts
from engine.network.ports import Ports, targets_of
from engine.network.replanning import Replanning
from engine.network.store import Write
from engine.reconcile.applier import Difference, Sandbox
from engine.spec.errors import Conflict, EngineError, Forbidden, InvalidParameter, Unsupported
from engine.spec.network import Network, NetworkCaps
from engine.spec.resource import Plan
from engine.spec.values import IfName, family_of

log = logging.getLogger(__name__)
FAMILIES = frozenset({4, 6})
IFNAME_OPTION = "com.docker.network.endpoint.ifname"
_ifname = TypeAdapter(IfName)


class Attaching:
    """The life of endpoints. Safe to use from any thread; work on one network is done one after the other."""

    def __init__(self, parts: Parts, joining: Joining) -> None:
        """`joining` is asked for the word of the cluster on networks that span hosts."""
        self._state = parts.state
        self._store = parts.store
        self._creation = parts.creation
        self._planner = parts.planner
        self._addresses = parts.addresses
        self._reconciler = parts.reconciler
        self._joining = joining
        self.ports = Ports()
        self.replanning = Replanning(parts.store, parts.planner, parts.reconciler)
        self._arriving = Arriving(parts, self.replanning, self.ports, self._publish)
        self.leasing = self._arriving.leasing

    def attach(
        self,
        network_id: str,
        container: ContainerRef,
        sandbox: Sandbox,
        settings: EndpointSettings,
        ports: Sequence[PortRequest] = (),
        route: frozenset[int] = FAMILIES,
        *,
        arriving: bool = False,
    ) -> Attachment:
        """Attach a container; its default routes of the families in `route` go through this network.

        If it is `arriving`, more is to be done: a killed daemon's successor takes it off again, until `arrived`.
        """
        with self._store.lock(network_id):
            record = self._store.get(network_id)
            caps = self._planner.caps(record.driver)
            self._check(record, caps, container, ports)
            first = not self._store.endpoints_of(record.id)
            if first:
                record = self._refresh(record, caps)
            network = self._planner.network(record, "select" if first else "same")
            decide = partial(self._endpoint, record, network, caps, container, sandbox, settings, route, arriving)
            if caps.scope == "global":
                attachment, chosen = self._joining.claim(record, settings, decide)
                return self._enter_all(record, network, attachment, chosen, ports, first)
            attachment, chosen = decide()
            leased = self.leasing.serves(record)
            if not leased and not (caps.shares_wire and chosen):
                return self._enter(record, network, attachment, chosen, ports, first)
            # On a wire of others, the link comes first: only on it can be asked whether the addresses are free.
            nothing_yet = {"addresses": (), "network_gateways": (), "gateways": (), "arriving": True}
            bare = attachment.model_copy(update=nothing_yet)
            self._enter(record, network, bare, chosen, (), first)
        try:
            if leased:
                return self._arriving.lease(record, network, attachment, ports, route)
            return self._arriving.arrive(record, network, attachment, chosen, ports)
        except BaseException:
            self.detach(bare, namespace_gone=False)
            raise

    def arrived(self, attachment: Attachment, also: Write | None = None) -> Attachment:
        """Note that all has been done for an endpoint that was arriving, and return it as it is now."""
        with self._store.lock(attachment.network):
            current = self._store.endpoint(attachment.id)
            if current is None:
                raise Conflict(f"container {attachment.container.name} was taken off the network meanwhile")
            done = current.model_copy(update={"arriving": False})
            self._store.put_endpoint(done, also)
            return done

    def _enter(
        self,
        record: NetworkRecord,
        network: Network[Any],
        attachment: Attachment,
        chosen: Sequence[Chosen],
        ports: Sequence[PortRequest],
        first: bool,
    ) -> Attachment:
        """Write what is wanted and make it, or leave nothing. The caller holds the network's lock."""
        published = self._publish(record, attachment, ports)
        try:
            attachment = attachment.model_copy(update={"ports": published})
            plan = self.replanning.endpoint_plan(network, attachment)
            used = record
            # What the links that a network is on are like may have changed since its plan was made.
            network_plan = self._planner.network_plan(network) if first or network.links else None
            attachment = attachment.model_copy(update={"plan": plan.to_json()})
            if network_plan is not None:
                used = record.model_copy(update={"plan": network_plan.to_json(), "links": network.links})
            self._write(record, used, attachment, chosen)
            self._apply(record, attachment, plan, network_plan, first)
        except BaseException:
            self.ports.release(published, attachment.id)
            raise
        return attachment

    def _enter_all(
        self,
        record: NetworkRecord,
        network: Network[Any],
        attachment: Attachment,
        chosen: Sequence[Chosen],
        ports: Sequence[PortRequest],
        first: bool,
    ) -> Attachment:
        """Enter with what the cluster has been told already; if that fails, take it back there, too."""
        try:
            return self._enter(record, network, attachment, chosen, ports, first)
        except BaseException:
            self._joining.left(record, attachment)
            raise

    def _refresh(self, record: NetworkRecord, caps: NetworkCaps) -> NetworkRecord:
        """Give a network that nobody uses other pools if its own are taken on the host by now."""
        with self._creation.lock:
            fresh = self._creation.refreshed(record, caps)
            if fresh is not record:
                self._store.put_network(fresh)
        return fresh

    def _check(
        self, record: NetworkRecord, caps: NetworkCaps, container: ContainerRef, ports: Sequence[PortRequest]
    ) -> None:
        if caps.sandbox == "host":
            raise Forbidden(
                f"a container cannot be connected to network {record.name}", why="there it uses the host's namespace"
            )
        check_ports(record, caps, ports)
        for other in self._store.of_container(container.id):
            if other.network == record.id:
                raise Conflict(f"container {container.name} is already connected to network {record.name}")
            if caps.alone or self._planner.caps(other.driver).alone:
                alone = record.name if caps.alone else other.network_name
                raise Conflict(
                    f"container {container.name} cannot be on network {record.name}",
                    why=f"a container on network {alone} can be on no other one",
                )

    def _endpoint(
        self,
        record: NetworkRecord,
        network: Network[Any],
        caps: NetworkCaps,
        container: ContainerRef,
        sandbox: Sandbox,
        settings: EndpointSettings,
        route: frozenset[int],
        arriving: bool,
    ) -> tuple[Attachment, list[Chosen]]:
        """Decide all that a driver is told: addresses, MAC, names, gateways."""
        id = secrets.token_hex(32)
        names = {e.id: e.container.name for e in self._store.endpoints_of(record.id)}
        if not caps.addresses and (settings.ip or settings.ip6):
            raise Unsupported(f"containers on network {record.name} have no addresses", driver=record.driver)
        self._addresses.avoid(record, host_addresses(network).keys() - {settings.ip, settings.ip6})
        chosen = [] if self.leasing.serves(record) else self._choose(record, settings, container, names)
        routed = not record.internal and caps.gateway is None
        gateways = tuple(pool.gateway for pool, _ in chosen if pool.gateway) if routed else ()
        attachment = Attachment(
            id=id,
            network=record.id,
            network_name=record.name,
            driver=record.driver,
            container=container,
            settings=settings,
            sandbox=str(sandbox.path),
            ifname=self._ifname(record, container, settings),
            host_ifname=f"veth{id[:11]}",
            mac=self._mac(record, caps, container, settings, [address for _, address in chosen]),
            addresses=with_lengths(chosen),
            network_gateways=gateways,
            gateways=tuple(g for g in gateways if family_of(g) in route),
            arriving=arriving,
        )
        return attachment, chosen

    def _choose(
        self, record: NetworkRecord, settings: EndpointSettings, container: ContainerRef, names: dict[str, str]
    ) -> list[Chosen]:
        last = self._store.last_addresses.of(record.id, container.name)
        return self._addresses.choose(record, settings, container, names, last)

    def _ifname(self, record: NetworkRecord, container: ContainerRef, settings: EndpointSettings) -> str:
        taken = {e.ifname for e in self._store.of_container(container.id)}
        wanted = settings.ifname or settings.driver_opts.get(IFNAME_OPTION, "")
        if not wanted:
            return next(name for n in range(len(taken) + 1) if (name := f"{record.link_prefix}{n}") not in taken)
        try:
            _ifname.validate_python(wanted)
        except ValidationError as err:
            raise InvalidParameter(f"{wanted!r} is no name for a link", why=err.errors()[0]["msg"]) from err
        if wanted in taken or wanted == "lo":
            raise Conflict(f"container {container.name} has a link {wanted} already")
        return wanted

    def _mac(
        self,
        record: NetworkRecord,
        caps: NetworkCaps,
        container: ContainerRef,
        settings: EndpointSettings,
        addresses: Sequence[str],
    ) -> str:
        own = next((a for a in addresses if family_of(a) == 4), None)
        if settings.mac:
            mac = check_mac(settings.mac)
        elif own and not caps.shares_wire:
            mac = mac_of_address(own)
        else:
            # On a shared wire other hosts may count alike; a stable one pleases DHCP servers and switches.
            mac = derived_mac(f"{record.id}/{container.name}")
        holder = next((e for e in self._store.endpoints_of(record.id) if e.mac == mac), None)
        if holder is None:
            return mac
        if settings.mac:
            raise Conflict(f"the MAC address {mac} is used by container {holder.container.name} on {record.name}")
        return derived_mac(secrets.token_hex(8))

    def _publish(
        self, record: NetworkRecord, attachment: Attachment, ports: Sequence[PortRequest]
    ) -> tuple[PublishedPort, ...]:
        if not ports:
            return ()
        name, routed = attachment.container.name, self._planner.routed(record)
        return self.ports.publish(ports, targets_of(attachment), attachment.id, name, record.host_binding, routed)

    def _write(
        self, record: NetworkRecord, used: NetworkRecord, attachment: Attachment, chosen: Sequence[Chosen]
    ) -> None:
        """Write what is wanted, in one transaction, before anything is done on the host."""
        try:
            with self._state.transaction():
                self._addresses.take(record, chosen, attachment.id)
                self._store.put_endpoint(attachment)
                if used != record:
                    self._store.put_network(used)
        except BaseException:
            self._store.forget_endpoint(attachment)
            self._addresses.give_back(record, attachment.id)
            raise

    def _apply(
        self, record: NetworkRecord, attachment: Attachment, plan: Plan, network_plan: Plan | None, first: bool
    ) -> None:
        try:
            if network_plan is not None:
                self._reconciler.apply(record.owner, network_plan)
            self._reconciler.apply(attachment.owner, plan, sandbox=Sandbox(Path(attachment.sandbox)))
        except BaseException as err:
            if first:
                report_left(self._reconciler.remove(record.owner))
            self._store.delete_endpoint(attachment, recall=False)
            if not first and network_plan is not None:
                self._store.put_network(record)
            self._addresses.give_back(record, attachment.id)
            if isinstance(err, EngineError):
                err.driver = err.driver or record.driver
            raise

    def forget(self, attachment: Attachment) -> None:
        """Want nothing any more of an endpoint whose namespace is about to be dropped; then comes `detach`."""
        self.leasing.release(attachment)
        with self._store.lock(attachment.network):
            report_left(self._reconciler.remove(attachment.owner, namespace_gone=True))

    def detach(self, attachment: Attachment, *, namespace_gone: bool, also: Write | None = None) -> None:
        """Take a container off a network. One that is off already is no error."""
        if namespace_gone:
            self.leasing.forget(attachment)
        else:
            self.leasing.release(attachment)
        with self._store.lock(attachment.network):
            left = self._reconciler.remove(attachment.owner, namespace_gone=namespace_gone)
            record = self._store.get(attachment.network)
            if {e.id for e in self._store.endpoints_of(record.id)} <= {attachment.id}:
                left += self._reconciler.remove(record.owner)
            self._store.delete_endpoint(attachment, also)
            self._addresses.give_back(record, attachment.id)
            self.ports.release(attachment.ports, attachment.id)
            if record.scope == "global":
                self._joining.left(record, attachment)
        report_left(left)


def check_ports(record: NetworkRecord, caps: NetworkCaps, ports: Sequence[PortRequest]) -> None:
    """Raise Unsupported when ports are to be published on a network that cannot."""
    if ports and not caps.ports:
        raise Unsupported(
            f"ports cannot be published on network {record.name}",
            why="its traffic does not pass through the host's firewall",
            hint="Containers are reached at their own addresses there",
            driver=record.driver,
        )


def report_left(left: Sequence[Difference]) -> None:
    """Log what could not be removed: the collection of garbage tries again at the next start."""
    for difference in left:
        log.warning("could not be removed: %s", difference)
