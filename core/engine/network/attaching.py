"""Attaches containers to networks and takes them off again: database first, then the host, all or nothing."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from engine.network.addresses import Addresses, Chosen, check_mac, derived_mac, mac_of_address
from engine.network.creation import Creation
from engine.network.leasing import Leasing
from engine.network.model import Attachment, ContainerRef, EndpointSettings, NetworkRecord, PortRequest, PublishedPort
from engine.network.planner import Planner
from engine.network.ports import Ports, port_resources, targets_of
from engine.network.store import NetworkStore
from engine.plugins import Plugins
from engine.reconcile import neighbourhood
from engine.reconcile.applier import Difference, Sandbox
from engine.reconcile.dhcp import Lease
from engine.reconcile.reconciler import Reconciler
from engine.spec.errors import Conflict, EngineError, Forbidden, InvalidParameter, Unavailable, Unsupported
from engine.spec.network import Network, NetworkCaps
from engine.spec.resource import Plan
from engine.spec.values import IfName, family_of
from engine.state import State

log = logging.getLogger(__name__)
FAMILIES = frozenset({4, 6})
MOST_CONFLICTS = 8
"""So many addresses that others have are passed over for one endpoint; each costs a wait for its answer."""
IFNAME_OPTION = "com.docker.network.endpoint.ifname"
_ifname = TypeAdapter(IfName)


class Attaching:
    """The life of endpoints. Safe to use from any thread; work on one network is done one after the other."""

    def __init__(
        self,
        state: State,
        store: NetworkStore,
        creation: Creation,
        planner: Planner,
        addresses: Addresses,
        reconciler: Reconciler,
        plugins: Plugins,
    ) -> None:
        self._state = state
        self._store = store
        self._creation = creation
        self._planner = planner
        self._addresses = addresses
        self._reconciler = reconciler
        self.ports = Ports()
        self.leasing = Leasing(plugins, store, self.lease_changed)

    def attach(
        self,
        network_id: str,
        container: ContainerRef,
        sandbox: Sandbox,
        settings: EndpointSettings,
        ports: Sequence[PortRequest] = (),
        route: frozenset[int] = FAMILIES,
    ) -> Attachment:
        """Attach a container; its default routes of the families in `route` go through this network."""
        with self._store.lock(network_id):
            record = self._store.get(network_id)
            caps = self._planner.caps(record.driver)
            self._check(record, caps, container, ports)
            first = not self._store.endpoints_of(record.id)
            if first:
                record = self._refresh(record, caps)
            network = self._planner.network(record, "select" if first else "same")
            attachment, chosen = self._endpoint(record, network, caps, container, sandbox, settings, route)
            leased = self.leasing.serves(record)
            if not leased and not (caps.shares_wire and chosen):
                return self._enter(record, network, attachment, chosen, ports, first)
            # On a wire of others, the link comes first: only on it can be asked whether the addresses are free.
            bare = attachment.model_copy(update={"addresses": (), "network_gateways": (), "gateways": ()})
            self._enter(record, network, bare, chosen, (), first)
        try:
            if leased:
                return self._lease(record, network, attachment, ports, route)
            return self._arrive(record, network, attachment, chosen, ports)
        except BaseException:
            self.detach(bare, namespace_gone=False)
            raise

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
            plan = self._endpoint_plan(network, attachment)
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

    def _arrive(
        self,
        record: NetworkRecord,
        network: Network[Any],
        attachment: Attachment,
        chosen: list[Chosen],
        ports: Sequence[PortRequest],
    ) -> Attachment:
        """Give an endpoint whose link is there its addresses, once nobody else on the wire has them.

        Without the network's lock: others may come and go while this one listens.
        """
        sandbox, own = Sandbox(Path(attachment.sandbox)), host_addresses(network)
        for _ in range(MOST_CONFLICTS):
            addresses = [address for _, address in chosen]
            conflicts = {a: own[a] for a in addresses if a in own}
            if not conflicts and getattr(network.options, "probe", True):
                conflicts = neighbourhood.conflicts(sandbox, attachment.ifname, addresses)
            if not conflicts:
                break
            log.warning("addresses of network %s are in use on its wire: %s", record.name, conflicts)
            with self._store.lock(record.id):
                chosen = self._addresses.exchange(
                    record, chosen, conflicts, attachment.settings, attachment.container, attachment.id
                )
            attachment = attachment.model_copy(update={"addresses": with_lengths(chosen)})
        else:
            raise Conflict(
                f"no free address was found for container {attachment.container.name} on network {record.name}",
                why=f"{MOST_CONFLICTS} addresses one after the other are in use on the wire",
                hint="Give the network a range that is its own: --ip-range",
                details={"conflicts": conflicts},
            )
        return self._complete(attachment, ports)

    def _lease(
        self,
        record: NetworkRecord,
        network: Network[Any],
        attachment: Attachment,
        ports: Sequence[PortRequest],
        route: frozenset[int],
    ) -> Attachment:
        """Give an endpoint whose link is there the address that a DHCP server on its wire has for it."""
        lease = self.leasing.acquire(record, attachment, probe=getattr(network.options, "probe", True))
        attachment = with_lease(attachment, lease, internal=record.internal)
        gateways = tuple(g for g in attachment.network_gateways if family_of(g) in route)
        attachment = attachment.model_copy(update={"gateways": gateways})
        try:
            done = self._complete(attachment, ports)
        except BaseException:
            self.leasing.release(attachment)
            raise
        self.leasing.track(done)
        return done

    def lease_changed(self, endpoint: Attachment, lease: Lease | None) -> None:
        """Go over to another lease of an endpoint; None: it has lost its address."""
        with self._store.lock(endpoint.network):
            current = self._store.endpoint(endpoint.id)
            if current is None:
                return
            internal = self._store.get(current.network).internal
            changed = with_lease(current, lease, internal=internal)
            if changed.addresses == current.addresses and changed.network_gateways == current.network_gateways:
                self._store.put_endpoint(changed)
                return
            log.info("container %s on network %s: addresses %s", current.container.name, current.network_name,
                     ", ".join(changed.addresses) or "none")  # fmt: skip
            routed = current.gateways if changed.network_gateways == current.network_gateways else ()
            done = self._replan(changed.model_copy(update={"gateways": routed}))
        self.reroute(done.container.id)
        self.announce(done)

    def _complete(self, attachment: Attachment, ports: Sequence[PortRequest]) -> Attachment:
        """Give an endpoint that is there its addresses, routes and ports, and tell the wire."""
        with self._store.lock(attachment.network):
            record = self._store.get(attachment.network)
            if self._store.endpoint(attachment.id) is None:
                raise Conflict(f"container {attachment.container.name} was taken off network {record.name} meanwhile")
            published = self._publish(record, attachment, ports)
            try:
                done = self._replan(attachment.model_copy(update={"ports": published}))
            except BaseException:
                self.ports.release(published, attachment.id)
                raise
        self.announce(done)
        return done

    def announce(self, attachment: Attachment) -> None:
        """Tell the wire of an endpoint which addresses it has. One that is gone already is no error."""
        addresses = [a.partition("/")[0] for a in attachment.addresses]
        try:
            neighbourhood.announce(Sandbox(Path(attachment.sandbox)), attachment.ifname, addresses)
        except OSError as err:
            log.warning("cannot announce the addresses of container %s: %s", attachment.container.name, err)

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
    ) -> tuple[Attachment, list[Chosen]]:
        """Decide all that a driver is told: addresses, MAC, names, gateways."""
        id = secrets.token_hex(32)
        names = {e.id: e.container.name for e in self._store.endpoints_of(record.id)}
        if not caps.addresses and (settings.ip or settings.ip6):
            raise Unsupported(f"containers on network {record.name} have no addresses", driver=record.driver)
        self._addresses.avoid(record, host_addresses(network).keys() - {settings.ip, settings.ip6})
        chosen = [] if self.leasing.serves(record) else self._addresses.choose(record, settings, container, names)
        gateways = () if record.internal else tuple(pool.gateway for pool, _ in chosen if pool.gateway)
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
        )
        return attachment, chosen

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

    def _endpoint_plan(self, network: Network[Any], attachment: Attachment) -> Plan:
        plan = self._planner.endpoint_plan(network, attachment)
        return plan + Plan.of(port_resources(attachment.ports, targets_of(attachment))) if attachment.ports else plan

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
            self._store.delete_endpoint(attachment)
            if not first and network_plan is not None:
                self._store.put_network(record)
            self._addresses.give_back(record, attachment.id)
            if isinstance(err, EngineError):
                err.driver = err.driver or record.driver
            raise

    def detach(self, attachment: Attachment, *, namespace_gone: bool) -> None:
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
            self._store.delete_endpoint(attachment)
            self._addresses.give_back(record, attachment.id)
            self.ports.release(attachment.ports, attachment.id)
        report_left(left)

    # What the host does

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
                if self._endpoint_plan(network, endpoint).to_json() != endpoint.plan:
                    changed.append(self._replan(endpoint))
        if self._planner.caps(record.driver).shares_wire:
            for endpoint in changed:
                self.announce(endpoint)

    # Default routes

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
            self._replan(endpoint.model_copy(update={"gateways": wanted[endpoint.id]}))

    def _replan(self, changed: Attachment) -> Attachment:
        """Ask for the plan of an endpoint that has changed, and go over to it; on failure nothing has changed."""
        with self._store.lock(changed.network):
            former = self._store.endpoint(changed.id)
            network = self._planner.network(self._store.get(changed.network), "known")
            plan = self._endpoint_plan(network, changed)
            changed = changed.model_copy(update={"plan": plan.to_json()})
            self._store.put_endpoint(changed)
            try:
                self._reconciler.apply(changed.owner, plan, sandbox=Sandbox(Path(changed.sandbox)))
            except BaseException:
                if former is not None:
                    self._store.put_endpoint(former)
                raise
            return changed


def check_ports(record: NetworkRecord, caps: NetworkCaps, ports: Sequence[PortRequest]) -> None:
    """Raise Unsupported when ports are to be published on a network that cannot."""
    if ports and not caps.ports:
        raise Unsupported(
            f"ports cannot be published on network {record.name}",
            why="its traffic does not pass through the host's firewall",
            hint="Containers are reached at their own addresses there",
            driver=record.driver,
        )


def elect(candidates: Iterable[tuple[str, str, int, Sequence[str]]]) -> Mapping[int, str]:
    """Return by family who has the default route, of (id, network name, priority, gateways).

    As Docker: the highest priority, then the first name.
    """
    winners: dict[int, str] = {}
    for id, _, _, gateways in sorted(candidates, key=lambda c: (-c[2], c[1])):
        for gateway in gateways:
            winners.setdefault(family_of(gateway), id)
    return winners


def with_lengths(chosen: Sequence[Chosen]) -> tuple[str, ...]:
    """Return chosen addresses with the lengths of their subnets."""
    return tuple(f"{address}/{pool.subnet.partition('/')[2]}" for pool, address in chosen)


def with_lease(attachment: Attachment, lease: Lease | None, *, internal: bool) -> Attachment:
    """Return an endpoint with what a lease brings; its own default routes are not decided here."""
    return attachment.model_copy(update={
        "lease": lease,
        "addresses": (lease.address,) if lease else (),
        "network_gateways": lease.routers[:1] if lease and not internal else (),
    })  # fmt: skip


def host_addresses(network: Network[Any]) -> dict[str, str]:
    """Return the host's own addresses on the links that a network is on, with their MAC addresses.

    The host does not answer for them to its own children of the link.
    """
    facts = network.links.values()
    return {a.partition("/")[0]: f"{fact.mac} (the host)" for fact in facts for a in fact.addresses}


def report_left(left: Sequence[Difference]) -> None:
    """Log what could not be removed: the collection of garbage tries again at the next start."""
    for difference in left:
        log.warning("could not be removed: %s", difference)
