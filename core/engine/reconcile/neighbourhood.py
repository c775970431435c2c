"""Does somebody else on the wire have an address, and telling everybody that we have it now.

Address conflict detection follows RFC 5227 (ARP) and RFC 4862 section 5.4 (neighbour discovery), with shorter times:
those of the RFCs are for links that may take a second to come up and hosts that sleep, and would make each start of a
container last 3 seconds. A host that is awake answers within a few milliseconds, and every start waits for the answer
that does not come.
"""

from __future__ import annotations

import errno
import logging
import select
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

from engine.reconcile.applier import Sandbox
from engine.reconcile.packets import BROADCAST, ETH_ARP, ETH_IPV6, PacketSocket
from engine.spec.values import bits_of, pack, unpack

log = logging.getLogger("engine.reconcile")
PROBES = (0.0, 0.02)
"""Seconds after the start at which a probe is sent: a frame may be lost."""
LISTEN_SECONDS = 0.05
"""Until then an answer counts."""
ANNOUNCEMENTS = 3
_ARP = struct.Struct("!HHBBH6s4s6s4s")
_REQUEST, _REPLY = 1, 2
_SOLICITATION, _ADVERTISEMENT = 135, 136  # RFC 4861
_ICMPV6 = 58
_ALL_NODES = bytes.fromhex("ff020000000000000000000000000001")
_OVERRIDE = 0x20000000
_NO_WIRE = frozenset({errno.ENETDOWN, errno.ENETUNREACH, errno.EADDRNOTAVAIL})


def conflicts(sandbox: Sandbox, link: str, addresses: Sequence[str]) -> dict[str, str]:
    """Ask on a link's wire who has these addresses (without prefix length); return the MAC address of whoever answers.

    The link must be up; none of the addresses may be its own yet. It takes `LISTEN_SECONDS`, less if all are answered.
    Where the link has no carrier, or no addresses to resolve, nobody can answer, and nobody is disturbed.
    """
    found: dict[str, str] = {}
    with ExitStack() as stack:
        sockets = _sockets(stack, sandbox, link, addresses)
        if not all(sock.resolves for sock in sockets.values()):
            return found
        poll = select.poll()
        for sock in sockets.values():
            poll.register(sock, select.POLLIN)
        start = time.monotonic()
        for following in (*PROBES[1:], LISTEN_SECONDS):
            for address in addresses:
                if address not in found and not _send(sockets[bits_of(address)], *_probe(sockets, address)):
                    return found
            if not _listen_until(start + following, poll, sockets, addresses, found):
                return found
    return found


def announce(sandbox: Sandbox, link: str, addresses: Sequence[str]) -> None:
    """Tell everybody on a link's wire that these addresses (without prefix length) are here now.

    Caches of others may still say where an address was before (RFC 5227 section 2.3, RFC 4861 section 7.2.6).
    """
    with ExitStack() as stack:
        sockets = _sockets(stack, sandbox, link, addresses)
        if not all(sock.resolves for sock in sockets.values()):
            return
        for _ in range(ANNOUNCEMENTS):
            for address in addresses:
                sock = sockets[bits_of(address)]
                if bits_of(address) == 32:
                    # Linux takes a reply for an announcement only if it names one station twice (net/ipv4/arp.c).
                    frame = _arp(_REPLY, sock.mac, pack(address), sock.mac, pack(address))
                    reached = _send(sock, frame, BROADCAST)
                else:
                    reached = _send(sock, _advertisement(sock.mac, pack(address)), _multicast_mac(_ALL_NODES))
                if not reached:
                    return


def _sockets(stack: ExitStack, sandbox: Sandbox, link: str, addresses: Sequence[str]) -> dict[int, PacketSocket]:
    """Open one socket for each family, by the length of its addresses."""
    sockets: dict[int, PacketSocket] = {}
    for bits in sorted({bits_of(address) for address in addresses}):
        protocol = ETH_ARP if bits == 32 else ETH_IPV6
        sockets[bits] = stack.enter_context(PacketSocket(sandbox, link, protocol))
    for address in addresses:
        if bits_of(address) == 128:
            for group in (_ALL_NODES, _solicited_node(pack(address))):
                sockets[128].join(_multicast_mac(group))
    return sockets


