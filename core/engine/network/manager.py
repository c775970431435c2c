"""Networks: what the container manager and the API ask for, and nothing of how it is done."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from engine.network import views
from engine.network.addresses import Addresses, Fixed
from engine.network.attaching import FAMILIES, Attaching, check_ports
from engine.network.creation import Creation, NetworkRequest
from engine.network.model import GATEWAY, Attachment, ContainerRef, EndpointSettings, NetworkRecord, PortRequest
from engine.network.names import Names, NoNames
from engine.network.parts import Parts
from engine.network.planner import Planner
from engine.network.publishing import Publishing
from engine.network.replanning import announce, elect
from engine.network.spanning import Spanning
from engine.network.store import NetworkStore, Write
from engine.network.verifying import result
from engine.network.wayout import LOWEST_PRIORITY, WayOut
from engine.plugins import Plugins
from engine.reconcile import netns
from engine.reconcile.applier import Difference, Sandbox
from engine.reconcile.reconciler import Reconciler
from engine.spec.errors import ApplyFailed, Conflict, EngineError, Forbidden, NotFound, Unavailable
from engine.spec.network import LocalGateway, NetworkCaps
from engine.spec.resource import Plan
from engine.spec.values import family_of
from engine.state import State

log = logging.getLogger(__name__)
PREDEFINED = ("bridge", "host", "none")
"""Drivers whose default network exists from the start, as Docker has it."""


class Events(Protocol):
    """Where events go: `engine.events.EventBus`."""

    def emit(self, type: str, action: str, id: str, attributes: Mapping[str, str] | None = None) -> object:
        """Tell that something happened."""


@dataclass(frozen=True)
class OwnerPlan:
    """What one owner (a network, or a container's endpoint) wants, and what on the host is not so."""

    owner: str
    title: str
    plan: Plan
    differences: tuple[Difference, ...]
    in_use: bool
    """False: nobody uses the network, and the plan is what would be made."""


class NetworkManager:
    """Networks, endpoints and sandboxes of one engine. All methods may be called from any thread.

    `netns_root` is the directory in which network namespaces are held, `<exec-root>/netns`.
    """

    def __init__(
        self,
        state: State,
        plugins: Plugins,
        reconciler: Reconciler,
        netns_root: Path,
        events: Events,
        names: Names | None = None,
        fixed: Fixed = lambda network: {},
    ) -> None:
        self._reconciler = reconciler
        self._netns_root = netns_root
        self._events = events
        self._names = names or NoNames()
        self._store = NetworkStore(state, self._names)
        self._planner = Planner(plugins, self._own_links, self._vlans)
        self._creation = Creation(plugins, self._planner, self._store.networks)
        self._addresses = Addresses(state, plugins, fixed)
        parts = Parts(
            state, plugins, self._store, self._planner, self._creation, self._addresses, reconciler, self._names
        )  # fmt: skip
        self.spanning = Spanning(parts)
        """Networks of scope global, and this host's part in its cluster."""
        self._attaching = Attaching(parts, self.spanning.joining)
        self._way_out = WayOut(self._planner, self._gateway)
        self.publishing = Publishing(state, self._store, self._planner, self._attaching.ports, reconciler)
        """Ports of running containers that come, go and move."""

    def _own_links(self) -> frozenset[str]:
        return frozenset(
            [n.ifname for n in self._store.networks() if not n.adopted]
            + [e.host_ifname for e in self._store.endpoints()]
        )

    def _vlans(self) -> frozenset[str]:
        """Return the VLAN sub-interfaces that the engine made, as parents of networks that are in use."""
        facts = [f for n in self._store.networks() for f in n.links.values() if self._store.endpoints_of(n.id)]
        return frozenset(fact.name for fact in facts if fact.base)

    # Networks

    def create(
        self,
        name: str,
        driver: str = "bridge",
        *,
        options: Mapping[str, str] | None = None,
        ipam: Sequence[Mapping[str, Any]] = (),
        ipam_driver: str = "",
        ipam_options: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
        internal: bool = False,
        ipv4: bool = True,
        ipv6: bool = False,
        attachable: bool = False,
    ) -> NetworkRecord:
        """Create a network. Nothing is made on the host until a container joins.

        `ipam` are Docker's IPAM configurations (`Subnet`, `IPRange`, `Gateway`, `AuxiliaryAddresses`). Raises what
        `Creation.record` raises.
        """
        request = NetworkRequest(
            name=name,
            driver=driver or "bridge",
            options=options or {},
            ipam=ipam,
            ipam_driver=ipam_driver,
            ipam_options=ipam_options or {},
            labels=labels or {},
            internal=internal,
            ipv4=ipv4,
            ipv6=ipv6,
            attachable=attachable,
        )
        return self._create(request)

    def _create(self, request: NetworkRequest) -> NetworkRecord:
        if self._planner.caps(request.driver).scope == "global":
            record = self.spanning.create(request)
        else:
            with self._creation.lock:
                record = self._creation.record(request)
                self._store.put_network(record)
        self._tell(record, "create")
        return record

    def default_network(self, driver: str, options: Mapping[str, str] | None = None) -> NetworkRecord:
        """Return the network that containers of `--net-driver DRIVER` join, created on first use.

        There is one for each driver and set of options. It is called like the driver, or `DRIVER-` and six digits.
        """
        return self._default(driver, dict(options or {}))

    def _default(self, driver: str, options: dict[str, str], *, predefined: bool = False) -> NetworkRecord:
        key = self._creation.default_key(driver, options)
        with self._creation.lock:
            for network in self._store.networks():
                if network.default_for == key:
                    return network
            name = driver
            if self._store.by_name(name) is not None:
                name = f"{driver}-{hashlib.sha256(key.encode()).hexdigest()[:6]}"
            try:
                return self._create(
                    NetworkRequest(name=name, driver=driver, options=options, default_for=key, predefined=predefined)
                )
            except Conflict:  # another host of the cluster was quicker
                found = next((n for n in self._store.networks() if n.default_for == key), None)
                if found is None:
                    raise
                return found

    def _gateway(self, driver: str, gateway: LocalGateway, ipv6: bool) -> NetworkRecord:
        """Return the network that leads out containers on networks of a driver, created on first use."""
        name = f"{driver}-gateway{'6' if ipv6 else ''}"
        with self._creation.lock:
            for network in self._store.networks():
                if network.default_for == f"{GATEWAY}{name}":
                    return network
            while self._store.by_name(name) is not None:  # a person has a network of that name
                name += "-1"
            return self._create(
                NetworkRequest(
                    name=name,
                    driver=gateway.driver,
                    options=gateway.options,
                    ipv6=ipv6,
                    default_for=f"{GATEWAY}{driver}-gateway{'6' if ipv6 else ''}",
                )
            )

    def get(self, ref: str) -> NetworkRecord:
        """Return a network by id, name or unique prefix of its id. Raises NotFound, InvalidParameter if ambiguous."""
        return self._store.get(ref)

    def caps(self, record: NetworkRecord) -> NetworkCaps:
        """Return what a network's driver can do."""
        return self._planner.caps(record.driver)

    def list(self, filters: Mapping[str, Sequence[str]] | None = None) -> list[NetworkRecord]:
        """Return the networks that pass Docker's filters. Raises InvalidParameter for an unknown filter."""
        return [
            n for n in self._store.networks() if views.matches(n, filters or {}, bool(self._store.endpoints_of(n.id)))
        ]

    def inspect(self, record: NetworkRecord) -> views.JsonObject:
        """Return what GET /networks/ID answers."""
        return views.inspection(record, self._store.endpoints_of(record.id))

    def remove(self, ref: str) -> None:
        """Remove a network. Raises Forbidden for a predefined one, Conflict (naming containers) while it is in use.

        The driver is not asked: a network whose driver is gone can be removed.
        """
        record = self.get(ref)
        if record.predefined:
            raise Forbidden(f"network {record.name} is predefined and cannot be removed")
        with self._store.lock(record.id):
            self._store.check_unused(record)
            if record.scope == "global":
                self.spanning.remove(record)
            self._store.delete_network(record)
            self._addresses.forget(record)
        self._tell(record, "destroy")

    def prune(self, filters: Mapping[str, Sequence[str]] | None = None, until: float | None = None) -> Sequence[str]:
        """Remove the networks that nobody uses and that a person made; return their names.

        `until` (seconds since the epoch) spares the younger ones: it is the filter of that name, read by the caller.
        """
        removed = []
        for record in self._store.networks():
            unused = not self._store.endpoints_of(record.id) and not record.predefined
            if views.prunable(record, filters or {}, until) and unused:
                try:
                    self.remove(record.id)
                except NotFound:  # another one was quicker, here or on another host
                    continue
                except (Conflict, Unavailable) as err:
                    if record.scope == "local":
                        raise
                    log.info("network %s is not pruned: %s", record.name, err)  # used on other hosts, or nobody knows
                    continue
                removed.append(record.name)
        return removed

    # Sandboxes

    def sandbox_path(self, container_id: str) -> Path:
        """Return where a container's network namespace is held."""
        return self._netns_root / container_id

    def sandbox_create(self, container_id: str) -> Sandbox:
        """Make a container's network namespace, with loopback up; what an earlier life of it left is dropped."""
        path = self.sandbox_path(container_id)
        try:
            self._netns_root.mkdir(mode=0o755, parents=True, exist_ok=True)
            self._names.stop(container_id)
            netns.destroy(path)
            return netns.create(path)
        except OSError as err:
            raise ApplyFailed(
                "a network namespace could not be made",
                why=str(err),
                hint="Engine needs root",
                details={"errno": err.errno},
            ) from err

    def sandbox_remove(self, container_id: str) -> None:
        """Let go of a container's network namespace; absent is no error."""
        path = self.sandbox_path(container_id)
        self._names.stop(container_id)
        try:
            netns.destroy(path)
        except OSError as err:
            raise ApplyFailed(f"the network namespace {path} could not be removed", why=str(err)) from err

    # Endpoints

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
        record = self.get(network)
        held = {family_of(g) for e in self._store.of_container(container.id) for g in e.gateways}
        if not self._way_out.publishes(record):
            check_ports(record, self.caps(record), ports)
        here = ports if self.caps(record).ports else ()
        attachment = self._attaching.attach(
            record.id, container, sandbox, settings or EndpointSettings(), here, FAMILIES - held, arriving=True
        )
        self._told(record, attachment, "connect")
        try:
            self._lead_out(container, sandbox, () if here else ports)
            self._names.attached(container.id, sandbox)
            if held:
                self._attaching.replanning.reroute(container.id)
                self.publishing.follow(container.id)
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
        records = [(self.get(ref), settings) for ref, settings in wishes]
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
                self.publishing.follow(container.id)
        except BaseException:
            for attachment in reversed(done):
                self._detach(self._store.endpoint(attachment.id) or attachment, namespace_gone=False)
            raise
        return [self._store.endpoint(a.id) or a for a in done if not self._is_gateway(a)]

    def _is_gateway(self, attachment: Attachment) -> bool:
        return self._store.get(attachment.network).is_gateway

    def _lead_out(self, container: ContainerRef, sandbox: Sandbox, ports: Sequence[PortRequest] = ()) -> None:
        """Put a running container on the gateway network if its others do not lead out (any more), or take it off."""
        endpoints = self._store.of_container(container.id)
        needed = self._way_out.of([self._store.get(e.network) for e in endpoints])
        for endpoint in [e for e in endpoints if self._is_gateway(e)]:
            if needed is None or endpoint.network != needed.id:
                self._attaching.replanning.reroute(container.id)
                self.publishing.follow(container.id, endpoint.network)
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
        able = [r.id for r in records if self.caps(r).ports]
        if not able:
            check_ports(records[0], self.caps(records[0]), ports)
        return favourite if favourite in able else able[0]

    def check_ports(self, networks: Sequence[str], ports: Sequence[PortRequest]) -> None:
        """Raise Unsupported when a container of these networks could not publish ports: asked when it is created."""
        records = [self.get(ref) for ref in networks]
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
        record = self.get(network)
        found = [e for e in self._store.of_container(container_id) if e.network == record.id]
        if not found:
            raise NotFound(f"container {container_id[:12]} is not connected to network {record.name}")
        if not namespace_gone:
            self.publishing.follow(container_id, record.id)
        self._detach(self._store.endpoint(found[0].id) or found[0], namespace_gone=namespace_gone, also=also)
        if not namespace_gone:
            if not record.is_gateway:
                self._lead_out(found[0].container, Sandbox(Path(found[0].sandbox)))
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
            self.sandbox_remove(container_id)
        for endpoint in endpoints:
            self._detach(endpoint, namespace_gone=not shared)

    def _detach(self, endpoint: Attachment, *, namespace_gone: bool, also: Write | None = None) -> None:
        self._attaching.detach(endpoint, namespace_gone=namespace_gone, also=also)
        self._told(self.get(endpoint.network), endpoint, "disconnect")

    def serves_names(self, container_id: str) -> bool:
        """Return whether a container with a network namespace of its own is to ask the engine's name server."""
        return self._names.serves(container_id)

    def attachments(self, container_id: str) -> Sequence[Attachment]:
        """Return a container's endpoints on networks that somebody chose, in the order of their attachment."""
        return [e for e in self._store.of_container(container_id) if not self._is_gateway(e)]

    def rename(self, container: ContainerRef) -> None:
        """Note a container's new name in its endpoints."""
        for endpoint in self._store.of_container(container.id):
            renamed = endpoint.model_copy(update={"container": container})
            self._store.put_endpoint(renamed)
            self.spanning.joining.renamed(renamed)

    def inspect_endpoints(self, container_id: str) -> dict[str, views.JsonObject]:
        """Return NetworkSettings.Networks of a running container's inspection."""
        endpoints = [e for e in self._store.of_container(container_id) if not self._is_gateway(e)]
        return {e.network_name: views.endpoint_settings(e) for e in endpoints}

    def port_bindings(self, container_id: str) -> dict[str, Sequence[views.JsonObject]]:
        """Return NetworkSettings.Ports of a running container's inspection: the published ones."""
        return dict(views.port_bindings(self._store.of_container(container_id)))

    def close(self) -> None:
        """End what goes on by itself: the care for leases. The networks go on."""
        self._attaching.leasing.close()
        self.spanning.close()

    # Start of the daemon, and what should be

    def restore(self, live_containers: Collection[str]) -> None:
        """Take up what an earlier daemon left: want the plans of running containers, forget those of others.

        The host is not touched but for the namespaces of containers that are gone: `Reconciler.collect` and `repair`,
        after all managers have restored, do the rest. Then the predefined networks are made if they are absent.
        """
        live = set(live_containers)
        for endpoint in self._store.endpoints():
            if endpoint.container.id not in live:
                self._attaching.leasing.release(endpoint)
                self._store.delete_endpoint(endpoint)
        for record in self._store.networks():
            endpoints = self._store.endpoints_of(record.id)
            if endpoints:
                self._reconciler.adopt(record.owner, Plan.from_json(record.plan))
            for endpoint in endpoints:
                sandbox = Sandbox(Path(endpoint.sandbox))
                self._reconciler.adopt(endpoint.owner, Plan.from_json(endpoint.plan), sandbox=sandbox)
                self._attaching.ports.adopt(endpoint.ports, endpoint.id, endpoint.container.name)
                self._attaching.leasing.track(endpoint, unsure=True)
            for endpoint in (e for e in endpoints if e.arriving):
                log.info("container %s was being connected to network %s", endpoint.container.name, record.name)
                self._attaching.detach(endpoint, namespace_gone=False)
        self.spanning.restore()
        for path in netns.present(self._netns_root):
            if path.name not in live:
                self.sandbox_remove(path.name)
        self._restore_names()
        made = {n.driver for n in self._store.networks() if n.predefined}
        for driver in (d for d in PREDEFINED if d not in made):
            try:
                self._default(driver, {}, predefined=True)
            except EngineError as err:
                log.error("the predefined network %s cannot be made: %s", driver, err)

    def _restore_names(self) -> None:
        """Serve all living containers again: what their resolv.conf says was settled when they started."""
        for container, path in {e.container.id: e.sandbox for e in self._store.endpoints()}.items():
            try:
                self._names.serve(container, Sandbox(Path(path)))
            except EngineError as err:
                log.error("container %s cannot look up names: %s", container[:12], err)

    def settle(self) -> None:
        """Finish what an earlier daemon had begun with running containers, after the host was repaired.

        What it was about to change in them is done; default routes and published ports go where they belong.
        """
        replanning = self._attaching.replanning
        self.follow_links()  # a parent, or this host's address in its cluster, may have changed meanwhile
        for container in {e.container.id: e.container for e in self._store.endpoints()}.values():
            try:
                endpoints = self._store.of_container(container.id)
                for endpoint in (e for e in endpoints if e.unsettled):
                    replanning.settle(endpoint)
                self._lead_out(container, Sandbox(Path(endpoints[0].sandbox)))
                replanning.reroute(container.id)
                self.publishing.follow(container.id)
            except EngineError as err:
                log.error("the networks of container %s are not as they should be: %s", container.name, err)

    def follow_links(self) -> bool:
        """Go over to other plans where links that networks are on (parents) have changed, for example their addresses.

        Return whether all did. What cannot be done is logged: the links may change again.
        """
        well = True
        for record in self._store.networks():
            if (record.links or record.scope == "global") and self._store.endpoints_of(record.id):
                try:
                    self._attaching.replanning.follow_links(record.id)
                except EngineError as err:
                    log.warning("network %s does not follow its links: %s", record.name, err)
                    well = False
        return well

    def announce(self, owners: Collection[str]) -> None:
        """Tell shared wires of endpoints whose links were made anew; `owners` is as in the reconciler's reports."""
        for endpoint in self._store.endpoints():
            if endpoint.owner in owners and self._planner.caps(endpoint.driver).shares_wire:
                announce(endpoint)

    def plan(self, ref: str, *, sandboxes: bool = True) -> Sequence[OwnerPlan]:
        """Return what a network and its endpoints want and what is not so, without changing anything.

        Of a network that nobody uses, the plan that would be made: its driver is asked.
        """
        record = self.get(ref)
        plan = self._reconciler.plan_of(record.owner)
        title = f"network {record.name}"
        if plan is None:
            fresh = self._planner.network_plan(self._planner.network(record))
            return [OwnerPlan(record.owner, title, fresh, (), False)]
        result = [OwnerPlan(record.owner, title, plan, self._differences(record.owner, sandboxes), True)]
        for endpoint in self._store.endpoints_of(record.id):
            result.append(OwnerPlan(
                endpoint.owner, f"container {endpoint.container.name}", Plan.from_json(endpoint.plan),
                self._differences(endpoint.owner, sandboxes), True,
            ))  # fmt: skip
        return result

    def verify(self, ref: str) -> views.JsonObject:
        """Return whether a network that spans hosts is on each of them as it should be, after asking them all.

        Raises NotFound, Unsupported for another network or without a cluster, Unavailable.
        """
        record = self.get(ref)
        return result(record, self.spanning.verify(record))

    def _differences(self, owner: str, sandboxes: bool) -> tuple[Difference, ...]:
        return tuple(self._reconciler.diff(owner, sandboxes=sandboxes))

    # Events

    def _tell(self, record: NetworkRecord, action: str, attributes: Mapping[str, str] | None = None) -> None:
        what = {"name": record.name, "type": record.driver, **(attributes or {})}
        self._events.emit("network", action, record.id, what)

    def _told(self, record: NetworkRecord, endpoint: Attachment, action: str) -> None:
        self._tell(record, action, {"container": endpoint.container.id})
