"""Packet sockets on a link inside a sandbox (packet(7)): what a host says on a wire before it has an address there.

The kernel makes the link-layer header, so frames here begin with what follows it. A socket holds its namespace: it is
closed as soon as the exchange is over.
"""

from __future__ import annotations

import ctypes
import fcntl
import socket
import struct
import threading
from collections.abc import Sequence

from engine.reconcile import netns
from engine.reconcile.applier import Sandbox

ETH_IP, ETH_ARP, ETH_IPV6 = 0x0800, 0x0806, 0x86DD  # linux/if_ether.h
BROADCAST = b"\xff" * 6
_SOL_PACKET, _ADD_MEMBERSHIP, _MR_MULTICAST = 263, 1, 0  # linux/if_packet.h
_SO_ATTACH_FILTER = 26
_SIOCGIFFLAGS, _IFF_NOARP = 0x8913, 0x80  # linux/sockios.h, linux/if.h
Instruction = tuple[int, int, int, int]
"""Of a classic packet filter: code, jump if true, jump if false, operand (Documentation/networking/filter.rst)."""


class PacketSocket:
    """Frames of one protocol on one link. A context manager."""

    def __init__(self, sandbox: Sandbox, link: str, protocol: int, program: Sequence[Instruction] = ()) -> None:
        """Open it. `program` lets through what is of interest. OSError: no such link; FileNotFoundError: no sandbox."""
        self._link, self._protocol = link, protocol
        self._socket, self._index = netns.call_within(sandbox.path, lambda: _open(link, protocol, program))
        self.mac: bytes = self._socket.getsockname()[4]
        """Hardware address of the link."""

    def __enter__(self) -> PacketSocket:
        return self

    def __exit__(self, *_: object) -> None:
        # Closing waits for a grace period of the kernel (10 ms), for which no start of a container need wait.
        threading.Thread(target=self._socket.close, name="close").start()

    @property
    def resolves(self) -> bool:
        """Whether stations ask for each other's hardware addresses there; an ipvlan of mode l3, for one, has none."""
        answer = fcntl.ioctl(self._socket, _SIOCGIFFLAGS, struct.pack("16s24x", self._link.encode()))
        return not struct.unpack_from("16xH", answer)[0] & _IFF_NOARP

    def fileno(self) -> int:
        """Return the descriptor, for poll(2)."""
        return self._socket.fileno()

    def join(self, group: bytes) -> None:
        """Receive frames for a multicast hardware address as well."""
        request = struct.pack("=iHH8s", self._index, _MR_MULTICAST, len(group), group)
        self._socket.setsockopt(_SOL_PACKET, _ADD_MEMBERSHIP, request)

    def send(self, frame: bytes, to: bytes = BROADCAST) -> None:
        """Send a frame. OSError (ENETDOWN) when the link is down."""
        self._socket.sendto(frame, (self._link, self._protocol, 0, 0, to))

    def receive(self) -> tuple[bytes, bytes]:
        """Return a frame and the hardware address that sent it; BlockingIOError if there is none."""
        frame, sender = self._socket.recvfrom(65536)
        return frame, sender[4]


def _open(link: str, protocol: int, program: Sequence[Instruction]) -> tuple[socket.socket, int]:
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, 0)
    try:
        if program:
            _attach(sock, program)
        sock.bind((link, protocol))
    except BaseException:
        sock.close()
        raise
    return sock, socket.if_nametoindex(link)


def _attach(sock: socket.socket, program: Sequence[Instruction]) -> None:
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in program))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", len(program), ctypes.addressof(code)))
