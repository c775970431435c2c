"""Whether packets of a size get from this host to another one in one piece: ICMP echo that may not be fragmented.

ip(7), ipv6(7): IP_PMTUDISC_PROBE sets "don't fragment", and does not heed what the kernel believes about the path.
"""

from __future__ import annotations

import os
import socket
import struct
import time

from engine.reconcile.neighbourhood import internet_checksum

IP_MTU_DISCOVER, IPV6_MTU_DISCOVER, IPV6_DONTFRAG, PROBE = 10, 23, 62, 3
_HEADERS = {4: 28, 6: 48}
"""Bytes of IP and ICMP."""
_REQUEST, _REPLY = {4: 8, 6: 128}, {4: 0, 6: 129}
SECONDS, TRIES = 0.7, 3
SMALL = 100


def problem_of_path(source: str, target: str, size: int) -> str:
    """Return why packets of `size` bytes do not get from one address to another; "" if they do."""
    if problem := _try(source, target, size):
        small = _try(source, target, SMALL)
        return f"{target} is not reached: {small}" if small else f"{size} bytes do not reach {target}: {problem}"
    return ""


def _try(source: str, target: str, size: int) -> str:
    family = 6 if ":" in target else 4
    kind, protocol = (socket.AF_INET6, socket.IPPROTO_ICMPV6) if family == 6 else (socket.AF_INET, socket.IPPROTO_ICMP)
    try:
        with socket.socket(kind, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol) as sock:
            if family == 6:
                sock.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, PROBE)
                sock.setsockopt(socket.IPPROTO_IPV6, IPV6_DONTFRAG, 1)
            else:
                sock.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, PROBE)
            sock.bind((source, 0))
            return "" if _echo(sock, family, target, max(size - _HEADERS[family], 8)) else "no answer"
    except OSError as err:
        return err.strerror or str(err)


def _echo(sock: socket.socket, family: int, target: str, length: int) -> bool:
    mark = os.urandom(4)
    header = struct.pack("!BBH", _REQUEST[family], 0, 0) + mark
    packet = header + bytes(length)
    if family == 4:  # the kernel fills it in for ICMPv6
        packet = packet[:2] + struct.pack("!H", internet_checksum(packet)) + packet[4:]
    for _ in range(TRIES):
        sock.sendto(packet, (target, 0))
        deadline = time.monotonic() + SECONDS
        while (left := deadline - time.monotonic()) > 0:
            sock.settimeout(left)
            try:
                answer, sender = sock.recvfrom(1 << 16)
            except TimeoutError:
                break
            body = answer[(answer[0] & 15) * 4 :] if family == 4 else answer
            if sender[0] == target and body[:1] == bytes([_REPLY[family]]) and body[4:8] == mark:
                return True
    return False
