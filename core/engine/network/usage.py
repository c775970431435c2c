"""How much of a network's pools is used, as Docker counts it (GET /networks/ID, `Status`)."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address, ip_network

from engine.network.model import Attachment, NetworkRecord
from engine.spec.ipam import Pool

MOST = (1 << 64) - 1
"""Greater numbers are told as this one: the API's have 64 bits."""


def usage(record: NetworkRecord, endpoints: Iterable[Attachment]) -> dict[str, dict[str, int]]:
    """Return by subnet how many addresses are in use or never given out, and how many can still be chosen."""
    held = {address.partition("/")[0] for endpoint in endpoints for address in endpoint.addresses}
    return {pool.subnet: _usage(pool, held) for pool in record.pools}


def _usage(pool: Pool, held: set[str]) -> dict[str, int]:
    subnet, part = ip_network(pool.subnet), ip_network(pool.ip_range or pool.subnet)
    known = {ip_address(a) for a in (*held, *pool.aux.values(), pool.gateway) if a}
    if subnet.num_addresses > 2:
        known.add(subnet.network_address)
        if subnet.version == 4:
            known.add(subnet.broadcast_address)
    used = {address for address in known if address in subnet}
    free = part.num_addresses - sum(address in part for address in used)
    return {"IPsInUse": min(len(used), MOST), "DynamicIPsAvailable": min(free, MOST)}
