"""`ipvlan`: containers share the MAC address of a host link and have IP addresses of their own on its wire."""

from __future__ import annotations

from typing import Literal

from pydantic import AliasChoices

from engine_drivers.network.on_parent import addresses_and_routes, parent_plan
from engine_sdk import (
    Address,
    Endpoint,
    Field,
    Ipvlan,
    Network,
    NetworkCaps,
    NetworkDriver,
    NetworkOptions,
    ParentLink,
    Plan,
    Route,
)


class IpvlanOptions(NetworkOptions):
    """Docker's names of these options are understood as well."""

    parent: ParentLink = Field(
        default="default-route",
        description="Host link whose wire the containers join: a name (eth0, or eth0.10 for a VLAN), mac:ADDRESS, or"
        " default-route",
    )
    mode: Literal["l2", "l3", "l3s"] = Field(
        default="l2",
        validation_alias=AliasChoices("mode", "ipvlan_mode"),
        description="Whether the parent switches (l2) or routes (l3; l3s through the host's firewall)",
    )
    flag: Literal["bridge", "private", "vepa"] = Field(
        default="bridge",
        validation_alias=AliasChoices("flag", "ipvlan_flag"),
        description="Whether containers on one parent reach each other (bridge), do not (private), or do through an"
        " external switch (vepa)",
    )


class IpvlanDriver(NetworkDriver[IpvlanOptions]):
    """Put containers on a host link's wire under its own MAC address, where a switch allows no other."""

    caps = NetworkCaps(shares_wire=True)

    def network_plan(self, network: Network[IpvlanOptions]) -> Plan:
        """The parent must be there; it is not ours."""
        return parent_plan(network, network.link("parent"))

    def endpoint_plan(self, network: Network[IpvlanOptions], endpoint: Endpoint) -> Plan:
        """A link inside the container, on the parent."""
        parent, options = network.link("parent"), network.options
        link = Ipvlan(
            name=endpoint.ifname,
            ns="sandbox",
            parent=parent.name,
            mode=options.mode,
            isolation=options.flag,
            mtu=options.mtu or parent.mtu,
        )
        if options.mode == "l2":
            return Plan.of(link, addresses_and_routes(endpoint))
        # The parent routes: there is no next hop, and nobody to ask for one.
        return Plan.of(
            link,
            (Address(link=endpoint.ifname, address=address) for address in endpoint.addresses),
            (
                Route(link=endpoint.ifname, destination="::/0" if ":" in gateway else "0.0.0.0/0")
                for gateway in endpoint.gateways
            ),
        )
