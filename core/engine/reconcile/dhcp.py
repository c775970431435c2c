"""A DHCP client that speaks for a container, on its link, before it has an address there (RFC 2131).

Why not a program that exists: those want to set the address themselves, from a script, in a process for each container
(busybox: 3 s to a lease, and nobody to take it over when a daemon is restarted). Here a lease is a value that becomes
part of an endpoint's plan; that it may change is what the plan is for. What is left is four kinds of exchanges.
"""

from __future__ import annotations

import errno
import logging
import secrets
import select
import threading
import time
from collections.abc import Mapping

from engine.lease import Lease
from engine.reconcile import dhcp_message as dm
from engine.reconcile.applier import Sandbox
from engine.reconcile.packets import BROADCAST, ETH_IP, PacketSocket
from engine.spec.values import pack

log = logging.getLogger("engine.reconcile")
PATIENCE = 0.5
"""Seconds to wait for the first answer; twice as long each further time. (The RFC has 4 s, for slower times.)"""
LONGEST_LOOK = 0.25
"""Seconds after which it is looked whether to go on waiting."""
_ASKED_FOR = bytes((dm.MASK, dm.ROUTERS, dm.DNS, dm.DOMAIN, dm.SECONDS, dm.SERVER, dm.RENEW, dm.REBIND))
_LARGEST = 1472
_FOREVER = 0xFFFF_FFFF
_NO_WIRE = frozenset({errno.ENETDOWN, errno.ENETUNREACH, errno.ENXIO, errno.ENODEV})


class NoAnswer(Exception):
    """No server answered in time."""


class Refused(Exception):
    """A server refused the address (DHCPNAK): it may not be used any longer."""


class Stopped(Exception):
    """Nothing is known: the wait for an answer was ended from outside."""


