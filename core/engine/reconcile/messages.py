"""Resources of a network as rtnetlink messages, by table.

Numbers are those of uapi/linux/{if_link,if_addr,rtnetlink,neighbour,pkt_sched}.h.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from pathlib import Path

from engine.reconcile.rtnetlink import (
    NLA_F_NESTED,
    NLM_F_APPEND,
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    Message,
    attr,
    attributes,
    nest,
)
from engine.spec.links import (
    FLOOD_MAC,
    Address,
    BridgePort,
    ForwardingEntry,
    Ipvlan,
    Link,
    Macvlan,
    Neighbour,
    Route,
    Shape,
    Veth,
    Vlan,
    Vxlan,
)
from engine.spec.values import bits_of, pack

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR, RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 20, 21, 22, 24, 25, 26
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH, RTM_NEWQDISC, RTM_DELQDISC, RTM_GETQDISC = 28, 29, 30, 36, 37, 38
RTM_NEWTFILTER, RTM_DELTFILTER, RTM_GETTFILTER = 44, 45, 46
AF_INET, AF_INET6, AF_BRIDGE = 2, 10, 7
IFF_UP = 1
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK, IFLA_MASTER, IFLA_PROTINFO, IFLA_LINKINFO = 1, 3, 4, 5, 10, 12, 18
IFLA_IFALIAS, IFLA_AF_SPEC, IFLA_GROUP, IFLA_NET_NS_FD, IFLA_EXT_MASK = 20, 26, 27, 28, 29
INFO_KIND, INFO_DATA, INFO_SLAVE_DATA = 1, 2, 5
VETH_INFO_PEER = 1
BRPORT = {
    "hairpin": 4, "learning": 8, "flood": 9, "multicast_flood": 27, "broadcast_flood": 30, "neigh_suppress": 32,
    "isolated": 33,
}  # fmt: skip
MACVLAN_MODES = {"private": 1, "vepa": 2, "bridge": 4, "passthru": 8}
IPVLAN_MODES = {"l2": 0, "l3": 1, "l3s": 2}
IPVLAN_FLAGS = {"bridge": 0, "private": 1, "vepa": 2}
VXLAN_ID, VXLAN_LOCAL, VXLAN_LEARNING, VXLAN_PORT, VXLAN_LOCAL6 = 1, 4, 7, 15, 17
IFA_ADDRESS, IFA_LOCAL, IFA_BROADCAST, IFA_FLAGS, IFA_PROTO = 1, 2, 4, 8, 11
IFA_F_NODAD, IFA_F_PERMANENT = 0x02, 0x80
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_PREFSRC, RTA_TABLE, RTA_VIA = 1, 4, 5, 6, 7, 15, 18
RT_TABLE_MAIN, RTN_UNICAST, RT_SCOPE_LINK, RTNH_F_ONLINK = 254, 1, 253, 4
NDA_DST, NDA_LLADDR, NDA_MASTER, NDA_PROTOCOL = 1, 2, 9, 12
NUD_NOARP, NUD_PERMANENT, NTF_SELF, NTF_MASTER = 0x40, 0x80, 2, 4
TCA_KIND, TCA_OPTIONS, TCA_TBF_PARMS, TCA_TBF_RATE64 = 1, 2, 1, 4
TC_H_ROOT, TBF_HANDLE, LINKLAYER_ETHERNET = 0xFFFFFFFF, 0x10000, 1
TC_H_INGRESS, INGRESS_HANDLE, FIRST_PRIORITY, ETH_P_ALL = 0xFFFFFFF1, 0xFFFF0000, 1, 3
TCA_U32_SEL, TCA_U32_ACT, TC_U32_TERMINAL, TCA_ACT_KIND, TCA_ACT_OPTIONS, TCA_MIRRED_PARMS = 5, 7, 1, 1, 2, 2
TC_ACT_STOLEN, TCA_EGRESS_REDIR = 4, 1
QUEUE_SECONDS = 0.05
"""How much traffic a token bucket may hold back, as time at its rate."""

NEW = NLM_F_CREATE | NLM_F_EXCL
IFINFO = struct.Struct("=BxHiII")


def mac_bytes(mac: str) -> bytes:
    """Return a MAC address as its six bytes."""
    return bytes.fromhex(mac.replace(":", ""))


def ifinfo(index: int = 0, *, up: bool | None = None, family: int = 0) -> bytes:
    """Return the fixed part of a link message; `up` None leaves the link's state alone."""
    return IFINFO.pack(family, 0, index, IFF_UP if up else 0, 0 if up is None else IFF_UP)


