"""What the host's network looks like: its links, its default route, the prefixes that it has routes to.

Reads /proc and asks with ioctls (netdevice(7)); /sys does not follow a network namespace. All of the calling thread's
namespace.
"""

from __future__ import annotations

import ctypes
import fcntl
import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path

from engine.reconcile import observation
from engine.spec.errors import InvalidParameter, Unavailable
from engine.spec.network import LinkFact
from engine.spec.values import IFNAMSIZ, normal_mac, normal_prefix, pack, unpack

_NET = Path("/proc/thread-self/net")
_SIOCGIFHWADDR, _SIOCGIFMTU = 0x8927, 0x8921  # linux/sockios.h
_SIOCGIFCONF, _IFREQ = 0x8912, 40  # linux/sockios.h; sizeof(struct ifreq) of 64-bit machines
_RTF_UP, _RTF_REJECT = 0x1, 0x200  # linux/route.h
_RTF_LOCAL = 0x80000000  # linux/ipv6_route.h
DEFAULT_ROUTE = "default-route"
"""Selects the link of the host's default route."""


def link_names() -> list[str]:
    """Return the names of the host's links, loopback left out."""
    return sorted(name for _, name in socket.if_nameindex() if name != "lo")


def link(name: str) -> LinkFact | None:
    """Return what is known of a link, or None if there is none of that name."""
    request = struct.pack("16s16x", name.encode())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            mtu = struct.unpack_from("i", fcntl.ioctl(sock, _SIOCGIFMTU, request), 16)[0]
            mac = fcntl.ioctl(sock, _SIOCGIFHWADDR, request)[18:24]
        except OSError:
            return None
    return LinkFact(name=name, mtu=mtu, mac=mac.hex(":"))


def _ipv4_routes() -> Iterator[tuple[str, str, int, int]]:
    """Yield (link, prefix, metric, flags) of the main table."""
    for line in (_NET / "route").read_text().splitlines()[1:]:
        fields = line.split()
        destination, mask = (int(fields[n], 16).to_bytes(4, "little") for n in (1, 7))
        length = int(IPv4Address(mask)).bit_count()
        yield fields[0], f"{unpack(destination)}/{length}", int(fields[6]), int(fields[3], 16)


def _ipv6_routes() -> Iterator[tuple[str, str, int, int]]:
    path = _NET / "ipv6_route"
    for line in path.read_text().splitlines() if path.exists() else ():
        fields = line.split()
        prefix = f"{unpack(bytes.fromhex(fields[0]))}/{int(fields[1], 16)}"
        yield fields[9], prefix, int(fields[5], 16), int(fields[8], 16)


def addresses() -> list[tuple[str, str]]:
    """Return the global addresses with prefix lengths of all links but loopback, each with its link's name."""
    names = {index: name for index, name in socket.if_nameindex() if name != "lo"}
    return [(names[index], address) for index, address in observation.global_addresses() if index in names]


def routed_prefixes() -> tuple[str, ...]:
    """Return the prefixes that the host reaches by a route other than a default one: no network should hide them."""
    found = set()
    for name, prefix, _, flags in (*_ipv4_routes(), *_ipv6_routes()):
        length = int(prefix.partition("/")[2])
        if flags & _RTF_UP and not flags & _RTF_LOCAL and name != "lo" and length > 0:
            found.add(normal_prefix(prefix))
    return tuple(sorted(p for p in found if not p.startswith(("fe80:", "ff00:"))))


def default_route_link() -> str | None:
    """Return the link of the default route with the lowest metric, IPv4 before IPv6."""
    for routes in (_ipv4_routes, _ipv6_routes):
        best = min(
            (metric, name)
            for name, prefix, metric, flags in (*routes(), ("", "/0", 1 << 33, _RTF_UP))
            if prefix.endswith("/0") and flags & _RTF_UP and not flags & _RTF_REJECT and name != "lo"
        )
        if best[1]:
            return best[1]
    return None


def carrier(address: str) -> LinkFact | None:
    """Return the link that has an address (without prefix length) of the host's, or None."""
    name = _ipv6_carrier(address) if ":" in address else _ipv4_carrier(address)
    fact = link(name) if name else None
    return fact.model_copy(update={"addresses": observation.addresses_of(fact.name)}) if fact else None


def _ipv4_carrier(address: str) -> str:
    """Ask for all IPv4 addresses at once (netdevice(7), SIOCGIFCONF): `struct ifreq` of 40 bytes each."""
    wanted, size = pack(address), 1 << 16
    buffer = bytearray(size)
    where = (ctypes.c_char * size).from_buffer(buffer)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        answer = fcntl.ioctl(sock, _SIOCGIFCONF, struct.pack("iP", size, ctypes.addressof(where)))
    for start in range(0, struct.unpack_from("i", answer)[0], _IFREQ):
        if buffer[start + 20 : start + 24] == wanted:
            return bytes(buffer[start : start + 16]).rstrip(b"\0").split(b"\0")[0].decode().partition(":")[0]
    return ""


def _ipv6_carrier(address: str) -> str:
    path, wanted = _NET / "if_inet6", pack(address).hex()
    lines = (line.split() for line in path.read_text().splitlines()) if path.exists() else iter(())
    return next((fields[5] for fields in lines if fields[0] == wanted), "")


def select(selector: str, own: frozenset[str], vlans: frozenset[str] = frozenset()) -> LinkFact:
    """Return the host link that a selector means: a name, `default-route` or `mac:ADDRESS`.

    A name like `eth0.10` that is not there, or is one of `vlans` (those that we made), means a VLAN of `eth0`.

    Raises Unavailable, which lists the links, when there is none; InvalidParameter for loopback, one of `own` (links of
    the engine's own) or a malformed selector.
    """
    if selector == DEFAULT_ROUTE:
        name = default_route_link()
        if name is None:
            raise Unavailable("the host has no default route", hint=f"Name a link: {_known(own)}")
    elif selector.startswith("mac:"):
        try:
            mac = normal_mac(selector[4:])
        except ValueError as err:
            raise InvalidParameter(f"malformed link selector {selector!r}", why=str(err)) from err
        found = [fact.name for n in link_names() if n not in own and (fact := link(n)) and fact.mac == mac]
        if len(found) > 1:
            raise Unavailable(f"more than one link has the address {mac}", why=", ".join(found), hint="Name one")
        name = found[0] if found else ""
    else:
        name = selector
    if name == "lo" or name in own:
        raise InvalidParameter(f"{name} cannot be a parent", why="it is loopback or a link of the engine's own")
    fact = _vlan(name) if name in vlans else link(name) if name else None
    if fact is None:
        fact = _vlan(name)
    if fact is None:
        raise Unavailable(f"there is no link {selector!r} on the host", hint=f"Links: {_known(own)}")
    return fact.model_copy(update={"addresses": observation.addresses_of(name)})


def _vlan(name: str) -> LinkFact | None:
    """Return the sub-interface that a name such as `eth0.10` stands for; None if it stands for none."""
    base, dot, text = name.rpartition(".")
    vid = int(text) if text.isdecimal() and not text.startswith("0") else 0
    fact = link(base) if dot and base and base != "lo" and 1 <= vid <= 4094 and len(name) < IFNAMSIZ else None
    return LinkFact(name=name, mtu=fact.mtu, mac=fact.mac, base=base, vid=vid) if fact else None


def _known(own: frozenset[str]) -> str:
    return ", ".join(n for n in link_names() if n not in own) or "none"
