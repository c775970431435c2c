"""Resources of the firewall: what may pass, with whose address, and published ports.

The rules are static, and these become elements of their sets and maps (docs/reference/firewall.md).
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from engine.spec.resource import Resource, Scope
from engine.spec.values import IfName, IpAddress, Prefix, bits_of

PHASE_POLICY, PHASE_EXPOSE = 5, 90
"""Before the links that policies are about, and after everything that published ports lead to (see `links`)."""


class Segment(Resource):
    """A host link through which containers reach the host and, unless `internal`, the outside.

    The firewall keeps segments apart: traffic from one to another is dropped. `internal` also drops what would leave
    the host or come from outside. Without `inter_container`, ports of the same segment do not reach each other.
    """

    PHASE: ClassVar[int] = PHASE_POLICY
    FAMILY: ClassVar[str] = "segment"
    ID: ClassVar[tuple[str, ...]] = ("link",)
    MUTABLE: ClassVar[frozenset[str]] = frozenset({"internal", "inter_container", "routed", "unprotected", "trusted"})

    kind: Literal["segment"] = "segment"
    link: IfName
    """Name of the host link."""
    internal: bool = False
    """Drop what would leave the host, or comes from outside."""
    inter_container: bool = True
    """Ports of the link may reach each other."""
    routed: tuple[Literal[4, 6], ...] = ()
    """Families whose addresses here are routed by the outside: publishing opens a container's port at its own address,
    with no port of the host, and pings are let in."""
    unprotected: tuple[Literal[4, 6], ...] = ()
    """Families whose addresses here are reached by whoever has a route to them, but other segments, at all ports."""
    trusted: tuple[IfName, ...] = ()
    """Host links from which containers' own addresses are reached, at all ports."""


class Masquerade(Resource):
    """Traffic from `subnet` that leaves through a link which is not a segment takes the address of that link."""

    PHASE: ClassVar[int] = PHASE_POLICY
    FAMILY: ClassVar[str] = "masquerade"
    ID: ClassVar[tuple[str, ...]] = ("subnet",)

    kind: Literal["masquerade"] = "masquerade"
    subnet: Prefix
    """Source addresses of the traffic."""


class SealedPort(Resource):
    """UDP traffic to a port passes the host by one link alone, in both directions; any other is dropped."""

    PHASE: ClassVar[int] = PHASE_POLICY
    FAMILY: ClassVar[str] = "sealed-port"
    ID: ClassVar[tuple[str, ...]] = ("port",)
    SCOPE: ClassVar[Scope] = "shared"

    kind: Literal["sealed-port"] = "sealed-port"
    port: int = Field(ge=1, le=65535)
    """The port that packets are sent to."""
    link: IfName
    """The host link by which they may come and go."""


class OpenPort(Resource):
    """Ports that are reached at an endpoint's own address. Only the core makes these; see `Segment.routed`."""

    PHASE: ClassVar[int] = PHASE_EXPOSE
    FAMILY: ClassVar[str] = "open-port"
    ID: ClassVar[tuple[str, ...]] = ("address", "protocol", "port", "count")

    kind: Literal["open-port"] = "open-port"
    address: IpAddress
    """Address of the endpoint."""
    protocol: Literal["tcp", "udp", "sctp"]
    """Protocol of the traffic."""
    port: int = Field(ge=1, le=65535)
    """The first port."""
    count: int = Field(default=1, ge=1, le=65535)
    """How many ports."""


class PortMap(Resource):
    """A published port. Only the core makes these, from an endpoint's ports; a driver that returns one is refused.

    `host_ip` None means every address of the host of the target's family. `count` ports from `host_port` on go to
    `count` ports from `target_port` on.
    """

    PHASE: ClassVar[int] = PHASE_EXPOSE
    FAMILY: ClassVar[str] = "port"
    ID: ClassVar[tuple[str, ...]] = ("protocol", "host_ip", "host_port", "count", "target_family")
    MUTABLE: ClassVar[frozenset[str]] = frozenset({"target", "target_port"})

    kind: Literal["port"] = "port"
    protocol: Literal["tcp", "udp", "sctp"]
    """Protocol of the traffic."""
    host_ip: IpAddress | None = None
    """Address of the host; see above."""
    host_port: int = Field(ge=1, le=65535)
    """The first port on the host."""
    target: IpAddress
    """Address of the endpoint."""
    target_port: int = Field(ge=1, le=65535)
    """The first port of the endpoint."""
    count: int = Field(default=1, ge=1, le=65535)
    """How many ports."""

    @property
    def target_family(self) -> int:
        """4 or 6."""
        return 4 if bits_of(self.target) == 32 else 6
