"""Subnets that no network can have: what the protocols keep for themselves, and what is the host's own."""

from __future__ import annotations

from ipaddress import ip_network

from engine.network import hostnet
from engine.spec.errors import Conflict, InvalidParameter

_RESERVED = {
    "0.0.0.0/8": "means this network (RFC 791)",
    "127.0.0.0/8": "is loopback, which never leaves a host (RFC 1122)",
    "224.0.0.0/4": "is multicast (RFC 5771)",
    "240.0.0.0/4": "is reserved (RFC 1112)",
    "::/8": "is loopback and addresses of other families (RFC 4291)",
    "fe80::/10": "is for the neighbours on one link, which every link has (RFC 4291)",
    "ff00::/8": "is multicast (RFC 4291)",
}


def check_reserved(subnet: str) -> None:
    """Raise InvalidParameter for a subnet that overlaps what hosts cannot have for an address of their own."""
    for prefix, what in _RESERVED.items():
        if overlap(subnet, prefix):
            raise InvalidParameter(
                f"the subnet {subnet} cannot be used",
                why=f"{prefix} {what}",
                hint="Use a part of 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16 or fd00::/8",
            )


def check_hosts_own(subnet: str, own_links: frozenset[str]) -> None:
    """Raise Conflict for a subnet that a link of the host is in: the host would no longer reach its neighbours there.

    `own_links` are the engine's own.
    """
    for link, address in hostnet.addresses():
        if link not in own_links and overlap(subnet, str(ip_network(address, strict=False))):
            raise Conflict(
                f"the subnet {subnet} is the host's own",
                why=f"{link} has the address {address}: what is there would be out of the host's reach",
                hint="Choose another subnet; or let containers be on that wire: -d macvlan -o parent=LINK",
                details={"subnet": subnet, "link": link},
            )


def overlap(one: str, other: str) -> bool:
    """Tell whether two prefixes have addresses in common."""
    a, b = ip_network(one), ip_network(other)
    return a.version == b.version and a.overlaps(b)
