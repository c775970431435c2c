"""`overlay`: containers of many hosts share a network, whose frames travel between the hosts in UDP (VXLAN, RFC 7348).

Each host has a bridge with its own containers and one tunnel. Nothing is learned and nothing is flooded: for every
container of another host there are entries that say where it is (its MAC address, the host) and that answer for it
(ARP, neighbour discovery), as in BGP EVPN (RFC 8365). The host has no address on the bridge, so that subnets of several
overlays may overlap; the way out is a bridge of each host's own, as with Docker.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import AliasChoices, BeforeValidator

from engine_sdk import (
    Address,
    Bridge,
    BridgePort,
    Encrypted,
    Endpoint,
    Field,
    ForwardingEntry,
    InvalidParameter,
    LocalGateway,
    Neighbour,
    Network,
    NetworkCaps,
    NetworkDriver,
    NetworkOptions,
    Peer,
    Plan,
    Resource,
    SealedPort,
    Segment,
    SpecVersion,
    Subnet,
    Unavailable,
    Veth,
    Vni,
    Vxlan,
)

PORT = 4789
ENCRYPTED_PORT = 4790
"""Of encrypted networks: one of their own, at which the firewall lets nothing in or out in clear."""
HEADERS = {4: 50, 6: 70}
"""Bytes that the tunnel adds: Ethernet 14, VXLAN 8, UDP 8, and the underlay's IPv4 20 or IPv6 40."""
USUAL_MTU = 1500
"""Of the hosts' network, as long as the link to it is absent."""
LEAST = {4: 576, 6: 1280}
"""What every host of a family must be able to take (RFC 791, RFC 8200)."""


def _given(value: object) -> object:
    """Docker's `--opt encrypted` comes without a value."""
    return True if value == "" else value


class OverlayOptions(NetworkOptions):
    """Docker's names of these options are understood as well."""

    vni: Vni = Field(
        default=None,
        validation_alias=AliasChoices("vni", "com.docker.network.driver.overlay.vxlanid_list"),
        ge=1,
        lt=1 << 24,
        description="Number of the network on the wire; chosen by the cluster if not given",
    )
    port: int | None = Field(
        default=None,
        ge=1,
        le=65535,
        description=f"UDP port at which the hosts exchange frames; {PORT} if not given (RFC 7348)",
    )
    encrypted: Annotated[Encrypted, BeforeValidator(_given)] = Field(
        default=False, description="Encrypt what travels between hosts (WireGuard); in clear nothing is sent"
    )


class OverlayDriver(NetworkDriver[OverlayOptions]):
    """Connect containers of all hosts of a cluster, by tunnels between the hosts."""

    needs = SpecVersion(1, 1)
    caps = NetworkCaps(
        scope="global", own_addresses=True, gateway=LocalGateway(driver="bridge", options={"icc": "false"})
    )

    def settle_network(self, options: OverlayOptions, subnets: tuple[Subnet, ...]) -> OverlayOptions:
        """Choose the port."""
        usual = ENCRYPTED_PORT if options.encrypted else PORT
        port = options.port or usual
        if (port == ENCRYPTED_PORT) != options.encrypted:
            raise InvalidParameter(
                f"port {port} is not for this network",
                why=f"encrypted networks are at port {ENCRYPTED_PORT}, and no others",
                hint="Leave out -o port",
            )
        return options.model_copy(update={"port": port})

    def network_plan(self, network: Network[OverlayOptions]) -> Plan:
        """The bridge and its tunnel, which sends only what it has an entry for."""
        mtu, tunnel, port = _mtu(network), _tunnel(network), network.options.port or PORT
        return Plan.of(
            Bridge(name=network.ifname, mac=network.mac, mtu=mtu),
            Segment(link=network.ifname, internal=True),
            Vxlan(
                name=tunnel,
                master=network.ifname,
                mtu=mtu,
                vni=_number(network),
                local=_host(network),
                port=port,
            ),
            BridgePort(
                link=tunnel,
                learning=False,
                neigh_suppress=True,
                flood=False,
                multicast_flood=False,
                broadcast_flood=False,
            ),
            _seal(network, port),
        )

    def endpoint_plan(self, network: Network[OverlayOptions], endpoint: Endpoint) -> Plan:
        """A pair of links: one end is a port of the bridge, the other is in the container."""
        mtu = _mtu(network)
        return Plan.of(
            Veth(
                name=endpoint.host_ifname,
                master=network.ifname,
                mtu=mtu,
                peer=endpoint.ifname,
                peer_mac=endpoint.mac,
                peer_mtu=mtu,
            ),
            (Address(link=endpoint.ifname, address=address) for address in endpoint.addresses),
        )

    def peer_plan(self, network: Network[OverlayOptions], peer: Peer) -> Plan:
        """Where the container is: behind the tunnel ("master"), at that host ("self"); and what answers for it."""
        tunnel = _tunnel(network)
        return Plan.of(
            ForwardingEntry(link=tunnel, mac=peer.mac, dst=peer.host),
            ForwardingEntry(link=tunnel, mac=peer.mac, table="master"),
            (
                Neighbour(link=network.ifname, address=address.partition("/")[0], mac=peer.mac)
                for address in peer.addresses
            ),
        )


def _seal(network: Network[OverlayOptions], port: int) -> list[Resource]:
    """What keeps the frames of an encrypted network from travelling in clear."""
    if not network.options.encrypted:
        return []
    if network.underlay is None:
        raise Unavailable(f"network {network.name} is encrypted", why="the link that encrypts is absent")
    return [SealedPort(port=port, link=network.underlay.name)]


def _tunnel(network: Network[OverlayOptions]) -> str:
    return network.host_name("vx")


def _host(network: Network[OverlayOptions]) -> str:
    if network.host is None:
        raise Unavailable(
            f"network {network.name} spans hosts, and this host is in no cluster",
            hint="Start the daemon with --cluster etcd://ADDRESS:2379 --advertise ADDRESS",
        )
    return network.host


def _number(network: Network[OverlayOptions]) -> int:
    if network.vni is None:
        raise Unavailable(f"network {network.name} has no number on the wire", why="it was made without a cluster")
    return network.vni


def _mtu(network: Network[OverlayOptions]) -> int:
    """Return the largest packet inside the tunnel. Raises InvalidParameter if the hosts' network cannot carry it."""
    outside = (network.underlay and network.underlay.mtu) or USUAL_MTU
    room = outside - HEADERS[6 if ":" in _host(network) else 4]
    mtu = network.options.mtu or room
    least = LEAST[6 if any(":" in subnet.prefix for subnet in network.subnets) else 4]
    if not least <= mtu <= room:
        raise InvalidParameter(
            f"network {network.name} cannot have packets of {mtu} bytes",
            why=f"the hosts' network carries {outside} bytes, which leaves {room}; {least} are the least",
            hint="Leave out -o mtu" if network.options.mtu else "Raise the MTU of the hosts' links",
        )
    return mtu
