"""What drivers have in common that put containers on the wire of a host link."""

from __future__ import annotations

from typing import Any

from engine_sdk import Address, Endpoint, Extern, InvalidParameter, LinkFact, Network, Plan, Resource, default_route


def parent_plan(network: Network[Any], parent: LinkFact) -> Plan:
    """Return that the parent, which is not ours, must be there. Raises InvalidParameter where the MTU is too large."""
    mtu = network.options.mtu
    if mtu and parent.mtu and mtu > parent.mtu:
        raise InvalidParameter(f"mtu {mtu} is larger than the parent's: {parent.name} has {parent.mtu}")
    return Plan.of(Extern(name=parent.name))


def addresses_and_routes(endpoint: Endpoint) -> list[Resource]:
    """Return an endpoint's addresses and its default routes through gateways on the wire."""
    return [
        *(Address(link=endpoint.ifname, address=address) for address in endpoint.addresses),
        *(default_route(endpoint.ifname, gateway) for gateway in endpoint.gateways),
    ]
