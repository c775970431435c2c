"""`bridge`: containers share a software switch on the host, which is their gateway. The default driver."""

from __future__ import annotations

from pydantic import AliasChoices

from engine_sdk import (
    Address,
    Bridge,
    BridgePort,
    Endpoint,
    Field,
    Masquerade,
    Network,
    NetworkCaps,
    NetworkDriver,
    NetworkOptions,
    OwnLink,
    Plan,
    Resource,
    Segment,
    Sysctl,
    Veth,
    default_route,
)


class BridgeOptions(NetworkOptions):
    """Docker's names of these options are understood as well."""

    name: OwnLink = Field(
        default="",
        validation_alias=AliasChoices("name", "com.docker.network.bridge.name"),
        description="Name of the bridge on the host; chosen by the engine if not given",
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


class BridgeDriver(NetworkDriver[BridgeOptions]):
    """Connect containers by a bridge on the host, with NAT to the outside and apart from other networks."""

    caps = NetworkCaps(ports=True, host_gateway=True)

    def network_plan(self, network: Network[BridgeOptions]) -> Plan:
        """The bridge with the gateways' addresses, its place in the firewall, and NAT."""
        bridge, options = network.ifname, network.options
        parts: list[Resource] = [
            Bridge(name=bridge, mac=network.mac, mtu=options.mtu or 1500),
            Segment(link=bridge, internal=network.internal, inter_container=options.icc),
        ]
        if any(":" in subnet.prefix for subnet in network.subnets):
            # While a bridge's own address is being checked for duplicates, which takes 2 s, the host asks for no
            # neighbour and so forwards nothing to the first container. Nobody else can have that address there.
            parts.append(Sysctl(ns="host", name="net.ipv6.conf.{link}.accept_dad", link=bridge, value="0"))
        for subnet in network.subnets:
            if subnet.gateway_address:
                parts.append(Address(ns="host", link=bridge, address=subnet.gateway_address))
            if not network.internal:
                parts.append(Masquerade(subnet=subnet.prefix) if options.masquerade else _forwarding(subnet.prefix))
        return Plan.of(parts)

    def endpoint_plan(self, network: Network[BridgeOptions], endpoint: Endpoint) -> Plan:
        """A pair of links: one end is a port of the bridge, the other is in the container."""
        mtu = network.options.mtu or 1500
        return Plan.of(
            Veth(
                name=endpoint.host_ifname,
                master=network.ifname,
                mtu=mtu,
                peer=endpoint.ifname,
                peer_mac=endpoint.mac,
                peer_mtu=mtu,
            ),
            [] if network.options.icc else [BridgePort(link=endpoint.host_ifname, isolated=True)],
            (Address(link=endpoint.ifname, address=address) for address in endpoint.addresses),
            (default_route(endpoint.ifname, gateway) for gateway in endpoint.gateways),
        )


def _forwarding(prefix: str) -> Sysctl:
    """Routing without NAT: what turns on forwarding otherwise, masquerading, is not there."""
    name = "net.ipv6.conf.all.forwarding" if ":" in prefix else "net.ipv4.ip_forward"
    return Sysctl(ns="host", name=name, value="1")
