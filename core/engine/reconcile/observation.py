"""What a network namespace contains, read by rtnetlink dumps: only what can be compared with a plan."""

from __future__ import annotations

import struct
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property

from engine.reconcile import advertisements
from engine.reconcile import messages as m
from engine.reconcile.rtnetlink import Message, NetlinkSocket, attr, attributes, text
from engine.spec.values import unpack

RTEXT_FILTER_SKIP_STATS = 8
RT_TABLE_LOCAL, RTPROT_KERNEL, RTN_LOCAL_TYPES = 255, 2, (1,)
NTF_SELF_STATES = 0x40 | 0x80
IFA_F_TEMPORARY, IFA_F_DEPRECATED, IFA_F_TENTATIVE, RT_SCOPE_UNIVERSE = 0x01, 0x20, 0x40, 0


def mac_text(data: bytes | None) -> str:
    """Return a MAC address as text."""
    return data.hex(":") if data else ""


def number(data: bytes | None) -> int:
    """Return an attribute of 1 to 8 bytes, in the byte order of the machine, as a number."""
    return int.from_bytes(data or b"", "little" if struct.pack("=H", 1)[0] else "big")


@dataclass(frozen=True)
class SeenLink:
    """A link as the kernel describes it."""

    index: int
    name: str
    up: bool
    kind: str
    mac: str
    mtu: int
    master: int
    parent: int
    group: int
    alias: str
    data: dict[int, bytes]
    port: dict[int, bytes]
    heeds_routers: bool
    """Whether it takes router advertisements."""


@dataclass(frozen=True)
class SeenRoute:
    """A route of the main table."""

    destination: str
    metric: int
    via: str | None
    index: int
    source: str | None
    proto: int


def read_link(body: bytes) -> SeenLink:
    """Decode a link message."""
    _, _, index, flags, _ = m.IFINFO.unpack_from(body)
    found = attributes(body, 16)
    info = attributes(found.get(m.IFLA_LINKINFO, b""))
    return SeenLink(
        index=index,
        name=text(found.get(m.IFLA_IFNAME)),
        up=bool(flags & m.IFF_UP),
        kind=text(info.get(m.INFO_KIND)),
        mac=mac_text(found.get(m.IFLA_ADDRESS)),
        mtu=number(found.get(m.IFLA_MTU)),
        master=number(found.get(m.IFLA_MASTER)),
        parent=number(found.get(m.IFLA_LINK)),
        group=number(found.get(m.IFLA_GROUP)),
        alias=text(found.get(m.IFLA_IFALIAS)),
        data=attributes(info.get(m.INFO_DATA, b"")),
        port=attributes(info.get(m.INFO_SLAVE_DATA, b"")),
        heeds_routers=advertisements.are_heeded(found.get(m.IFLA_AF_SPEC, b"")),
    )


def ask_link(socket: NetlinkSocket, name: str) -> SeenLink | None:
    """Return one link by name."""
    filters = attr(m.IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS)
    answer = socket.ask(Message(m.RTM_GETLINK, 0, m.ifinfo() + attr(m.IFLA_IFNAME, name) + filters))
    return read_link(answer) if answer else None


