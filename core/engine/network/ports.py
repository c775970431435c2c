"""Published ports: which are taken on this host, and the resources that publish them.

Kept in memory and derived from the endpoints' records at start.
"""

from __future__ import annotations

import errno
import itertools
import socket
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.network.addresses import check_address
from engine.network.model import Attachment, PortRequest, PortSpan, Protocol, PublishedPort
from engine.spec.errors import Conflict, InvalidParameter, Unavailable
from engine.spec.firewall import OpenPort, PortMap, Segment
from engine.spec.resource import Plan
from engine.spec.values import family_of, pack

_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
RUN = 16
"""Requests for so many neighbouring ports become one range: looking up single ports is cheaper for fewer."""
_SOCKETS: dict[Protocol, tuple[int, int]] = {
    "tcp": (socket.SOCK_STREAM, socket.IPPROTO_TCP),
    "udp": (socket.SOCK_DGRAM, socket.IPPROTO_UDP),
    "sctp": (socket.SOCK_STREAM, socket.IPPROTO_SCTP),
}
_Place = tuple[str, int, int]
"""Protocol, family and port; ranges are all at RANGES, since they are few."""
RANGES = 0
_ANY = {4: "0.0.0.0", 6: "::"}


@dataclass(frozen=True)
class _Taken:
    """A published port, and who has it."""

    port: PublishedPort
    owner: str
    container: str

    def meets(self, other: PublishedPort) -> bool:
        """Return whether both want one port of one address. The protocol and family are equal."""
        apart = self.port.host_ip and other.host_ip and self.port.host_ip != other.host_ip
        ends = self.port.host_port + self.port.count, other.host_port + other.count
        return not apart and self.port.host_port < ends[1] and other.host_port < ends[0]


def _place_of(port: PublishedPort) -> _Place:
    return port.protocol, port.family, port.host_port if port.count == 1 else RANGES


