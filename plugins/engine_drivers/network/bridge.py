"""`bridge`: containers share a software switch on the host, which is their gateway. The default driver."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AliasChoices, BeforeValidator

from engine_sdk import (
    Address,
    AdoptOwnLink,
    Bridge,
    BridgePort,
    Endpoint,
    Extern,
    Field,
    IfName,
    InvalidParameter,
    Masquerade,
    Network,
    NetworkCaps,
    NetworkDriver,
    NetworkOptions,
    OwnLink,
    Plan,
    Resource,
    Segment,
    Subnet,
    Sysctl,
    Veth,
    default_route,
)

GatewayMode = Literal["nat", "nat-unprotected", "routed", "isolated"]


def _names(value: object) -> object:
    return tuple(filter(None, re.split("[:,]", value))) if isinstance(value, str) else value


class BridgeOptions(NetworkOptions):
    """Docker's names of these options are understood as well."""

    name: OwnLink = Field(
        default="",
        validation_alias=AliasChoices("name", "com.docker.network.bridge.name"),
        description="Name of the bridge on the host; chosen by the engine if not given",
    )
    adopt: AdoptOwnLink = Field(
        default=False,
        description="The bridge of that name is on the host already: containers become ports of it, and it is never"
        " changed, deleted or given an address or rules",
    )
    masquerade: bool = Field(
        default=True,
        validation_alias=AliasChoices("masquerade", "com.docker.network.bridge.enable_ip_masquerade"),
        description="Give traffic to the outside the address of the host",
    )
    icc: bool = Field(
        default=True,
        validation_alias=AliasChoices("icc", "com.docker.network.bridge.enable_icc"),
        description="Let containers of the network reach each other (inter-container communication)",
    )
    gateway_mode: GatewayMode = Field(
        default="nat",
        description="nat: the outside sees the host's address. nat-unprotected: so it does, and whoever has a route to"
        " the containers' own reaches all their ports there. routed: the outside sees the containers' own, where their"
        " published ports are open. isolated: the host has no address on the bridge (for internal networks)",
    )
    gateway_mode_ipv4: GatewayMode | None = Field(
        default=None,
        validation_alias=AliasChoices("gateway_mode_ipv4", "com.docker.network.bridge.gateway_mode_ipv4"),
        description="gateway-mode for IPv4 alone",
    )
    gateway_mode_ipv6: GatewayMode | None = Field(
        default=None,
        validation_alias=AliasChoices("gateway_mode_ipv6", "com.docker.network.bridge.gateway_mode_ipv6"),
        description="gateway-mode for IPv6 alone",
    )
    trusted_host_interfaces: Annotated[tuple[IfName, ...], BeforeValidator(_names)] = Field(
        default=(),
        validation_alias=AliasChoices("trusted_host_interfaces", "com.docker.network.bridge.trusted_host_interfaces"),
        description="Host links, separated by colons, from which containers' own addresses are reached at all ports",
    )

    def mode(self, family: int) -> GatewayMode:
        """Return the gateway mode of a family."""
        return (self.gateway_mode_ipv4 if family == 4 else self.gateway_mode_ipv6) or self.gateway_mode


class BridgeDriver(NetworkDriver[BridgeOptions]):
    """Connect containers by a bridge on the host, with NAT to the outside and apart from other networks."""

    caps = NetworkCaps(ports=True, host_gateway=True)

    def network_plan(self, network: Network[BridgeOptions]) -> Plan:
        """The bridge with the gateways' addresses, its place in the firewall, and NAT; or a bridge of the host's."""
        _check(network)
        bridge, options = network.ifname, network.options
        if options.adopt:
            return Plan.of(Extern(name=bridge))
        modes = {} if network.internal else {family: options.mode(family) for family in _families(network.subnets)}
        return Plan.of(
            Bridge(name=bridge, mac=network.mac, mtu=options.mtu or 1500),
            Segment(
                link=bridge,
                internal=network.internal,
                inter_container=options.icc,
                routed=[family for family, mode in modes.items() if mode == "routed"],
                unprotected=[family for family, mode in modes.items() if mode == "nat-unprotected"],
                trusted=options.trusted_host_interfaces,
            ),
            [_no_check(bridge)] if 6 in _families(network.subnets) else [],
            *(_subnet(network, subnet) for subnet in network.subnets),
        )

    def endpoint_plan(self, network: Network[BridgeOptions], endpoint: Endpoint) -> Plan:
        """A pair of links: one end is a port of the bridge, the other is in the container."""
        adopted = network.links.get("name")
        mtu = network.options.mtu or (adopted and adopted.mtu) or 1500
        return Plan.of(
            Veth(
                name=endpoint.host_ifname,
                master=network.ifname,
                mtu=mtu,
                # A bridge takes the lowest address of its ports for its own, unless it was given one.
                mac=f"fe{endpoint.mac[2:]}" if adopted else None,
                peer=endpoint.ifname,
                peer_mac=endpoint.mac,
                peer_mtu=mtu,
            ),
            [] if network.options.icc else [BridgePort(link=endpoint.host_ifname, isolated=True)],
            (Address(link=endpoint.ifname, address=address) for address in endpoint.addresses),
            (default_route(endpoint.ifname, gateway) for gateway in endpoint.gateways),
        )


def _families(subnets: tuple[Subnet, ...]) -> list[int]:
    return sorted({6 if ":" in subnet.prefix else 4 for subnet in subnets})


def _subnet(network: Network[BridgeOptions], subnet: Subnet) -> list[Resource]:
    """The gateway's address, and what lets traffic of the subnet out."""
    family = 6 if ":" in subnet.prefix else 4
    mode = network.options.mode(family)
    parts: list[Resource] = []
    if subnet.gateway_address and mode != "isolated":
        parts.append(Address(ns="host", link=network.ifname, address=subnet.gateway_address))
    if not network.internal:
        nat = mode.startswith("nat") and network.options.masquerade
        parts.append(Masquerade(subnet=subnet.prefix) if nat else _forwarding(family))
    return parts


def _no_check(bridge: str) -> Sysctl:
    """No duplicate address detection on the bridge.

    While its own address is being checked, which takes 2 s, the host asks for no neighbour and so forwards nothing to
    the first container. Nobody else can have that address there.
    """
    return Sysctl(ns="host", name="net.ipv6.conf.{link}.accept_dad", link=bridge, value="0")


def _forwarding(family: int) -> Sysctl:
    """Routing without NAT: what turns on forwarding otherwise, masquerading, is not there."""
    name = "net.ipv6.conf.all.forwarding" if family == 6 else "net.ipv4.ip_forward"
    return Sysctl(ns="host", name=name, value="1")


def _check(network: Network[BridgeOptions]) -> None:
    options = network.options
    modes = {options.mode(family) for family in _families(network.subnets)}
    if "isolated" in modes and not network.internal:
        raise InvalidParameter(
            "an isolated network has no way out", why="the gateway mode is isolated", hint="Create it with --internal"
        )
    if options.adopt and (network.internal or not modes <= {"nat"} or options.trusted_host_interfaces):
        raise InvalidParameter(
            f"no rules are made for {network.ifname}",
            why="it is adopted: what passes through it is its owner's business",
            hint="Leave out --internal, gateway-mode and trusted-host-interfaces",
        )
