"""The netlink wire: attributes, messages, one send for many of them, dumps (netlink(7), rtnetlink(7), uapi headers).

A batch is not a transaction: the kernel goes on after an error, and every message has its own answer.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

NLM_F_REQUEST, NLM_F_ACK, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_CREATE, NLM_F_APPEND = 1, 4, 0x200, 0x100, 0x400, 0x800
NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_CAPPED, NLM_F_ACK_TLVS = 0x300, 0x10, 0x100, 0x200
NLMSG_ERROR, NLMSG_DONE = 2, 3
NLA_F_NESTED, NLA_TYPE_MASK = 0x8000, 0x3FFF
SOL_NETLINK, NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK = 270, 10, 11, 12
NETLINK_ROUTE = 0
SO_RCVBUFFORCE = 33
SIOCGIFINDEX, SIOCGIFNAME = 0x8933, 0x8910
CHUNK = 128
"""Messages in one send: with thousands, the kernel runs out of room for their answers and the outcome is unknown."""
DUMP_ATTEMPTS = 8

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")


def attr(kind: int, data: bytes | str | int) -> bytes:
    """Return one attribute: text is ended by a NUL, a number has 32 bits."""
    if isinstance(data, str):
        data = data.encode() + b"\0"
    elif isinstance(data, int):
        data = struct.pack("=I", data)
    return _ATTRIBUTE.pack(4 + len(data), kind) + data + bytes(-len(data) % 4)


def nest(kind: int, *attributes: bytes) -> bytes:
    """Return an attribute that holds others."""
    return attr(kind, b"".join(attributes))


def attributes(data: bytes, offset: int = 0) -> dict[int, bytes]:
    """Read attributes from `offset` on; of one that is repeated the last counts."""
    found: dict[int, bytes] = {}
    end = len(data)
    while offset + 4 <= end:
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < 4:
            break
        found[kind & NLA_TYPE_MASK] = data[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return found


def text(data: bytes | None) -> str:
    """Return the text of an attribute; what is no UTF-8 (a name that a stranger chose) is kept escaped."""
    return (data or b"").split(b"\0", 1)[0].decode(errors="surrogateescape")


class Message(NamedTuple):
    """A request: its type, flags (beyond REQUEST and ACK), and all that follows the netlink header."""

    type: int
    flags: int
    body: bytes

    def encode(self, sequence: int, *, answered: bool = True) -> bytes:
        """Return the bytes on the wire; the kernel answers unless told not to."""
        flags = self.flags | NLM_F_REQUEST | (NLM_F_ACK if answered else 0)
        return _HEADER.pack(16 + len(self.body), self.type, flags, sequence, 0) + self.body + bytes(-len(self.body) % 4)


@dataclass(frozen=True)
class Ack:
    """The kernel's answer to one message; `errno` 0 means that it was done."""

    errno: int
    text: str = ""

    def error(self) -> OSError:
        """Return the answer as an exception."""
        return OSError(self.errno, self.text or os.strerror(self.errno))


