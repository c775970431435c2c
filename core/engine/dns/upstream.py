"""Whom to ask for names that are not containers'."""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from engine.dns.members import Member
from engine.reconcile.namesockets import ADDRESS

log = logging.getLogger("engine.dns")

RESOLV_CONF = Path("/etc/resolv.conf")


class Server(NamedTuple):
    """A name server. `inside`: asked from the container's network namespace, else from the host's."""

    address: str
    inside: bool = False
    port: int = 53


class HostServers:
    """The host's name servers, as /etc/resolv.conf says at the moment. For one thread.

    Those on the host's loopback are as good as any other: they are asked from the host's network namespace.
    """

    def __init__(self, path: Path = RESOLV_CONF) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._servers: tuple[Server, ...] = ()

    def now(self) -> tuple[Server, ...]:
        """Return them, read again when the file has changed; none if there is no such file."""
        try:
            status = self._path.stat()
            seen = (status.st_mtime_ns, status.st_ino, status.st_size)
            if seen != self._seen:
                text = self._path.read_text(errors="replace")
                self._servers = tuple(Server(address) for address in nameservers(text))
                self._seen = seen
        except OSError as err:
            if self._seen is not None:
                log.warning("the host's name servers are unknown: %s", err)
            self._seen, self._servers = None, ()
        return self._servers


def nameservers(text: str) -> list[str]:
    """Return the addresses in a resolv.conf(5); what is none is passed over, as the C library does."""
    found = []
    for line in text.splitlines():
        words = line.split()
        if len(words) > 1 and words[0] == "nameserver" and is_address(words[1]):
            found.append(words[1])
    return found


def is_address(text: str) -> bool:
    """Return whether a text is an IP address, perhaps with a scope."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def is_loopback(address: str) -> bool:
    """Return whether an address is one of the machine's own loopback."""
    return ipaddress.ip_address(address).is_loopback


def servers_for(memberships: Sequence[Member], host: HostServers) -> tuple[Server, ...]:
    """Return whom to ask for a container, in order; nobody if it has no way to the outside.

    What it was given (--dns) is asked from its own network namespace, where these addresses have their meaning: they
    may be on a network that the host has no part in, or the container's own loopback. The host's are asked from the
    host; a container on internal networks alone could carry data out that way, so it may not.
    """
    if given := memberships[0].servers if memberships else ():
        return tuple(Server(address, inside=True) for address in given if address != ADDRESS and is_address(address))
    if any(not m.internal for m in memberships):
        return host.now()
    return ()