# Links


def _macvlan(link: Link) -> bytes:
    assert isinstance(link, Macvlan)
    return attr(1, MACVLAN_MODES[link.mode])


def _ipvlan(link: Link) -> bytes:
    assert isinstance(link, Ipvlan)
    flags = IPVLAN_FLAGS[link.isolation]
    return attr(1, struct.pack("=H", IPVLAN_MODES[link.mode])) + (attr(2, struct.pack("=H", flags)) if flags else b"")


def _vlan(link: Link) -> bytes:
    assert isinstance(link, Vlan)
    return attr(1, struct.pack("=H", link.vid))


def vxlan_local(link: Vxlan) -> bytes:
    """Return the attribute of the underlay address, if the plan sets one."""
    if link.local is None:
        return b""
    return attr(VXLAN_LOCAL6 if ":" in link.local else VXLAN_LOCAL, pack(link.local))


def _vxlan(link: Link) -> bytes:
    assert isinstance(link, Vxlan)
    port = attr(VXLAN_PORT, struct.pack(">H", link.port))
    return attr(VXLAN_ID, link.vni) + vxlan_local(link) + port + attr(VXLAN_LEARNING, b"\0")


_INFO: dict[str, Callable[[Link], bytes]] = {"macvlan": _macvlan, "ipvlan": _ipvlan, "vlan": _vlan, "vxlan": _vxlan}


def link_kind_data(link: Link) -> bytes:
    """Return what is particular to a kind of link (the content of IFLA_INFO_DATA), without a veth's peer."""
    encode = _INFO.get(link.kind)
    return encode(link) if encode else b""


def veth_peer(link: Veth, *, index: int, group: int | None, ns_fd: int | None) -> bytes:
    """Return the description of the other end. It cannot be made up: the kernel wants the pair to exist first."""
    attributes = attr(IFLA_IFNAME, link.peer)
    if link.peer_mac:
        attributes += attr(IFLA_ADDRESS, mac_bytes(link.peer_mac))
    if link.peer_mtu:
        attributes += attr(IFLA_MTU, link.peer_mtu)
    if group is not None:
        attributes += attr(IFLA_GROUP, group)
    if ns_fd is not None:
        attributes += attr(IFLA_NET_NS_FD, ns_fd)
    return attr(VETH_INFO_PEER, ifinfo(index) + attributes)


def new_link(
    link: Link,
    *,
    index: int,
    name: str = "",
    up: bool | None = None,
    parent: int = 0,
    master: int = 0,
    group: int | None = None,
    ns_fd: int | None = None,
    data: bytes = b"",
) -> Message:
    """Return the message that makes a link, of `name` instead of its own if that is given, and of a chosen index."""
    body = [ifinfo(index, up=up), attr(IFLA_IFNAME, name or link.name)]
    if link.mac:
        body.append(attr(IFLA_ADDRESS, mac_bytes(link.mac)))
    if link.mtu:
        body.append(attr(IFLA_MTU, _other_mtu(link.mtu) if link.kind == "bridge" else link.mtu))
    if parent:
        body.append(attr(IFLA_LINK, parent))
    if master:
        body.append(attr(IFLA_MASTER, master))
    if group is not None:
        body.append(attr(IFLA_GROUP, group))
    if ns_fd is not None:
        body.append(attr(IFLA_NET_NS_FD, ns_fd))
    info = attr(INFO_KIND, link.kind)
    if payload := data or link_kind_data(link):
        info += attr(INFO_DATA, payload)
    body.append(attr(IFLA_LINKINFO, info))
    return Message(RTM_NEWLINK, NEW, b"".join(body))


def _other_mtu(mtu: int) -> int:
    """A bridge forgets the MTU that it is made with, and ignores one that it has: make it with another."""
    return mtu - 1 if mtu > 68 else mtu + 1


def set_link(
    index: int,
    *,
    up: bool | None = None,
    name: str = "",
    alias: str = "",
    mac: str | None = None,
    mtu: int | None = None,
    master: int | None = None,
    info: tuple[str, bytes] | None = None,
) -> Message:
    """Return the message that changes the given attributes of a link; `master` 0 takes it out of its bridge."""
    body = [ifinfo(index, up=up)]
    if name:
        body.append(attr(IFLA_IFNAME, name))
    if alias:
        body.append(attr(IFLA_IFALIAS, alias.encode()[:255]))
    if mac:
        body.append(attr(IFLA_ADDRESS, mac_bytes(mac)))
    if mtu:
        body.append(attr(IFLA_MTU, mtu))
    if master is not None:
        body.append(attr(IFLA_MASTER, master))
    if info:
        body.append(attr(IFLA_LINKINFO, attr(INFO_KIND, info[0]) + attr(INFO_DATA, info[1])))
    return Message(RTM_NEWLINK if info else RTM_SETLINK, 0, b"".join(body))