class NetlinkSocket:
    """A netlink socket in the network namespace in which the calling thread is when it is made."""

    def __init__(self, protocol: int = NETLINK_ROUTE, timeout: float = 30.0) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        for option in (NETLINK_CAP_ACK, NETLINK_EXT_ACK):
            self._socket.setsockopt(SOL_NETLINK, option, 1)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 20)
        except PermissionError:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self._socket.settimeout(timeout)
        self._sequence = 0

    def __enter__(self) -> NetlinkSocket:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def index(self, name: str) -> int:
        """Return the index of the link of that name in the socket's namespace; 0 if there is none."""
        try:
            answer = fcntl.ioctl(self._socket, SIOCGIFINDEX, struct.pack("16s24x", name.encode()))
        except OSError as err:
            if err.errno == errno.ENODEV:
                return 0
            raise
        return int(struct.unpack_from("i", answer, 16)[0])

    def name(self, index: int) -> str:
        """Return the name of the link of that index in the socket's namespace; "" if there is none."""
        try:
            return text(fcntl.ioctl(self._socket, SIOCGIFNAME, struct.pack("16si20x", b"", index))[:16])
        except OSError as err:
            if err.errno == errno.ENODEV:
                return ""
            raise

    def send(self, messages: Sequence[Message]) -> list[Ack]:
        """Send all messages and return the answer to each, in order.

        Raises OSError (ENOBUFS, ETIMEDOUT) when answers were lost: it is unknown then what was done.
        """
        acks: list[Ack] = []
        for start in range(0, len(messages), CHUNK):
            acks.extend(self._send_chunk(messages[start : start + CHUNK]))
        return acks

    def _send_chunk(self, messages: Sequence[Message]) -> list[Ack]:
        first = self._sequence + 1
        self._sequence += len(messages)
        self._socket.send(b"".join(message.encode(first + n) for n, message in enumerate(messages)))
        acks: list[Ack | None] = [None] * len(messages)
        missing = len(messages)
        while missing:
            for kind, flags, sequence, body in self._receive():
                position = sequence - first
                if kind == NLMSG_ERROR and 0 <= position < len(acks) and acks[position] is None:
                    acks[position] = _ack(flags, body)
                    missing -= 1
        return [ack for ack in acks if ack is not None]

    def transact(self, begin: Message, messages: Sequence[Message], end: Message) -> list[Ack]:
        """Send an nfnetlink batch, which is a transaction, and return the answer to each message.

        Raises OSError when the whole batch is refused, or the answer is lost.
        """
        first = self._sequence + 1
        self._sequence += len(messages) + 2
        parts = [message.encode(first + n) for n, message in enumerate(messages, 1)]
        parts = [begin.encode(first, answered=False), *parts, end.encode(self._sequence, answered=False)]
        self._socket.send(b"".join(parts))
        acks: dict[int, Ack] = {}
        while len(acks) < len(messages):
            for kind, flags, sequence, body in self._receive():
                if kind != NLMSG_ERROR or not first <= sequence < self._sequence:
                    continue
                ack = _ack(flags, body)
                if sequence > first:
                    acks[sequence] = ack
                elif ack.errno:
                    raise ack.error()
        return [acks[sequence] for sequence in sorted(acks)]

    def _receive(self) -> Iterator[tuple[int, int, int, bytes]]:
        try:
            data = self._socket.recv(1 << 18)
        except TimeoutError as err:
            raise OSError(errno.ETIMEDOUT, "no answer from the kernel") from err
        yield from split(data)

    def ask(self, message: Message) -> bytes | None:
        """Send a request for one object and return the answer's body; None if there is no such thing."""
        self._sequence += 1
        self._socket.send(message._replace(flags=message.flags).encode(self._sequence))
        answer: bytes | None = None
        while True:
            for kind, flags, sequence, body in self._receive():
                if sequence != self._sequence:
                    continue
                if kind != NLMSG_ERROR:
                    answer = body
                    continue
                ack = _ack(flags, body)
                if ack.errno in (errno.ENODEV, errno.ENOENT, errno.ESRCH, errno.ENETUNREACH):
                    return None
                if ack.errno:
                    raise ack.error()
                return answer

    def dump(self, kind: int, body: bytes) -> list[bytes]:
        """Return the bodies of all objects of a kind; repeated when they changed meanwhile."""
        for _ in range(DUMP_ATTEMPTS):
            found, interrupted = self._dump_once(kind, body)
            if not interrupted:
                return found
        return found

    def _dump_once(self, kind: int, body: bytes) -> tuple[list[bytes], bool]:
        self._sequence += 1
        header = _HEADER.pack(16 + len(body), kind, NLM_F_REQUEST | NLM_F_DUMP, self._sequence, 0)
        self._socket.send(header + body)
        found: list[bytes] = []
        interrupted = False
        while True:
            for answer, flags, sequence, data in self._receive():
                if sequence != self._sequence:
                    continue
                interrupted = interrupted or bool(flags & NLM_F_DUMP_INTR)
                if answer == NLMSG_DONE:
                    return found, interrupted
                if answer == NLMSG_ERROR:
                    raise _ack(flags, data).error()
                found.append(data)


def split(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Iterate over the messages in what was received: type, flags, sequence number, body."""
    offset = 0
    while offset + 16 <= len(data):
        length, kind, flags, sequence, _ = _HEADER.unpack_from(data, offset)
        if length < 16:
            break
        yield kind, flags, sequence, data[offset + 16 : offset + length]
        offset += (length + 3) & ~3


def _ack(flags: int, body: bytes) -> Ack:
    number = -struct.unpack_from("=i", body)[0]
    if not flags & NLM_F_ACK_TLVS:
        return Ack(number)
    offset = 20  # errno and the header of the request, which alone is repeated (NETLINK_CAP_ACK)
    if not flags & NLM_F_CAPPED:
        offset = 4 + struct.unpack_from("=I", body, 4)[0]
    return Ack(number, text(attributes(body, offset).get(1)))  # NLMSGERR_ATTR_MSG
