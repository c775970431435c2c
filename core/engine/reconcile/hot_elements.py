"""Elements of hash maps by nf_tables netlink, without libnftables: a published port costs a tenth of the time.

Numbers are those of uapi/linux/netfilter/{nfnetlink,nf_tables}.h. A batch is a transaction; each element is a message
of its own, so that an error says which one it is about. Values of a concatenation are padded to four bytes each.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from typing import Literal, NamedTuple

from engine.reconcile.rtnetlink import NLM_F_CREATE, NLM_F_EXCL, Message, NetlinkSocket, attr, nest
from engine.reconcile.ruleset import Element
from engine.spec.values import pack

NETLINK_NETFILTER = 12
BATCH_BEGIN, BATCH_END, NFNL_SUBSYS_NFTABLES, NFPROTO_INET = 16, 17, 10, 1
NEWSETELEM, DELSETELEM = NFNL_SUBSYS_NFTABLES << 8 | 12, NFNL_SUBSYS_NFTABLES << 8 | 14
LIST_TABLE, LIST_SET, LIST_ELEMENTS, LIST_ELEMENT, ELEMENT_KEY, ELEMENT_DATA, DATA_VALUE = 1, 2, 3, 1, 1, 2, 1
HOT_SETS = frozenset({"port4", "port6", "at4", "at6"})
MOST = 256
"""Elements in one batch; for more (a long range that is shifted) libnftables splits what it sends."""
_NESTED = 0x8000
_PROTOCOLS = {"tcp": socket.IPPROTO_TCP, "udp": socket.IPPROTO_UDP, "sctp": socket.IPPROTO_SCTP}


class Change(NamedTuple):
    """One change of the firewall's elements."""

    verb: Literal["create", "delete"]
    element: Element


class ChangeRefused(OSError):
    """A transaction was refused, and nothing of it done; `change` is what it was refused for, if that is known."""

    def __init__(self, err: OSError, change: Change | None) -> None:
        super().__init__(err.errno, err.strerror)
        self.change = change


def are_hot(changes: Sequence[Change]) -> bool:
    """Tell whether these changes can take the short way."""
    return len(changes) <= MOST and all(change.element.set in HOT_SETS for change in changes)


def packed(value: str) -> bytes:
    """Return a concatenation that is written as nft does (`tcp . 80`) as the kernel's bytes."""
    found = b""
    for part in value.split(" . "):
        if part in _PROTOCOLS:
            data = bytes((_PROTOCOLS[part],))
        elif part.isdecimal():
            data = struct.pack(">H", int(part))
        else:
            data = pack(part)
        found += data + bytes(-len(data) % 4)
    return found


def encode(table: str, change: Change) -> Message:
    """Return the message of one change."""
    element = change.element
    parts = nest(ELEMENT_KEY | _NESTED, attr(DATA_VALUE, packed(element.key)))
    if change.verb == "create":
        parts += nest(ELEMENT_DATA | _NESTED, attr(DATA_VALUE, packed(element.data)))
    body = struct.pack(">BBH", NFPROTO_INET, 0, 0) + attr(LIST_TABLE, table) + attr(LIST_SET, element.set)
    body += nest(LIST_ELEMENTS | _NESTED, nest(LIST_ELEMENT | _NESTED, parts))
    if change.verb == "create":
        return Message(NEWSETELEM, NLM_F_CREATE | NLM_F_EXCL, body)
    return Message(DELSETELEM, 0, body)


class HotElements:
    """Changes elements of the hash maps of one table. For one thread."""

    def __init__(self, table: str) -> None:
        self._table = table
        self._socket: NetlinkSocket | None = None

    def change(self, changes: Sequence[Change]) -> None:
        """Make changes, all or nothing; raises ChangeRefused."""
        if self._socket is None:
            self._socket = NetlinkSocket(NETLINK_NETFILTER)
        subsystem = struct.pack(">BBH", 0, 0, NFNL_SUBSYS_NFTABLES)
        begin, end = Message(BATCH_BEGIN, 0, subsystem), Message(BATCH_END, 0, subsystem)
        try:
            acks = self._socket.transact(begin, [encode(self._table, change) for change in changes], end)
        except OSError as err:
            raise ChangeRefused(err, None) from err
        for change, ack in zip(changes, acks, strict=True):
            if ack.errno:
                raise ChangeRefused(ack.error(), change)