class View:
    """One namespace at one moment: every part is read when it is first asked for, and once."""

    def __init__(self, socket: NetlinkSocket, *, few: bool = False) -> None:
        self.socket = socket
        self._few: dict[str, SeenLink | None] | None = {} if few else None

    def link(self, name: str) -> SeenLink | None:
        """Return the link of that name. A view of `few` links asks for each instead of listing all."""
        if self._few is None:
            return self.links.get(name)
        if name not in self._few:
            self._few[name] = ask_link(self.socket, name)
        return self._few[name]

    def index(self, name: str | None) -> int:
        """Return the index of the link of that name; 0 if there is none."""
        found = self.link(name) if name else None
        return found.index if found else 0

    @cached_property
    def links(self) -> dict[str, SeenLink]:
        """All links by name."""
        filters = attr(m.IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS)
        found = map(read_link, self.socket.dump(m.RTM_GETLINK, m.ifinfo() + filters))
        return {link.name: link for link in found}

    @cached_property
    def names(self) -> dict[int, str]:
        """Names of all links by index."""
        return {link.index: link.name for link in self.links.values()}

    @cached_property
    def addresses(self) -> dict[tuple[int, str], int]:
        """Proto by (index of the link, address with prefix length)."""
        found: dict[tuple[int, str], int] = {}
        for body in self.socket.dump(m.RTM_GETADDR, bytes(8)):
            _, length, _, _, index = struct.unpack_from("=BBBBI", body)
            parts = attributes(body, 8)
            packed = parts.get(m.IFA_LOCAL) or parts.get(m.IFA_ADDRESS)
            if packed:
                found[(index, f"{unpack(packed)}/{length}")] = number(parts.get(m.IFA_PROTO))
        return found

    @cached_property
    def routes(self) -> dict[tuple[str, int], list[SeenRoute]]:
        """Unicast routes of the main table by (destination, metric)."""
        found: dict[tuple[str, int], list[SeenRoute]] = defaultdict(list)
        for body in self.socket.dump(m.RTM_GETROUTE, bytes(12)):
            family, length, _, _, table, proto, _, kind, _ = struct.unpack_from("=BBBBBBBBI", body)
            parts = attributes(body, 12)
            if number(parts.get(m.RTA_TABLE)) or table:
                table = number(parts.get(m.RTA_TABLE)) or table
            if table != m.RT_TABLE_MAIN or kind != m.RTN_UNICAST:
                continue
            destination = parts.get(m.RTA_DST) or bytes(16 if family == m.AF_INET6 else 4)
            gateway = parts.get(m.RTA_GATEWAY) or parts.get(m.RTA_VIA, b"")[2:]
            source = parts.get(m.RTA_PREFSRC)
            route = SeenRoute(
                destination=f"{unpack(destination)}/{length}",
                metric=number(parts.get(m.RTA_PRIORITY)),
                via=unpack(gateway) if gateway else None,
                index=number(parts.get(m.RTA_OIF)),
                source=unpack(source) if source else None,
                proto=proto,
            )
            found[(route.destination, route.metric)].append(route)
        return dict(found)

    @cached_property
    def neighbours(self) -> dict[tuple[int, str], tuple[str, int]]:
        """(MAC address, proto) of permanent neighbours by (index of the link, address)."""
        found: dict[tuple[int, str], tuple[str, int]] = {}
        for body in self.socket.dump(m.RTM_GETNEIGH, bytes(12)):
            family, index, state, _, _ = struct.unpack_from("=BxxxiHBB", body)
            parts = attributes(body, 12)
            if family in (m.AF_INET, m.AF_INET6) and state & m.NUD_PERMANENT and m.NDA_DST in parts:
                proto = number(parts.get(m.NDA_PROTOCOL))
                found[(index, unpack(parts[m.NDA_DST]))] = (mac_text(parts.get(m.NDA_LLADDR)), proto)
        return found

    @cached_property
    def forwarding(self) -> dict[tuple[int, str, str], set[str | None]]:
        """Tunnel ends by (index of the link, MAC address, table); an entry without one has None."""
        found: dict[tuple[int, str, str], set[str | None]] = defaultdict(set)
        for body in self.socket.dump(m.RTM_GETNEIGH, struct.pack("=BxHiHBB", m.AF_BRIDGE, 0, 0, 0, 0, 0)):
            family, index, state, flags, _ = struct.unpack_from("=BxxxiHBB", body)
            if family != m.AF_BRIDGE or not state & (m.NUD_NOARP | m.NUD_PERMANENT):
                continue
            parts = attributes(body, 12)
            table = "self" if flags & m.NTF_SELF else "master"
            end = parts.get(m.NDA_DST)
            found[(index, mac_text(parts.get(m.NDA_LLADDR)), table)].add(unpack(end) if end else None)
        return dict(found)

    @cached_property
    def _queues(self) -> list[tuple[int, int, dict[int, bytes]]]:
        """(index of the link, parent, attributes) of all queueing disciplines."""
        return [
            (*struct.unpack_from("=4xi4xI", body), attributes(body, 20))
            for body in self.socket.dump(m.RTM_GETQDISC, bytes(20))
        ]

    @cached_property
    def buckets(self) -> dict[int, tuple[int, int]]:
        """(rate in bytes a second, burst in ticks) of token buckets at the root, by index of the link."""
        found: dict[int, tuple[int, int]] = {}
        for index, parent, parts in self._queues:
            if parent != m.TC_H_ROOT or text(parts.get(m.TCA_KIND)) != "tbf":
                continue
            options = attributes(parts.get(m.TCA_OPTIONS, b""))
            parms = options.get(m.TCA_TBF_PARMS, bytes(36))
            rate = struct.unpack_from("=I", parms, 8)[0]
            wide = options.get(m.TCA_TBF_RATE64)
            found[index] = (number(wide) if wide else rate, struct.unpack_from("=I", parms, 28)[0])
        return found

    def redirection(self, index: int) -> int | None:
        """Return the index of the link that all that comes in by a link is sent to, 0 for no such filter; None if
        there is no place for filters of what comes in.
        """  # fmt: skip
        if not any(i == index and parent == m.TC_H_INGRESS for i, parent, _ in self._queues):
            return None
        asked = struct.pack("=BxHiIII", 0, 0, index, 0, m.INGRESS_HANDLE, 0)
        return max((m.redirection_target(body) for body in self.socket.dump(m.RTM_GETTFILTER, asked)), default=0)


def global_addresses() -> list[tuple[int, str]]:
    """Return the global addresses in the calling thread's namespace, as (index of the link, address with its length).

    Without those that are for a while only (RFC 8981) or not usable yet.
    """
    found = []
    with NetlinkSocket() as sock:
        for body in sock.dump(m.RTM_GETADDR, bytes(8)):
            _, length, flags, scope, holder = struct.unpack_from("=BBBBI", body)
            parts = attributes(body, 8)
            packed = parts.get(m.IFA_LOCAL) or parts.get(m.IFA_ADDRESS)
            passing = len(packed or b"") == 16 and flags & (IFA_F_TEMPORARY | IFA_F_TENTATIVE | IFA_F_DEPRECATED)
            if packed and scope == RT_SCOPE_UNIVERSE and not passing:
                found.append((holder, f"{unpack(packed)}/{length}"))
    return found


def addresses_of(name: str) -> tuple[str, ...]:
    """Return those of one link; see `global_addresses`."""
    with NetlinkSocket() as sock:
        index = sock.index(name)
    return tuple(address for holder, address in global_addresses() if holder == index) if index else ()
