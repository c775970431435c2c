"""`range`: pools and addresses by counting. A network's pool is given, or the next free one of the default pools."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from engine_sdk import (
    AddressPool,
    AddressRequest,
    Conflict,
    InvalidParameter,
    IpamDriver,
    Options,
    Pool,
    PoolRequest,
    Taken,
    Unavailable,
)

Net = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address

DEFAULT_POOLS = (
    *(AddressPool(base=f"172.{n}.0.0/16", size=16) for n in range(17, 32)),
    AddressPool(base="192.168.0.0/16", size=20),
)
"""As Docker's, where the operator has no other wishes: private prefixes of RFC 1918."""
ULA_TRIES = 64


class RangeDriver(IpamDriver[Options]):
    """Give out addresses of a subnet one after another; one that was given back is used again last."""

    def choose_pool(self, request: PoolRequest, options: Options, avoid: tuple[str, ...]) -> Pool:
        """Take the pool that was asked for, or the first default one that overlaps nothing."""
        subnet = _given(request, avoid) if request.subnet else _free(request, avoid)
        if request.ip_range and not _inside(ip_network(request.ip_range), subnet):
            raise InvalidParameter(f"the IP range {request.ip_range} is not inside of the subnet {subnet}")
        fixed = [("gateway", request.gateway)] if request.gateway else []
        for what, address in (*fixed, *(("auxiliary address " + name, a) for name, a in request.aux.items())):
            if ip_address(address) not in subnet:
                raise InvalidParameter(f"the {what} {address} is not in the subnet {subnet}")
        gateway = request.gateway
        if gateway is None and request.wants_gateway:
            low, high = _usable(subnet)
            numbers = (n for n in range(low, high + 1) if _text(subnet, n) not in request.aux.values())
            number = next(numbers, None)
            if number is None:
                raise InvalidParameter(f"the subnet {subnet} has no room for a gateway")
            gateway = _text(subnet, number)
        return Pool(subnet=str(subnet), ip_range=request.ip_range, gateway=gateway, aux=request.aux)

    def choose_address(self, pool: Pool, request: AddressRequest, taken: Taken) -> str:
        """Check a fixed address, or take the previous one, or the next free one after what was given out last."""
        subnet = ip_network(pool.subnet)
        reserved = {pool.gateway, *pool.aux.values()}
        low, high = _usable(subnet)
        if request.address:
            return _check_fixed(request.address, subnet, reserved, taken)
        if pool.gateway is None and not pool.ip_range and high - low > 1:
            low += 1  # the first address is often that of a router which nobody told us of
        if pool.ip_range:
            part = ip_network(pool.ip_range)
            low, high = max(low, int(part.network_address)), min(high, int(part.broadcast_address))
        if request.previous and low <= int(ip_address(request.previous)) <= high:
            return request.previous
        start = low
        if taken.last and ip_address(taken.last).version == subnet.version:
            start = int(ip_address(taken.last)) + 1
        for number in _round(low, high, start):
            address = _text(subnet, number)
            if address not in reserved and address not in taken:
                return address
        raise Unavailable(
            f"no address is free in {pool.ip_range or pool.subnet}", hint="Remove endpoints, or use a larger subnet"
        )


def _given(request: PoolRequest, avoid: tuple[str, ...]) -> Net:
    subnet = ip_network(str(request.subnet))
    if subnet.version != request.family:
        raise InvalidParameter(f"the subnet {subnet} is not of IP version {request.family}")
    if rival := _rival(subnet, [ip_network(prefix) for prefix in avoid]):
        raise Conflict(f"the subnet {subnet} overlaps {rival}", details={"overlaps": str(rival)})
    return subnet


def _free(request: PoolRequest, avoid: tuple[str, ...]) -> Net:
    if request.ip_range:
        raise InvalidParameter("an IP range needs a subnet", hint="Give --subnet as well")
    given = [ip_address(a) for a in (request.gateway, *request.aux.values()) if a]
    others = [ip_network(prefix) for prefix in avoid]
    wished = [pool for pool in request.defaults if ip_network(pool.base).version == request.family]
    if wished or request.family == 4:
        candidates = (subnet for pool in wished or DEFAULT_POOLS for subnet in _free_parts(pool, given, others))
    else:
        candidates = (subnet for subnet in _local_prefixes(request.key) if not _rival(subnet, others))
    for subnet in candidates:
        if all(address in subnet for address in given):
            return subnet
    raise Unavailable(
        "all default address pools are in use",
        hint="Give --subnet; or remove networks, or give the daemon more with --default-address-pool",
    )


def _free_parts(pool: AddressPool, given: Sequence[Address], others: Sequence[Net]) -> Iterator[Net]:
    """The subnets of a pool that overlap no others; where addresses are given, only the one that has the first."""
    base = ip_network(pool.base)
    step = 1 << (base.max_prefixlen - pool.size)
    number, last = int(base.network_address), int(base.broadcast_address)
    if given:
        if given[0] not in base:
            return
        number = int(given[0]) // step * step
        last = number
    while number <= last:
        subnet: Net = type(base)((number, pool.size))
        rival = _rival(subnet, others)
        if rival is None:
            yield subnet
        end = int(rival.broadcast_address) if rival else number
        number = (max(end, number) // step + 1) * step  # a large rival is passed at once


def _local_prefixes(key: str) -> Iterator[IPv6Network]:
    """Unique local prefixes (RFC 4193) whose global and subnet ids come from the network's key."""
    for attempt in range(ULA_TRIES):
        digest = hashlib.sha256(f"{key}/{attempt}".encode()).digest()
        yield IPv6Network((b"\xfd" + digest[:7] + bytes(8), 64))


def _rival(subnet: Net, others: Sequence[Net]) -> Net | None:
    return next((other for other in others if other.version == subnet.version and subnet.overlaps(other)), None)


def _inside(part: Net, subnet: Net) -> bool:
    return part.version == subnet.version and part.prefixlen >= subnet.prefixlen and part.overlaps(subnet)


def _usable(subnet: Net) -> tuple[int, int]:
    """Return the first and last address for hosts: not the network's own, nor (IPv4) the broadcast address.

    Links between two hosts (/31 and /127, RFC 3021 and 6164) and single addresses use all.
    """
    low, high = int(subnet.network_address), int(subnet.broadcast_address)
    if subnet.num_addresses <= 2:
        return low, high
    return low + 1, high - 1 if subnet.version == 4 else high


def _text(subnet: Net, number: int) -> str:
    return str(type(subnet.network_address)(number))


def _round(low: int, high: int, start: int) -> Iterator[int]:
    """All numbers from `low` to `high`, beginning with `start` if it is one of them."""
    if not low <= start <= high:
        start = low
    yield from range(start, high + 1)
    yield from range(low, start)


def _check_fixed(address: str, subnet: Net, reserved: set[str | None], taken: Taken) -> str:
    wanted = ip_address(address)
    low, high = _usable(subnet)
    if wanted not in subnet:
        raise InvalidParameter(f"the address {address} is not in the subnet {subnet}")
    if not low <= int(wanted) <= high:
        raise InvalidParameter(f"the address {address} is the network or broadcast address of {subnet}")
    if address in reserved:
        raise Conflict(f"the address {address} is the gateway's or reserved (auxiliary)")
    if address in taken:
        raise Conflict(f"the address {address} is already taken", details={"value": address})
    return address