def _send(sock: PacketSocket, frame: bytes, to: bytes) -> bool:
    """Send a frame; False where there is no wire to send it on."""
    try:
        sock.send(frame, to)
    except OSError as err:
        if err.errno not in _NO_WIRE:
            raise
        log.debug("a link without a wire: %s", err)
        return False
    return True


def _listen_until(
    end: float, poll: select.poll, sockets: dict[int, PacketSocket], addresses: Sequence[str], found: dict[str, str]
) -> bool:
    """Note answers until then; False as soon as there is one for every address."""
    while (left := end - time.monotonic()) > 0:
        for descriptor, _ in poll.poll(left * 1000):
            for bits, sock in sockets.items():
                if sock.fileno() == descriptor:
                    found.update((a, m) for a, m in _answers(bits, sock) if a in addresses and a not in found)
        if len(found) == len(addresses):
            return False
    return True


def _answers(bits: int, sock: PacketSocket) -> Iterator[tuple[str, str]]:
    """Yield (address, MAC address) of every claim that others make in the frames that have come."""
    while True:
        try:
            frame, sender = sock.receive()
        except BlockingIOError:
            return
        claim = (_arp_claim if bits == 32 else _nd_claim)(frame, sock.mac, sender)
        if claim is not None:
            yield claim


def _probe(sockets: dict[int, PacketSocket], address: str) -> tuple[bytes, bytes]:
    """Return the question for an address, from nobody's address so that no cache is changed, and whom it is for."""
    packed = pack(address)
    if len(packed) == 4:
        return _arp(_REQUEST, sockets[32].mac, bytes(4), bytes(6), packed), BROADCAST
    group = _solicited_node(packed)
    return _icmpv6(bytes(16), group, struct.pack("!BBHI", _SOLICITATION, 0, 0, 0) + packed), _multicast_mac(group)


def _arp(operation: int, mac: bytes, address: bytes, target_mac: bytes, target: bytes) -> bytes:
    return _ARP.pack(1, 0x0800, 6, 4, operation, mac, address, target_mac, target)


def _arp_claim(frame: bytes, own: bytes, _: bytes) -> tuple[str, str] | None:
    """Return what a frame claims: whoever sends from an address has it, and whoever probes for it wants it, too."""
    if len(frame) < _ARP.size:
        return None
    hardware, protocol, _, _, operation, mac, address, _, target = _ARP.unpack_from(frame)
    if (hardware, protocol) != (1, 0x0800) or mac == own:
        return None
    if address == bytes(4) and operation == _REQUEST:
        return unpack(target), mac.hex(":")
    return unpack(address), mac.hex(":")


def _nd_claim(frame: bytes, own: bytes, sender: bytes) -> tuple[str, str] | None:
    """Return what a frame claims: an advertisement of an address, or another host's probe for it."""
    if len(frame) < 64 or frame[6] != _ICMPV6 or frame[7] != 255 or sender == own:
        return None
    probing = frame[40] == _SOLICITATION and frame[8:24] == bytes(16)
    if frame[40] == _ADVERTISEMENT or probing:
        return unpack(frame[48:64]), sender.hex(":")
    return None


def _advertisement(mac: bytes, address: bytes) -> bytes:
    body = struct.pack("!BBHI", _ADVERTISEMENT, 0, 0, _OVERRIDE) + address
    return _icmpv6(address, _ALL_NODES, body + b"\x02\x01" + mac)  # option 2: the address of the sender's link


def _icmpv6(source: bytes, destination: bytes, message: bytes) -> bytes:
    """Return a packet with its checksum; hop limit 255 says that no router passed it on."""
    pseudo = source + destination + struct.pack("!II", len(message), _ICMPV6)
    checksum = internet_checksum(pseudo + message)
    message = message[:2] + struct.pack("!H", checksum) + message[4:]
    return struct.pack("!IHBB", 6 << 28, len(message), _ICMPV6, 255) + source + destination + message


def internet_checksum(data: bytes) -> int:
    """Return the checksum of RFC 1071."""
    data += bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _solicited_node(address: bytes) -> bytes:
    return bytes.fromhex("ff0200000000000000000001ff") + address[-3:]


def _multicast_mac(group: bytes) -> bytes:
    return b"\x33\x33" + group[-4:]
