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
from engine.network.attaching import Attaching
from engine.network.connecting import Connecting
from engine.network.creation import Creation, NetworkRequest
from engine.network.model import GATEWAY, Attachment, ContainerRef, EndpointSettings, NetworkRecord, PortRequest
from engine.network.names import Names, NoNames
from engine.network.parts import Parts
from engine.network.planner import Planner
from engine.network.publishing import Publishing
from engine.network.restoring import Restoring
from engine.network.sandboxes import Sandboxes
from engine.network.spanning import Spanning
from engine.network.store import NetworkStore, Write
from engine.network.verifying import result
from engine.network.wayout import WayOut
from engine.plugins import Plugins
from engine.reconcile.applier import Difference, Sandbox
from engine.reconcile.reconciler import Reconciler
from engine.spec.errors import Conflict, EngineError, Forbidden, NotFound, Unavailable
from engine.spec.ipam import AddressPool
from engine.spec.network import LocalGateway, NetworkCaps
from engine.spec.resource import Plan
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
        default_pools: tuple[AddressPool, ...] = (),
    ) -> None:
        """Take the parts; `default_pools` are where networks get subnets from that name none (none: docker's)."""
        self._reconciler = reconciler
        self._events = events
        self._names = names or NoNames()
        self._store = NetworkStore(state, self._names)
        self._planner = Planner(plugins, self._own_links, self._vlans)
        self._creation = Creation(plugins, self._planner, self._store.networks, default_pools)
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
        self._sandboxes = Sandboxes(netns_root, self._names)
        self._connecting = Connecting(
            parts, self._attaching, self.publishing, self._way_out, self._sandboxes, self._told
        )  # fmt: skip
        self._restoring = Restoring(
            parts, self.spanning, self._attaching, self.publishing, self._connecting, self._sandboxes
        )

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
        scope: str = "",
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
            scope=scope,
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
        if self._store.drop_unreadable(ref):
            return
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
        return self._sandboxes.path(container_id)

    def sandbox_create(self, container_id: str) -> Sandbox:
        """Make a container's network namespace; see `Sandboxes.create`."""
        return self._sandboxes.create(container_id)

    def sandbox_remove(self, container_id: str) -> None:
        """Let go of a container's network namespace; absent is no error."""
        self._sandboxes.remove(container_id)

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
        """Attach a running container to a network; see `Connecting.attach`."""
        return self._connecting.attach(network, container, sandbox, settings, ports, also)

    def attach_all(
        self,
        container: ContainerRef,
        sandbox: Sandbox,
        wishes: Sequence[tuple[str, EndpointSettings]],
        ports: Sequence[PortRequest] = (),
    ) -> Sequence[Attachment]:
        """Attach a starting container to all its networks, in order; on failure to none."""
        return self._connecting.attach_all(container, sandbox, wishes, ports)

    def check_ports(self, networks: Sequence[str], ports: Sequence[PortRequest]) -> None:
        """Raise Unsupported when a container of these networks could not publish ports: asked when it is created."""
        self._connecting.check_ports(networks, ports)

    def publishes(self, record: NetworkRecord) -> bool:
        """Return whether ports of a container on this network can be published, there or on its way out."""
        return self._way_out.publishes(record)

    def detach(
        self, container_id: str, network: str, *, namespace_gone: bool = False, also: Write | None = None
    ) -> None:
        """Take a container off a network; see `Connecting.detach`."""
        self._connecting.detach(container_id, network, namespace_gone=namespace_gone, also=also)

    def detach_all(self, container_id: str, *, shared: bool = False) -> None:
        """Take a container that has ended off all its networks; see `Connecting.detach_all`."""
        self._connecting.detach_all(container_id, shared=shared)

    def serves_names(self, container_id: str) -> bool:
        """Return whether a container with a network namespace of its own is to ask the engine's name server."""
        return self._names.serves(container_id)

    def attachments(self, container_id: str) -> Sequence[Attachment]:
        """Return a container's endpoints on networks that somebody chose, in the order of their attachment."""
        return [e for e in self._store.of_container(container_id) if not self._store.get(e.network).is_gateway]

    def rename(self, container: ContainerRef) -> None:
        """Note a container's new name in its endpoints."""
        for endpoint in self._store.of_container(container.id):
            renamed = endpoint.model_copy(update={"container": container})
            self._store.put_endpoint(renamed)
            self.spanning.joining.renamed(renamed)

    def inspect_endpoints(self, container_id: str) -> dict[str, views.JsonObject]:
        """Return NetworkSettings.Networks of a running container's inspection."""
        endpoints = [e for e in self._store.of_container(container_id) if not self._store.get(e.network).is_gateway]
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
        """Take up what an earlier daemon left (see `Restoring.restore`); make predefined networks that are absent."""
        self._restoring.restore(live_containers)
        made = {n.driver for n in self._store.networks() if n.predefined}
        for driver in (d for d in PREDEFINED if d not in made):
            try:
                self._default(driver, {}, predefined=True)
            except EngineError as err:
                log.error("the predefined network %s cannot be made: %s", driver, err)

    def faults(self) -> Sequence[str]:
        """Return what could not be taken up after the start, each in a sentence."""
        return list(self._restoring.faults.values())

    def settle(self) -> None:
        """Finish what an earlier daemon had begun with running containers, after the host was repaired."""
        self._restoring.settle()

    def follow_links(self) -> bool:
        """Go over to other plans where links that networks are on have changed; return whether all did."""
        return self._restoring.follow_links()

    def announce(self, owners: Collection[str]) -> None:
        """Tell shared wires of endpoints whose links were made anew; `owners` is as in the reconciler's reports."""
        self._restoring.announce(owners)

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
