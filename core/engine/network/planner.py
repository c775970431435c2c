"""Asks drivers for plans: builds the values that are handed in, calls, and checks what comes back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, cast

from pydantic import ValidationError

from engine.cluster.cluster import Cluster
from engine.network import hostnet
from engine.network.extras import extras
from engine.network.hairpin import with_hairpin
from engine.network.model import Attachment, NetworkRecord
from engine.network.ports import routed_families
from engine.network.underlay import Underlay
from engine.network.vet import vet
from engine.plugins import Plugins
from engine.spec.errors import DriverFault, Unavailable
from engine.spec.links import Extern, Vlan
from engine.spec.network import Endpoint, LinkFact, Network, NetworkCaps, NetworkDriver, Peer
from engine.spec.options import Options, own_link_fields, parent_fields
from engine.spec.resource import Plan

GROUP = NetworkDriver.GROUP
Links = Literal["select", "same", "known"]
"""Where the links of a network come from; see `Planner.network`."""


class Planner:
    """The way from records to plans. Raises what `Plugins.call` and `vet` raise."""

    def __init__(
        self, plugins: Plugins, own_links: Callable[[], frozenset[str]], vlans: Callable[[], frozenset[str]]
    ) -> None:
        """`own_links` returns the host links that the engine made: no parents; `vlans`, which it made to be parents."""
        self._plugins = plugins
        self.own_links = own_links
        self._vlans = vlans
        self.cluster: Cluster | None = None
        """The hosts that networks of scope global span."""
        self.underlay: Underlay | None = None
        """What carries them."""

    def driver(self, name: str) -> NetworkDriver[Any]:
        """Return a driver, loaded."""
        return cast(NetworkDriver[Any], self._plugins.get(GROUP, name))

    def caps(self, name: str) -> NetworkCaps:
        """Return what a driver can do."""
        return self.driver(name).caps

    def network(self, record: NetworkRecord, links: Links = "select") -> Network[Any]:
        """Return a network as its driver sees it, with the links that its options select.

        While it is in use, it stays with the links that were selected at its beginning: "same" looks at them anew,
        "known" takes what was known last for one that is absent. Raises Unavailable when a link is absent, or when the
        stored options do not fit the driver's model.
        """
        model = self.driver(record.driver).options_model
        try:
            options = model.model_validate(dict(record.options))
        except ValidationError as err:
            raise Unavailable(
                f"the options of network {record.name} do not fit its driver any more",
                why=f"it was created with {record.package}",
                hint="Install that version, or create the network anew",
                driver=record.driver,
            ) from err
        return Network[Any](
            id=record.id,
            name=record.name,
            driver=record.driver,
            options=options,
            labels=record.labels,
            subnets=record.subnets,
            internal=record.internal,
            mac=record.mac,
            ifname=record.ifname,
            links=self._links(record, model, options, links),
            **self._span(record, options),
        )

    def _span(self, record: NetworkRecord, options: Options) -> dict[str, Any]:
        """Return what is told of the cluster to the driver of a network that spans hosts."""
        if record.vni is None:
            return {}
        if self.cluster is None or self.underlay is None:
            return {"vni": record.vni}
        hosts = self.cluster.hosts() if self.caps(record.driver).hosts else ()
        return {"vni": record.vni, "hosts": hosts, **self.underlay.facts(options)}

    def _links(self, record: NetworkRecord, model: type[Options], options: Options, how: Links) -> dict[str, LinkFact]:
        fields = [name for name in parent_fields(model) if getattr(options, name)]
        fields += own_link_fields(model) if record.adopted else ()
        if not fields:
            return {}
        own, vlans, facts = self.own_links(), self._vlans(), {}
        for name in fields:
            former = record.links.get(name) if how != "select" else None
            try:
                facts[name] = hostnet.select(former.name if former else str(getattr(options, name)), own, vlans)
            except Unavailable:
                if former is None or how != "known":
                    raise
                facts[name] = former
        return facts

    def settle(self, driver: str, options: Options, record: NetworkRecord) -> Options:
        """Let the driver check and fill in the options of a new network."""
        settled = self._plugins.call(GROUP, driver, "settle_network", options=options, subnets=record.subnets)
        return options if settled is None else cast(Options, settled)

    def network_plan(self, network: Network[Any]) -> Plan:
        """Return what must exist while the network is used."""
        plan = self._plugins.call(GROUP, network.driver, "network_plan", network=network)
        plan = vet(Plan() if plan is None else plan, network, driver=network.driver)
        return _without_vlans(plan, network) + Plan.of(
            part
            for fact in network.links.values()
            if fact.base and fact.vid
            for part in (Extern(name=fact.base), Vlan(name=fact.name, parent=fact.base, vid=fact.vid))
        )

    def routed(self, record: NetworkRecord) -> frozenset[int]:
        """Return the families whose ports are opened at endpoints' own addresses on a network that is in use."""
        return routed_families(self.network_plan(self.network(record, "known")))

    def endpoint_plan(self, network: Network[Any], attachment: Attachment) -> Plan:
        """Return what must exist while a container is attached, without published ports."""
        endpoint = endpoint_value(attachment)
        plan = self._plugins.call(GROUP, network.driver, "endpoint_plan", network=network, endpoint=endpoint)
        if plan is None:
            raise DriverFault("endpoint_plan returned nothing", driver=network.driver)
        plan = _without_vlans(vet(plan, network, endpoint, driver=network.driver), network)
        if self.caps(network.driver).ports:
            plan = with_hairpin(plan, attachment.ifname)
        return plan + Plan.of(extras(plan, network, attachment))

    def reached_at(self, network: Network[Any], node: str, address: str) -> str:
        """Return the address of another host as traffic of a network goes there; `address` is its own one."""
        return self.underlay.reached_at(network.options, node, address) if self.underlay else address

    def peer_plan(self, network: Network[Any], peer: Peer) -> Plan:
        """Return what must exist on this host for an endpoint on another one."""
        if self.underlay is not None:
            peer = self.underlay.peer(network.options, peer)
        plan = self._plugins.call(GROUP, network.driver, "peer_plan", network=network, peer=peer)
        return vet(Plan() if plan is None else plan, network, peer=peer, driver=network.driver)


def _without_vlans(plan: Plan, network: Network[Any]) -> Plan:
    """Return a driver's plan without the wish that VLANs are there which the core makes."""
    made = {fact.name for fact in network.links.values() if fact.base}
    return Plan.of(r for r in plan.resources if not (isinstance(r, Extern) and r.name in made)) if made else plan


def endpoint_value(attachment: Attachment) -> Endpoint:
    """Return an endpoint as its driver sees it."""
    return Endpoint(
        id=attachment.id,
        ifname=attachment.ifname,
        host_ifname=attachment.host_ifname,
        mac=attachment.mac,
        addresses=attachment.addresses,
        gateways=attachment.gateways,
        container_id=attachment.container.id,
        container_name=attachment.container.name,
        hostname=attachment.container.hostname,
        labels=attachment.container.labels,
        aliases=attachment.settings.aliases,
        options=attachment.settings.driver_opts,
    )