def delete_link(index: int) -> Message:
    """Return the message that deletes a link."""
    return Message(RTM_DELLINK, 0, ifinfo(index))


def bridge_port(port: BridgePort, index: int, *, reset: bool = False) -> Message:
    """Return the message that sets (or puts back to the kernel's defaults) what the plan sets of a port."""
    on = {"learning", "flood", "multicast_flood", "broadcast_flood"}
    bits = b""
    for name, number in BRPORT.items():
        value = getattr(port, name)
        if value is not None:
            bits += attr(number, bytes((name in on if reset else value,)))
    body = ifinfo(index, family=AF_BRIDGE) + attr(IFLA_PROTINFO | NLA_F_NESTED, bits)
    return Message(RTM_SETLINK, 0, body)


# What hangs on links


def address(item: Address, index: int, proto: int, *, delete: bool = False) -> Message:
    """Return the message that adds or deletes an address."""
    ip, length = item.address.split("/")
    packed = pack(ip)
    bits = len(packed) * 8
    v6 = bits == 128
    flags = IFA_F_PERMANENT | (IFA_F_NODAD if item.nodad and v6 else 0)
    body = struct.pack("=BBBBI", AF_INET6 if v6 else AF_INET, int(length), flags, 0, index)
    body += attr(IFA_LOCAL, packed) + attr(IFA_ADDRESS, packed)
    if delete:
        return Message(RTM_DELADDR, 0, body)
    if not v6 and int(length) < 31:
        host = (1 << (32 - int(length))) - 1
        body += attr(IFA_BROADCAST, (int.from_bytes(packed, "big") | host).to_bytes(4, "big"))
    return Message(RTM_NEWADDR, NEW, body + attr(IFA_PROTO, bytes((proto,))))


def route(item: Route, index: int, proto: int, *, flags: int = NEW, delete: bool = False) -> Message:
    """Return the message that adds, replaces (NLM_F_REPLACE) or deletes a route of the main table."""
    ip, length = item.destination.split("/")
    v6 = ":" in ip
    scope = RT_SCOPE_LINK if item.via is None and not v6 else 0
    onlink = RTNH_F_ONLINK if item.onlink else 0
    family = AF_INET6 if v6 else AF_INET
    body = struct.pack("=BBBBBBBBI", family, int(length), 0, 0, RT_TABLE_MAIN, proto, scope, RTN_UNICAST, onlink)
    if int(length):
        body += attr(RTA_DST, pack(ip))
    if index:
        body += attr(RTA_OIF, index)
    if item.via:
        if bits_of(item.via) == 128 and not v6:
            body += attr(RTA_VIA, struct.pack("=H", AF_INET6) + pack(item.via))
        else:
            body += attr(RTA_GATEWAY, pack(item.via))
    if item.metric:
        body += attr(RTA_PRIORITY, item.metric)
    if item.source:
        body += attr(RTA_PREFSRC, pack(item.source))
    return Message(RTM_DELROUTE, 0, body) if delete else Message(RTM_NEWROUTE, flags, body)


def replaced_route(item: Route, index: int, proto: int) -> Message:
    """Return the message that puts a route in the place of the one with its destination and metric."""
    return route(item, index, proto, flags=NLM_F_CREATE | NLM_F_REPLACE)


def neighbour(item: Neighbour, index: int, proto: int, *, flags: int = NEW, delete: bool = False) -> Message:
    """Return the message that adds, replaces or deletes a permanent neighbour."""
    packed = pack(item.address)
    family = AF_INET6 if len(packed) == 16 else AF_INET
    body = struct.pack("=BxHiHBB", family, 0, index, NUD_PERMANENT, 0, 0) + attr(NDA_DST, packed)
    if delete:
        return Message(RTM_DELNEIGH, 0, body)
    body += attr(NDA_LLADDR, mac_bytes(item.mac)) + attr(NDA_PROTOCOL, bytes((proto,)))
    return Message(RTM_NEWNEIGH, flags, body)


