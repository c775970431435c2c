"""`macvlan`: each container has a MAC address of its own on a host link's wire."""

from __future__ import annotations

from typing import Literal

from pydantic import AliasChoices

from engine_drivers.network.on_parent import addresses_and_routes, parent_plan
from engine_sdk import (
    Endpoint,
    Field,
    Macvlan,
    Network,
    NetworkCaps,
    NetworkDriver,
    NetworkOptions,
    ParentLink,
    Plan,
    host_shim,
    shim_routes,
)


class MacvlanOptions(NetworkOptions):
    """Docker's names of these options are understood as well."""

    parent: ParentLink = Field(
        default="default-route",
        description="Host link whose wire the containers join: a name (eth0, or eth0.10 for a VLAN), mac:ADDRESS, or"
        " default-route",
    )
    mode: Literal["bridge", "private", "vepa", "passthru"] = Field(
        default="bridge",
        validation_alias=AliasChoices("mode", "macvlan_mode"),
        description="Whether containers on one parent reach each other (bridge), do not (private), or do through an"
        " external switch (vepa); passthru gives the whole parent to one container",
    )
    shim: bool = Field(
        default=True,
        description="Let the host and containers reach each other, by a link of the host's own (mode bridge only)",
    )


class MacvlanDriver(NetworkDriver[MacvlanOptions]):
    """Give each container its own MAC address on a host link, as a machine of its own on that wire."""

    caps = NetworkCaps(shares_wire=True)

    def network_plan(self, network: Network[MacvlanOptions]) -> Plan:
        """The parent must be there, which is not ours, and the shim, which is."""
        parent = network.link("parent")
        return parent_plan(network, parent) + Plan.of(host_shim(network, parent) if _shimmed(network) else ())

    def endpoint_plan(self, network: Network[MacvlanOptions], endpoint: Endpoint) -> Plan:
        """A link inside the container, on the parent."""
        parent, mode = network.link("parent"), network.options.mode
        return Plan.of(
            Macvlan(
                name=endpoint.ifname,
                ns="sandbox",
                parent=parent.name,
                mode=mode,
                mac=None if mode == "passthru" else endpoint.mac,  # the kernel gives the child the parent's
                mtu=network.options.mtu or parent.mtu,
            ),
            addresses_and_routes(endpoint),
            shim_routes(network, endpoint, parent) if _shimmed(network) else (),
        )


def _shimmed(network: Network[MacvlanOptions]) -> bool:
    """Tell whether there is a shim: in the other modes a child of the host's would not be heard."""
    return network.options.shim and network.options.mode == "bridge"
