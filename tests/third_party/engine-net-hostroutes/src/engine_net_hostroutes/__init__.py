"""`hostroutes`: containers of all hosts of a cluster, routed by the hosts. No tunnel, no bridge, no broadcast."""

from engine_sdk import (
    Address,
    Endpoint,
    Network,
    NetworkCaps,
    NetworkDriver,
    NetworkOptions,
    Peer,
    Plan,
    Route,
    SpecVersion,
    Subnet,
    Sysctl,
    Unavailable,
    Unsupported,
    Veth,
)


class HostRoutes(NetworkDriver[NetworkOptions]):
    """Route between the containers of all hosts of a cluster, which must be neighbours."""

    needs = SpecVersion(1, 1)
    caps = NetworkCaps(scope="global", host_gateway=True)

    def settle_network(self, options: NetworkOptions, subnets: tuple[Subnet, ...]) -> None:
        """Refuse IPv6: the hosts may have no addresses of it, through which routes could lead."""
        if any(":" in subnet.prefix for subnet in subnets):
            raise Unsupported("networks of routes between hosts have IPv4 alone")

    def network_plan(self, network: Network) -> Plan:
        """Forwarding between links of the host."""
        return Plan.of(Sysctl(ns="host", name="net.ipv4.ip_forward", value="1"))

    def endpoint_plan(self, network: Network, endpoint: Endpoint) -> Plan:
        """A pair of links; the host's end has the gateway's address, and a route to the container's."""
        inside, outside = endpoint.ifname, endpoint.host_ifname
        mtu = network.options.mtu or (network.underlay and network.underlay.mtu) or 1500
        plan = Plan.of(Veth(name=outside, mtu=mtu, peer=inside, peer_mac=endpoint.mac, peer_mtu=mtu))
        for address in map(_single, endpoint.addresses):
            plan += Plan.of(Address(link=inside, address=address), Route(ns="host", destination=address, link=outside))
        for subnet in network.subnets:
            if subnet.gateway and endpoint.addresses:
                behind = "0.0.0.0/0" if subnet.gateway in endpoint.gateways else subnet.prefix
                plan += Plan.of(
                    Address(ns="host", link=outside, address=_single(subnet.gateway)),
                    Route(destination=_single(subnet.gateway), link=inside),
                    Route(destination=behind, via=subnet.gateway, link=inside, onlink=True),
                )
        return plan

    def peer_plan(self, network: Network, peer: Peer) -> Plan:
        """A route to the container, through its host."""
        if network.underlay is None:
            raise Unavailable("the link to the other hosts is absent")
        link = network.underlay.name
        return Plan.of(
            Route(ns="host", destination=_single(address), via=peer.host, link=link) for address in peer.addresses
        )


def _single(address: str) -> str:
    """Return an address as a prefix of its own."""
    return f"{address.partition('/')[0]}/32"