def forwarding_entry(item: ForwardingEntry, index: int, *, flags: int = NEW, delete: bool = False) -> Message:
    """Return the message that adds, replaces or deletes an entry of a forwarding table.

    An entry of a bridge's own table must not be "permanent": that would make the address the bridge's.
    """
    self_table = item.table == "self"
    state = NUD_NOARP | (NUD_PERMANENT if self_table else 0)
    body = struct.pack("=BxHiHBB", AF_BRIDGE, 0, index, state, NTF_SELF if self_table else NTF_MASTER, 0)
    body += attr(NDA_LLADDR, mac_bytes(item.mac))
    if item.dst:
        body += attr(NDA_DST, pack(item.dst))
    if delete:
        return Message(RTM_DELNEIGH, 0, body)
    if item.mac == FLOOD_MAC:  # a list, to which each tunnel end is added
        flags = NLM_F_CREATE | NLM_F_APPEND
    return Message(RTM_NEWNEIGH, flags, body)


def _ticks_per_second() -> float:
    """Return the unit of times in qdisc messages (/proc/net/psched: nanoseconds and ticks of one microsecond)."""
    micro, ticks, resolution = (int(word, 16) for word in Path("/proc/net/psched").read_text().split()[:3])
    return micro / ticks * resolution


def burst_ticks(item: Shape) -> int:
    """Return how long it takes to send a burst, in the kernel's ticks."""
    return int(item.burst * 8 / item.rate * _ticks_per_second())


def shape(item: Shape, index: int, *, flags: int = NEW, delete: bool = False) -> Message:
    """Return the message that adds, replaces or deletes a token bucket at the root of a link."""
    body = struct.pack("=BxHiIII", 0, 0, index, TBF_HANDLE, TC_H_ROOT, 0)
    if delete:
        return Message(RTM_DELQDISC, 0, body)
    rate = item.rate // 8
    narrow = min(rate, 0xFFFFFFFF)
    limit = min(int(rate * QUEUE_SECONDS) + item.burst, 0xFFFFFFFF)
    spec = struct.pack("=BBHhHI", 0, LINKLAYER_ETHERNET, 0, 0, 0, narrow)
    parms = spec + bytes(12) + struct.pack("=III", limit, burst_ticks(item), 0)
    options = attr(TCA_TBF_PARMS, parms)
    if rate > 0xFFFFFFFF:
        options += attr(TCA_TBF_RATE64, struct.pack("=Q", rate))
    return Message(RTM_NEWQDISC, flags, body + attr(TCA_KIND, "tbf") + nest(TCA_OPTIONS, options))


def ingress(index: int, *, delete: bool = False) -> Message:
    """Return the message that adds or deletes the place for filters of what comes in by a link; they go with it."""
    body = struct.pack("=BxHiIII", 0, 0, index, INGRESS_HANDLE, TC_H_INGRESS, 0)
    return Message(RTM_DELQDISC if delete else RTM_NEWQDISC, 0 if delete else NEW, body + attr(TCA_KIND, "ingress"))


def redirection(index: int, to: int) -> Message:
    """Return the message that adds the filter by which all that comes in by a link goes out by another one."""
    info = FIRST_PRIORITY << 16 | socket.htons(ETH_P_ALL)
    body = struct.pack("=BxHiIII", 0, 0, index, 0, INGRESS_HANDLE, info)
    everything = struct.pack("=BBBxHHhhI", TC_U32_TERMINAL, 0, 1, 0, 0, 0, 0, 0) + bytes(16)
    parms = struct.pack("=IIiiiiI", 0, 0, TC_ACT_STOLEN, 0, 0, TCA_EGRESS_REDIR, to)
    action = attr(TCA_ACT_KIND, "mirred") + nest(TCA_ACT_OPTIONS, attr(TCA_MIRRED_PARMS, parms))
    options = attr(TCA_U32_SEL, everything) + nest(TCA_U32_ACT, nest(1, action))
    return Message(RTM_NEWTFILTER, NEW, body + attr(TCA_KIND, "u32") + nest(TCA_OPTIONS, options))


def redirection_target(body: bytes) -> int:
    """Return the index of the link that a filter sends everything to; 0 if it is a filter of another kind."""
    options = attributes(attributes(body, 20).get(TCA_OPTIONS, b""))
    action = attributes(attributes(options.get(TCA_U32_ACT, b"")).get(1, b""))
    parms = attributes(action.get(TCA_ACT_OPTIONS, b"")).get(TCA_MIRRED_PARMS, b"")
    return int(struct.unpack_from("=24xI", parms)[0]) if len(parms) >= 28 else 0
