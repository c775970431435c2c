"""A way between the host and containers that are children of one of its links (macvlan).

The kernel keeps a link and its children apart: frames between them would never be seen on the wire. A further child on
the host, the shim, is one of the containers' equals; a route for each container's address leads to it.

Neither side may ask for the other by ARP. Requests reach the whole wire, and there the host's address must stay that of
the parent: everybody who heard the shim speak with it would send the host's traffic there. So both sides know each
other's hardware address from the plan, and the shim answers nobody. (IPv6 answers only for a link's own addresses.)
"""

from __future__ import annotations

from typing import Any

from engine.spec.links import Macvlan, Neighbour, Route, Sysctl
from engine.spec.network import Endpoint, LinkFact, Network
from engine.spec.resource import Resource
from engine.spec.values import bits_of, contains


def host_shim(network: Network[Any], parent: LinkFact) -> tuple[Resource, ...]:
    """Return the shim of a network, for its `network_plan`: the network's own link, a child of `parent` on the host.

    Nothing while the host has no address on the parent: it has nothing to speak with.
    """
    if not parent.addresses:
        return ()
    link = network.ifname
    shim = Macvlan(name=link, parent=parent.name, mac=network.mac, mtu=network.options.mtu or parent.mtu)
    return (shim, Sysctl(ns="host", name="net.ipv4.conf.{link}.arp_ignore", value="8", link=link))


def shim_routes(network: Network[Any], endpoint: Endpoint, parent: LinkFact) -> tuple[Resource, ...]:
    """Return what leads the host and an endpoint to each other over the shim, for the network's `endpoint_plan`."""
    parts: list[Resource] = []
    for address in endpoint.addresses:
        ip = address.partition("/")[0]
        source = parent.address_for(ip)
        if source is None:
            continue
        bits = bits_of(ip)
        parts.append(Route(ns="host", destination=f"{ip}/{bits}", link=network.ifname, source=source))
        parts.append(Neighbour(ns="host", link=network.ifname, address=ip, mac=endpoint.mac))
        parts.append(Neighbour(ns="sandbox", link=endpoint.ifname, address=source, mac=network.mac))
        if not contains(address, source):
            parts.append(Route(link=endpoint.ifname, destination=f"{source}/{bits}"))
    return tuple(parts)
