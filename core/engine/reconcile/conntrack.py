"""Forgetting tracked flows of a published port: a UDP flow would keep the target that it had when it began.

Kernel interface: uapi/linux/netfilter/nfnetlink_conntrack.h.
"""

from __future__ import annotations

import errno
import logging
import socket
import struct
import threading
from collections.abc import Sequence

from engine.reconcile.rtnetlink import Message, NetlinkSocket, attr, attributes, nest
from engine.reconcile.ruleset import is_everywhere
from engine.spec.firewall import PortMap
from engine.spec.values import pack, unpack

log = logging.getLogger("engine.reconcile")

NETLINK_NETFILTER = 12
CT_GET, CT_DELETE = 0x0101, 0x0102
TUPLE_ORIG, TUPLE_REPLY, TUPLE_IP, TUPLE_PROTO, FILTER = 1, 2, 1, 2, 25
IP_SRC, IP_DST = {4: 1, 6: 3}, {4: 2, 6: 4}
PROTO_NUM, PROTO_DST_PORT = 1, 3
FILTER_ORIG_FLAGS, FILTER_REPLY_FLAGS, BY_PROTO, BY_DST_PORT = 1, 2, 1 << 3, 1 << 5
_NESTED = 0x8000
_PROTOCOLS = {"tcp": socket.IPPROTO_TCP, "udp": socket.IPPROTO_UDP, "sctp": socket.IPPROTO_SCTP}
_FAMILIES: dict[int, int] = {4: int(socket.AF_INET), 6: int(socket.AF_INET6)}


def forget_soon(ports: Sequence[PortMap]) -> None:
    """Call `forget` in a thread of its own: the kernel takes some 10 ms to walk its table, whatever is in it."""
    udp = [port for port in ports if port.protocol == "udp"]
    if udp:
        threading.Thread(target=_forget_logged, args=(udp,), name="conntrack", daemon=True).start()


def _forget_logged(ports: Sequence[PortMap]) -> None:
    try:
        for port in ports:
            forget(port)
    except OSError as err:
        log.warning("flows of UDP port %d keep their former target: %s", ports[0].host_port, err)


def forget(port: PortMap) -> int:
    """Delete the tracked flows that go to a published port's target, or to the host itself; return how many."""
    family = port.target_family
    header = struct.pack(">BBH", _FAMILIES[family], 0, 0)
    with NetlinkSocket(NETLINK_NETFILTER) as sock:
        doomed = [
            Message(CT_DELETE, 0, header + attr(TUPLE_ORIG | _NESTED, original))
            for original in _flows(sock, header, port)
        ]
        acks = sock.send(doomed)
    for ack in acks:
        if ack.errno not in (0, errno.ENOENT):
            raise ack.error()
    return len(doomed)


def _flows(sock: NetlinkSocket, header: bytes, port: PortMap) -> list[bytes]:
    """Return the original tuples of flows; the kernel filters by protocol and, for a single port, by port."""
    protocol = _PROTOCOLS[port.protocol]
    proto = attr(PROTO_NUM, bytes((protocol,)))
    flags = BY_PROTO
    if port.count == 1:
        proto += attr(PROTO_DST_PORT, struct.pack(">H", port.host_port))
        flags |= BY_DST_PORT
    request = header + nest(TUPLE_ORIG | _NESTED, attr(TUPLE_PROTO | _NESTED, proto))
    request += nest(FILTER | _NESTED, attr(FILTER_ORIG_FLAGS, flags), attr(FILTER_REPLY_FLAGS, 0))
    found: list[bytes] = []
    family = port.target_family
    for body in sock.dump(CT_GET, request):
        parts = attributes(body, 4)
        original, reply = parts.get(TUPLE_ORIG, b""), parts.get(TUPLE_REPLY, b"")
        tuple_ip, tuple_proto = (attributes(attributes(original).get(kind, b"")) for kind in (TUPLE_IP, TUPLE_PROTO))
        answering = attributes(attributes(reply).get(TUPLE_IP, b"")).get(IP_SRC[family], b"")
        asked = tuple_ip.get(IP_DST[family], b"")
        number = tuple_proto.get(PROTO_NUM, b"\0")[0]
        host_port = struct.unpack(">H", tuple_proto.get(PROTO_DST_PORT, bytes(2)))[0]
        if number != protocol or not port.host_port <= host_port < port.host_port + port.count:
            continue
        if not is_everywhere(port.host_ip) and (not asked or unpack(asked) != port.host_ip):
            continue
        if answering in (pack(port.target), asked):  # rewritten to the target, or not rewritten at all
            found.append(original)
    return found
