"""`ptp`: each container has a link of its own to the host, which routes between them. No bridge, no broadcast."""

from engine_sdk import (
    Address,
    Endpoint,
    Field,
    Masquerade,
    Network,
    NetworkCaps,
    NetworkDriver,
    NetworkOptions,
    Plan,
    Route,
    Sysctl,
    Veth,
)


class PointToPointOptions(NetworkOptions):
    """Options of the driver `ptp`."""

    masquerade: bool = Field(default=True, description="Give traffic to the outside the address of the host")


class PointToPoint(NetworkDriver[PointToPointOptions]):
    """Route between containers on the host, without a bridge."""

    caps = NetworkCaps(ports=True, host_gateway=True)

    def network_plan(self, network: Network[PointToPointOptions]) -> Plan:
        """Forwarding, and NAT for what leaves the host."""
        forwarding = {4: "net.ipv4.ip_forward", 6: "net.ipv6.conf.all.forwarding"}
        nat = [] if network.internal or not network.options.masquerade else network.subnets
        return Plan.of(
            (Sysctl(ns="host", name=forwarding[6 if ":" in s.prefix else 4], value="1") for s in network.subnets),
            (Masquerade(subnet=s.prefix) for s in nat),
        )

    def endpoint_plan(self, network: Network[PointToPointOptions], endpoint: Endpoint) -> Plan:
        """A pair of links. Each end has its own address and a route to the other's, and no prefix between them."""
        mtu = network.options.mtu or 1500
        inside, outside = endpoint.ifname, endpoint.host_ifname
        veth = Veth(name=outside, mtu=mtu, peer=inside, peer_mac=endpoint.mac, peer_mtu=mtu)
        plan = Plan.of(veth)
        for address in (a.partition("/")[0] for a in endpoint.addresses):
            bits = 128 if ":" in address else 32
            plan += Plan.of(
                Address(link=inside, address=f"{address}/{bits}"),
                Route(ns="host", destination=f"{address}/{bits}", link=outside),
            )
        for subnet in network.subnets:
            if subnet.gateway and endpoint.addresses:
                bits = 128 if ":" in subnet.gateway else 32
                everything = "::/0" if bits == 128 else "0.0.0.0/0"
                plan += Plan.of(
                    Address(ns="host", link=outside, address=f"{subnet.gateway}/{bits}"),
                    Route(destination=f"{subnet.gateway}/{bits}", link=inside),
                    Route(
                        destination=everything if subnet.gateway in endpoint.gateways else subnet.prefix,
                        via=subnet.gateway,
                        link=inside,
                        onlink=True,
                    ),
                )
        return plan