class Client:
    """Speaks on one link. A context manager; FileNotFoundError or OSError when there is no such sandbox or link.

    `identity` is by what a server knows the client (option 61): it stays when the hardware address changes.
    """

    def __init__(
        self, sandbox: Sandbox, link: str, identity: bytes, hostname: str = "", stop: threading.Event | None = None
    ) -> None:
        """When `stop` is set, every method that waits raises Stopped within half a second."""
        self._stop = stop or threading.Event()
        self._socket = PacketSocket(sandbox, link, ETH_IP, dm.FILTER)
        self._options: dict[int, bytes] = {dm.IDENTITY: identity}
        if hostname:
            self._options[dm.HOSTNAME] = hostname.encode("ascii", "ignore")[:63]

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc: object) -> None:
        self._socket.__exit__(*exc)

    def acquire(self, seconds: float, wanted: str = "") -> Lease:
        """Get a lease, of the `wanted` address if the server likes. Raises NoAnswer."""
        end = time.monotonic() + seconds
        while True:
            options = {dm.RAPID: b"", **({dm.WANTED: pack(wanted)} if wanted else {})}
            answer, mac = self._exchange(dm.DISCOVER, options, {dm.OFFER, dm.ACK}, end)
            if answer.type == dm.ACK and dm.RAPID in answer.options:  # RFC 4039: the offer was as good as taken
                return _lease(answer, mac)
            server = answer.address(dm.SERVER)
            if answer.type == dm.ACK or server is None:
                continue
            options = {dm.WANTED: pack(answer.given), dm.SERVER: pack(server)}
            try:
                return _lease(*self._exchange(dm.REQUEST, options, {dm.ACK, dm.NAK}, end))
            except Refused as err:
                log.info("a DHCP server took back its offer: %s", err)

    def confirm(self, lease: Lease, seconds: float) -> Lease:
        """Ask whether a lease of earlier times holds (INIT-REBOOT). Raises Refused, NoAnswer."""
        options = {dm.WANTED: pack(_plain(lease))}
        return _lease(*self._exchange(dm.REQUEST, options, {dm.ACK, dm.NAK}, time.monotonic() + seconds))

    def extend(self, lease: Lease, seconds: float, *, anybody: bool = False) -> Lease:
        """Ask the server (or, with `anybody`, all) for more time. Raises Refused, NoAnswer."""
        end = time.monotonic() + seconds
        to = None if anybody else lease
        return _lease(*self._exchange(dm.REQUEST, {}, {dm.ACK, dm.NAK}, end, own=_plain(lease), to=to))

    def release(self, lease: Lease) -> None:
        """Give a lease back. Nobody answers; if the message is lost, the lease ends by itself."""
        message = self._message(dm.RELEASE, {dm.SERVER: pack(lease.server)}, own=_plain(lease))
        self._send(message, 0, lease)

    def decline(self, lease: Lease) -> None:
        """Tell the server that somebody else has the address."""
        self._send(self._message(dm.DECLINE, {dm.WANTED: pack(_plain(lease)), dm.SERVER: pack(lease.server)}), 0, None)

    def _message(self, type: int, options: Mapping[int, bytes], own: str = dm.NOBODY) -> dm.Message:
        extra = (
            {} if type in (dm.RELEASE, dm.DECLINE) else {dm.ASKED_FOR: _ASKED_FOR, dm.MOST: _LARGEST.to_bytes(2, "big")}
        )
        options = {**self._options, **extra, **options}
        return dm.Message(type, secrets.randbits(32), self._socket.mac, own, options=options)

    def _send(self, message: dm.Message, seconds: int, to: Lease | None) -> None:
        destination = to.server if to else dm.EVERYBODY
        packet = dm.datagram(message.own, destination, dm.encode(message, seconds))
        try:
            self._socket.send(packet, bytes.fromhex(to.server_mac.replace(":", "")) if to else BROADCAST)
        except OSError as err:
            if err.errno not in _NO_WIRE:
                raise
            log.debug("a link without a wire: %s", err)  # it may get one before the time is over

    def _exchange(
        self,
        type: int,
        options: Mapping[int, bytes],
        answers: set[int],
        end: float,
        *,
        own: str = dm.NOBODY,
        to: Lease | None = None,
    ) -> tuple[dm.Message, str]:
        """Send until an answer comes; return it with the hardware address of its sender."""
        start = time.monotonic()
        message, patience = self._message(type, options, own), PATIENCE
        while (now := time.monotonic()) < end:
            self._send(message, int(now - start), to)
            if found := self._await(message, answers, min(end, now + patience)):
                if found[0].type == dm.NAK:
                    raise Refused(found[0].text(dm.TEXT) or "DHCPNAK")
                return found
            patience *= 2
        raise NoAnswer

    def _await(self, asked: dm.Message, types: set[int], end: float) -> tuple[dm.Message, str] | None:
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        while (left := end - time.monotonic()) > 0:
            if self._stop.is_set():
                raise Stopped
            if not poll.poll(min(left, LONGEST_LOOK) * 1000):
                continue
            packet, sender = self._socket.receive()
            answer = dm.decode(dm.payload_of(packet))
            if answer is None or (answer.transaction, answer.mac) != (asked.transaction, asked.mac):
                continue
            if answer.type in types and (answer.type == dm.NAK or _is_usable(answer)):
                return answer, sender.hex(":")
        return None


def _plain(lease: Lease) -> str:
    return lease.address.partition("/")[0]


def _is_usable(answer: dm.Message) -> bool:
    """A lease needs an address, its server and a time."""
    return answer.given != dm.NOBODY and answer.address(dm.SERVER) is not None and bool(answer.number(dm.SECONDS))


def _lease(answer: dm.Message, mac: str) -> Lease:
    mask = int.from_bytes(answer.options.get(dm.MASK, b"\xff\xff\xff\0"), "big")
    seconds = answer.number(dm.SECONDS) or _FOREVER
    rebind = min(answer.number(dm.REBIND) or seconds * 7 // 8, seconds)
    return Lease(
        address=f"{answer.given}/{mask.bit_count()}",
        server=answer.address(dm.SERVER) or "",
        server_mac=mac,
        seconds=seconds,
        renew=min(answer.number(dm.RENEW) or seconds // 2, rebind),
        rebind=rebind,
        obtained=time.time(),
        routers=answer.addresses(dm.ROUTERS),
        dns=answer.addresses(dm.DNS),
        domain=answer.text(dm.DOMAIN),
    )
