"""What the name server knows of a container on a network."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from engine.cluster.model import ClusterEndpoint
from engine.network.model import Attachment, NetworkRecord

_PLAIN = re.compile(r"[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*", re.ASCII)
LONGEST = 253
"""Characters of a name (RFC 1035: 255 bytes on the wire)."""


@dataclass(frozen=True)
class Member:
    """A container on a network."""

    endpoint: str
    network: str
    """Network id."""
    network_name: str
    """In lower case."""
    container: str
    """Container id."""
    names: tuple[str, ...] = ()
    """In lower case, the container's own name first."""
    addresses: tuple[str, ...] = ()
    services: frozenset[tuple[str, int]] = frozenset()
    """(protocol, port) of what it exposes or publishes."""
    named: bool = True
    """Containers of this network find each other by name."""
    internal: bool = False
    """The network has no way to the outside."""
    servers: tuple[str, ...] = ()
    """The name servers that the container was given (--dns), or that came with its lease."""
    ndots: int = 0
    """Above 0: a person wants names without dots completed from the search list, so they are not forwarded."""


def member_of(endpoint: Attachment, network: NetworkRecord) -> Member:
    """Return what the name server has to know of an endpoint.

    As in Docker, containers on the predefined networks have no names: their applications never could rely on them, and
    would now find strangers.
    """
    container = endpoint.container
    names = (container.name, *endpoint.settings.aliases, container.hostname, container.id[:12])
    published = {(p.protocol, p.target_port + n) for p in endpoint.ports for n in range(p.count)}
    return Member(
        endpoint=endpoint.id,
        network=network.id,
        network_name=network.name.lower(),
        container=container.id,
        names=tuple(dict.fromkeys(name for name in map(canonical, names) if name)),
        addresses=tuple(address.partition("/")[0] for address in endpoint.addresses),
        services=frozenset(published | set(_exposed(container.exposed))),
        named=not network.predefined and not network.is_gateway,
        internal=network.internal,
        servers=container.dns or (endpoint.lease.dns if endpoint.lease else ()),
        ndots=container.ndots,
    )


def remote_member(endpoint: ClusterEndpoint, network: NetworkRecord) -> Member:
    """Return what the name server has to know of an endpoint on another host, which it does not serve."""
    names = (endpoint.name, *endpoint.aliases, endpoint.hostname, endpoint.container[:12])
    return Member(
        endpoint=endpoint.id,
        network=network.id,
        network_name=network.name.lower(),
        container=endpoint.container,
        names=tuple(dict.fromkeys(name for name in map(canonical, names) if name)),
        addresses=tuple(address.partition("/")[0] for address in endpoint.addresses),
        services=frozenset(_exposed(endpoint.services)),
        internal=network.internal,
    )


def canonical(name: str) -> str:
    """Return a name as it is looked up: lower case, IDNA where it is not ASCII. "" if it cannot be a DNS name."""
    name = name.lower().rstrip(".")
    if not name.isascii():
        try:
            name = name.encode("idna").decode()
        except UnicodeError:
            return ""
    return name if len(name) <= LONGEST and _PLAIN.fullmatch(name) else ""


def _exposed(ports: Iterable[str]) -> Iterator[tuple[str, int]]:
    """Read `80/tcp` and `8000-8010/udp`; what is none of these was never exposed."""
    for port in ports:
        numbers, _, protocol = port.partition("/")
        low, _, high = numbers.partition("-")
        if low.isdecimal() and (high or low).isdecimal():
            yield from ((protocol or "tcp", n) for n in range(int(low), min(int(high or low), 65535) + 1))