class Ports:
    """The published ports of this host. Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken: dict[_Place, list[_Taken]] = {}
        self._next = 0

    def publish(
        self,
        requests: Sequence[PortRequest],
        targets: Mapping[int, str],
        owner: str,
        container: str,
        binding: str = "",
        routed: Collection[int] = (),
    ) -> tuple[PublishedPort, ...]:
        """Take ports for an endpoint, all or none.

        `targets` are its addresses by family; `binding` is the host address where a request has none; in the families
        `routed` ports are opened at the endpoint's own address, whatever host address and port are asked for.

        Raises InvalidParameter for an address that the host or the endpoint's family does not have, Conflict for a
        port that is taken (naming the container, or saying that another process has it), Unavailable when no port of a
        range is free.
        """
        with self._lock:
            published: list[PublishedPort] = []
            try:
                for request, count in _runs(requests):
                    families = _families(request.host_ip or binding, targets)
                    mapped = [family for family in families if family not in routed]
                    for port in self._assign(request, count, mapped, binding) if mapped else ():
                        self._add(_Taken(port, owner, container))
                        published.append(port)
                    published += [_opened(request, count, family) for family in families if family in routed]
            except BaseException:
                self._remove(published, owner)
                raise
        return tuple(published)

    def adopt(self, ports: Iterable[PublishedPort], owner: str, container: str) -> None:
        """Note the ports that an endpoint has had since an earlier process."""
        with self._lock:
            for port in ports:
                self._add(_Taken(port, owner, container))

    def release(self, ports: Iterable[PublishedPort], owner: str) -> None:
        """Give an endpoint's ports back."""
        with self._lock:
            self._remove(ports, owner)

    def replace(self, changes: Iterable[tuple[Attachment, Iterable[PublishedPort]]]) -> None:
        """Note that endpoints have these ports in place of those that their records say, all at once."""
        with self._lock:
            changes = list(changes)
            for endpoint, _ in changes:
                self._remove(endpoint.ports, endpoint.id)
            for endpoint, ports in changes:
                for port in ports:
                    self._add(_Taken(port, endpoint.id, endpoint.container.name))

    def _add(self, taken: _Taken) -> None:
        if taken.port.host_port:
            self._taken.setdefault(_place_of(taken.port), []).append(taken)

    def _remove(self, ports: Iterable[PublishedPort], owner: str) -> None:
        for port in ports:
            place = _place_of(port)
            left = [t for t in self._taken.pop(place, ()) if t.owner != owner or t.port != port]
            if left:
                self._taken[place] = left

    def _holder(self, port: PublishedPort) -> _Taken | None:
        """Return who has one of these ports."""
        kind: tuple[str, int] = (port.protocol, port.family)
        if port.count == 1:
            places: list[_Place] = [(*kind, port.host_port), (*kind, RANGES)]
        else:
            numbers = range(port.host_port, port.host_port + port.count)
            places = [p for p in self._taken if p[:2] == kind and (p[2] in numbers or p[2] == RANGES)]
        return next((t for place in places for t in self._taken.get(place, ()) if t.meets(port)), None)

    def _assign(self, request: PortRequest, count: int, families: Sequence[int], binding: str) -> list[PublishedPort]:
        """Return where one request is published, one for each family, on one port number."""
        host_ip = request.host_ip or binding
        shown = "" if host_ip in ("", *_ANY.values()) else host_ip
        fixed = request.host_port and request.host_port_end <= request.host_port
        last: Conflict | None = None
        for number in [request.host_port] if fixed else self._candidates(request):
            ports = [
                PublishedPort(
                    protocol=request.protocol, host_ip=shown, family=family,
                    host_port=number, target_port=request.target_port, count=count,
                )
                for family in families
            ]  # fmt: skip
            try:
                for port in ports:
                    self._check_free(port)
            except Conflict as err:
                if fixed:
                    raise
                last = err
                continue
            if not request.host_port:
                self._next = number + 1
            return ports
        raise Unavailable(f"no host port is free for {request.target_port}/{request.protocol}") from last

    def _candidates(self, request: PortRequest) -> Iterator[int]:
        if request.host_port:
            yield from range(request.host_port, request.host_port_end + 1)
            return
        low, high = (int(word) for word in _EPHEMERAL.read_text().split())
        start = self._next if low <= self._next <= high else low
        yield from range(start, high + 1)
        yield from range(low, start)

    def _check_free(self, port: PublishedPort) -> None:
        text = f"{port.host_ip or _ANY[port.family]}:{port.host_port}"
        if port.count > 1:
            text += f"-{port.host_port + port.count - 1}"
        if taken := self._holder(port):
            raise Conflict(
                f"port {text}/{port.protocol} is already published by container {taken.container}",
                hint="Choose another host port, or stop that container",
                details={"port": port.host_port, "container": taken.container},
            )
        for number in range(port.host_port, port.host_port + port.count):
            if number > 65535:
                raise InvalidParameter(f"ports {text} go beyond 65535")
            _probe(port, number)


def _probe(port: PublishedPort, number: int) -> None:
    """Bind a port for a moment: fails when a process listens there, or when the host does not have the address."""
    kind, protocol = _SOCKETS[port.protocol]
    try:
        sock = socket.socket(socket.AF_INET if port.family == 4 else socket.AF_INET6, kind, protocol)
    except OSError:
        return  # the kernel does not have this protocol: then nobody on the host listens either
    with sock:
        if port.protocol == "tcp":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # old connections do not count
        if port.family == 6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            sock.bind((port.host_ip or _ANY[port.family], number))
        except OSError as err:
            if not port.host_ip or err.errno in (errno.EADDRINUSE, errno.EACCES):
                raise Conflict(
                    f"port {port.host_ip or _ANY[port.family]}:{number}/{port.protocol} is in use on the host",
                    why="a process of the host listens there",
                    details={"port": number},
                ) from err
            raise InvalidParameter(f"the host has no address {port.host_ip}", hint="Publish on another") from err


def _families(host_ip: str, targets: Mapping[int, str]) -> list[int]:
    """Return the families in which a port is published. Raises InvalidParameter if there is no address for it."""
    if not host_ip:
        families = sorted(targets)
    else:
        family = family_of(host_ip)
        check_address(host_ip, family)
        if family == 6 and pack(host_ip) == pack("::1"):
            raise InvalidParameter(
                "a port cannot be published at ::1",
                why="the kernel does not pass on connections to the IPv6 loopback address",
                hint="Publish it at 127.0.0.1, or at another address of the host",
            )
        families = [family] if family in targets else []
    if not families:
        kind = f"IPv{family_of(host_ip)} " if host_ip else ""
        raise InvalidParameter(f"a port cannot be published: the container has no {kind}address on this network")
    return families


