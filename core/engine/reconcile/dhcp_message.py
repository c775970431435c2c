"""DHCP messages as bytes (RFC 2131, options of RFC 2132), with the IP and UDP headers before them."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

from engine.reconcile.neighbourhood import internet_checksum
from engine.spec.values import pack, unpack

DISCOVER, OFFER, REQUEST, DECLINE, ACK, NAK, RELEASE = 1, 2, 3, 4, 5, 6, 7
MASK, ROUTERS, DNS, HOSTNAME, DOMAIN = 1, 3, 6, 12, 15
WANTED, SECONDS, OVERLOAD, TYPE, SERVER, ASKED_FOR, TEXT, MOST = 50, 51, 52, 53, 54, 55, 56, 57
RENEW, REBIND, IDENTITY, RAPID = 58, 59, 61, 80
CLIENT_PORT, SERVER_PORT = 68, 67
NOBODY, EVERYBODY = "0.0.0.0", "255.255.255.255"
_BOOTP = struct.Struct("!BBBBIHH4s4s4s4s16s64s128s")
_MAGIC = b"\x63\x82\x53\x63"
_BROADCAST = 0x8000
_SMALLEST = 300
"""Bytes of a BOOTP message: some servers and relays drop what is shorter."""
FILTER = (
    (0x30, 0, 0, 9), (0x15, 0, 6, 17),  # the protocol is UDP,
    (0x28, 0, 0, 6), (0x45, 4, 0, 0x3FFF),  # it is no fragment,
    (0xB1, 0, 0, 0), (0x48, 0, 0, 2), (0x15, 0, 1, CLIENT_PORT),  # and for our port
    (0x06, 0, 0, 65535), (0x06, 0, 0, 0),
)  # fmt: skip
"""A packet filter (see `PacketSocket`) that lets through what servers send."""


@dataclass(frozen=True)
class Message:
    """A message of either side; addresses are text."""

    type: int
    transaction: int
    mac: bytes
    """Hardware address of the client."""
    own: str = NOBODY
    """The address that the client has (ciaddr)."""
    given: str = NOBODY
    """The address that the server gives (yiaddr)."""
    options: Mapping[int, bytes] = field(default_factory=dict)

    def address(self, option: int) -> str | None:
        """Return an option that is one address, or the first of several."""
        return next(iter(self.addresses(option)), None)

    def addresses(self, option: int) -> tuple[str, ...]:
        """Return an option that is a list of addresses."""
        data = self.options.get(option, b"")
        return tuple(unpack(data[n : n + 4]) for n in range(0, len(data) - 3, 4))

    def number(self, option: int) -> int | None:
        """Return an option that is a number of 32 bits."""
        data = self.options.get(option, b"")
        return int.from_bytes(data, "big") if len(data) == 4 else None

    def text(self, option: int) -> str:
        """Return an option that is text; what is not printable ASCII is left out."""
        return "".join(chr(byte) for byte in self.options.get(option, b"") if 32 <= byte < 127)


def encode(message: Message, seconds: int = 0) -> bytes:
    """Return a client's message; `seconds` is for how long it has been asking. Answers are wanted by broadcast.

    A link that has no address yet, or shares its hardware address with others (ipvlan), gets no other answer.
    """
    head = _BOOTP.pack(
        1, 1, 6, 0, message.transaction, min(seconds, 0xFFFF), _BROADCAST if message.own == NOBODY else 0,
        pack(message.own), bytes(4), bytes(4), bytes(4), message.mac, b"", b"",
    )  # fmt: skip
    options = {TYPE: bytes((message.type,)), **message.options}
    body = b"".join(bytes((code, len(data))) + data for code, data in options.items())
    return (head + _MAGIC + body + b"\xff").ljust(_SMALLEST, b"\0")


def decode(data: bytes) -> Message | None:
    """Return a server's message; None for what is none, or is malformed."""
    start = _BOOTP.size + len(_MAGIC)
    if len(data) < start or data[_BOOTP.size : start] != _MAGIC:
        return None
    op, _, length, _, transaction, _, _, own, given, _, _, mac, server_name, file = _BOOTP.unpack_from(data)
    options = _options(data[start:])
    overload = options.get(OVERLOAD, b"\0")[:1]
    for bit, more in ((1, file), (2, server_name)):
        if overload and overload[0] & bit:
            options = {**_options(more), **options}
    if op != 2 or length != 6 or len(options.get(TYPE, b"")) != 1:
        return None
    return Message(options[TYPE][0], transaction, mac[:6], unpack(own), unpack(given), options)


def _options(data: bytes) -> dict[int, bytes]:
    """Read options up to their end; the parts of one that comes in several are joined (RFC 3396)."""
    found: dict[int, bytes] = {}
    offset = 0
    while offset < len(data) and data[offset] != 255:
        if data[offset] == 0:
            offset += 1
            continue
        end = offset + 2 + (data[offset + 1] if offset + 1 < len(data) else len(data))
        if end > len(data):
            break
        found[data[offset]] = found.get(data[offset], b"") + data[offset + 2 : end]
        offset = end
    return found


def datagram(source: str, destination: str, payload: bytes) -> bytes:
    """Return an IP packet with a client's UDP datagram (RFC 791, 768)."""
    addresses = pack(source) + pack(destination)
    length = 8 + len(payload)
    udp = struct.pack("!HHHH", CLIENT_PORT, SERVER_PORT, length, 0) + payload
    checksum = internet_checksum(addresses + struct.pack("!HH", 17, length) + udp) or 0xFFFF
    head = struct.pack("!BBHHHBBH", 0x45, 0x10, 20 + length, 0, 0, 64, 17, 0) + addresses
    head = head[:10] + struct.pack("!H", internet_checksum(head)) + head[12:]
    return head + udp[:6] + struct.pack("!H", checksum) + udp[8:]


def payload_of(packet: bytes) -> bytes:
    """Return what a UDP datagram carries; its checksum may be left to a network card that was never passed."""
    return packet[(packet[0] & 0x0F) * 4 + 8 :] if packet else b""