def _runs(requests: Sequence[PortRequest]) -> Iterator[tuple[PortRequest, int]]:
    """Yield requests, with `count`: a long run of neighbouring fixed ports as one."""

    def key(request: PortRequest) -> tuple[str, str, int, int]:
        return request.protocol, request.host_ip, request.host_port - request.target_port, request.host_port

    fixed = sorted((r for r in requests if r.host_port and r.host_port_end <= r.host_port), key=key)
    yield from ((r, 1) for r in requests if not r.host_port or r.host_port_end > r.host_port)
    numbered = enumerate(dict.fromkeys(fixed))
    for _, group in itertools.groupby(numbered, lambda item: (*key(item[1])[:3], item[1].host_port - item[0])):
        run = [request for _, request in group]
        if len(run) >= RUN:
            yield run[0], len(run)
        else:
            yield from ((request, 1) for request in run)


def carve(
    ports: Iterable[PublishedPort], spans: Sequence[PortSpan]
) -> tuple[list[PublishedPort], list[tuple[PortSpan, PublishedPort]]]:
    """Cut what spans mean out of published ports; return what is left, and each piece with its span."""
    left = list(ports)
    taken: list[tuple[PortSpan, PublishedPort]] = []
    for span in spans:
        uncut, left = left, []
        for port in uncut:
            low = max(port.start, span.host_port)
            high = min(port.start + port.count, span.host_port + span.count)
            if not _is_meant(port, span) or low >= high:
                left.append(port)
                continue
            taken.append((span, _piece(port, low, high)))
            for start, end in ((port.start, low), (high, port.start + port.count)):
                if start < end:
                    left.append(_piece(port, start, end))
    return left, taken


def _is_meant(port: PublishedPort, span: PortSpan) -> bool:
    shown = port.host_ip or _ANY[port.family]
    shift = port.target_port - port.start
    return (
        port.protocol == span.protocol
        and span.host_ip in ("", shown)
        and (not span.target_port or span.target_port - span.host_port == shift)
    )


def _piece(port: PublishedPort, start: int, end: int) -> PublishedPort:
    """Return the part of a range that clients know as the ports from `start` until before `end`."""
    target = port.target_port + start - port.start
    host_port = start if port.host_port else 0
    return port.model_copy(update={"host_port": host_port, "target_port": target, "count": end - start})


def targets_of(endpoint: Attachment) -> dict[int, str]:
    """Return an endpoint's addresses by family, without prefix lengths."""
    return {family: address for family in (4, 6) if (address := endpoint.address(family))}


def _opened(request: PortRequest, count: int, family: int) -> PublishedPort:
    return PublishedPort(
        protocol=request.protocol, host_ip="", family=family, host_port=0, target_port=request.target_port, count=count
    )


def routed_families(plan: Plan) -> frozenset[int]:
    """Return the families whose ports a network's plan wants opened, not mapped."""
    return frozenset(
        family for resource in plan.resources if isinstance(resource, Segment) for family in resource.routed
    )


def port_resources(ports: Iterable[PublishedPort], targets: Mapping[int, str]) -> list[PortMap | OpenPort]:
    """Return the resources that publish ports."""
    return [_port_map(port, targets) if port.host_port else _open_port(port, targets) for port in ports]


def _port_map(port: PublishedPort, targets: Mapping[int, str]) -> PortMap:
    return PortMap(
        protocol=port.protocol,
        host_ip=port.host_ip or None,
        host_port=port.host_port,
        target=targets[port.family],
        target_port=port.target_port,
        count=port.count,
    )


def _open_port(port: PublishedPort, targets: Mapping[int, str]) -> OpenPort:
    return OpenPort(address=targets[port.family], protocol=port.protocol, port=port.target_port, count=port.count)
