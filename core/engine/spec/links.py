"""Resources of a network: links, and what hangs on them.

`None` in a field means "do not care": the reconciler compares and corrects only fields that a plan sets.
Kernel documents: Documentation/networking/{bridge,vxlan,ipvlan,ip-sysctl}.rst, rtnetlink(7), uapi/linux/if_link.h.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from engine.spec.resource import Key, Ns, Resource, Scope
from engine.spec.values import IfName, InterfaceAddress, IpAddress, Mac, Prefix, bits_of

PHASE_EXTERN, PHASE_LINK, PHASE_SYSCTL, PHASE_PORT = 0, 10, 15, 20
PHASE_ADDRESS, PHASE_ROUTE, PHASE_NEIGHBOUR, PHASE_QUEUE = 30, 50, 60, 70

FLOOD_MAC = "00:00:00:00:00:00"
"""In a forwarding table of a tunnel: frames that no other entry takes."""


def link_key(ns: Ns, name: str) -> Key:
    """Return the key of the link of that name, whatever its kind."""
    return ("link", ns, name)


class Link(Resource):
    """A network interface. The base of all kinds of links."""

    PHASE: ClassVar[int] = PHASE_LINK
    FAMILY: ClassVar[str] = "link"
    ID: ClassVar[tuple[str, ...]] = ("name",)
    MUTABLE: ClassVar[frozenset[str]] = frozenset({"mtu", "mac", "master", "up"})

    name: IfName
    """What it is called in its namespace."""
    ns: Ns = "host"
    """Where it lives."""
    mac: Mac | None = None
    """Hardware address."""
    mtu: int | None = Field(default=None, ge=68, le=65535)
    """Largest packet in bytes."""
    master: IfName | None = None
    """Bridge that the link is a port of, in the link's own namespace."""
    up: bool = True
    """Administratively up (IFF_UP); carrier is not part of a plan."""

    def requires(self) -> Iterable[Key]:
        """A port needs its bridge."""
        return (link_key(self.ns, self.master),) if self.master else ()


class Extern(Resource):
    """A host link that must exist and is not ours: never made, changed or removed. While absent, the plan waits."""

    PHASE: ClassVar[int] = PHASE_EXTERN
    FAMILY: ClassVar[str] = "link"
    ID: ClassVar[tuple[str, ...]] = ("name",)
    SCOPE: ClassVar[Scope] = "shared"

    kind: Literal["extern"] = "extern"
    name: IfName
    """What it is called on the host."""


class Bridge(Link):
    """A software switch. Set its MAC: a bridge without one takes its ports', and neighbours' caches go stale."""

    kind: Literal["bridge"] = "bridge"


class Veth(Link):
    """A pair of links: `name` on the host, `peer` in the sandbox (or on the host). Deleting one end deletes both."""

    MUTABLE: ClassVar[frozenset[str]] = Link.MUTABLE | {"peer_mac", "peer_mtu", "peer_up"}

    kind: Literal["veth"] = "veth"
    peer: IfName
    """Name of the other end."""
    peer_ns: Ns = "sandbox"
    """Where the other end lives."""
    peer_mac: Mac | None = None
    """Hardware address of the other end."""
    peer_mtu: int | None = Field(default=None, ge=68, le=65535)
    """Largest packet of the other end in bytes."""
    peer_up: bool = True
    """Whether the other end is administratively up."""

    def provides(self) -> tuple[Key, ...]:
        """Both ends."""
        return (self.key, link_key(self.peer_ns, self.peer))


class Macvlan(Link):
    """A link with a MAC address of its own on a host link (`parent`)."""

    kind: Literal["macvlan"] = "macvlan"
    parent: IfName
    """Host link that it is on."""
    mode: Literal["bridge", "private", "vepa", "passthru"] = "bridge"
    """What children of one parent may send each other; `passthru` takes the parent for itself."""

    def requires(self) -> Iterable[Key]:
        """A child needs its parent, which is always on the host."""
        return (link_key("host", self.parent), *super().requires())

    def provides(self) -> tuple[Key, ...]:
        """The link, and with `passthru` the whole parent: the kernel lets it have one such child."""
        return (self.key, ("passthru", "host", self.parent)) if self.mode == "passthru" else (self.key,)


class Ipvlan(Link):
    """A link that shares the MAC address of a host link (`parent`) and has addresses of its own."""

    kind: Literal["ipvlan"] = "ipvlan"
    parent: IfName
    """Host link that it is on."""
    mode: Literal["l2", "l3", "l3s"] = "l2"
    """Whether the parent switches (l2) or routes (l3; l3s with the host's firewall)."""
    isolation: Literal["bridge", "private", "vepa"] = "bridge"
    """What children of one parent may send each other."""

    def requires(self) -> Iterable[Key]:
        """A child needs its parent, which is always on the host."""
        return (link_key("host", self.parent), *super().requires())


class Vlan(Link):
    """An 802.1Q sub-interface of a host link."""

    SCOPE: ClassVar[Scope] = "shared"

    kind: Literal["vlan"] = "vlan"
    parent: IfName
    """Host link that it is on."""
    vid: int = Field(ge=1, le=4094)
    """VLAN identifier of its frames."""

    def requires(self) -> Iterable[Key]:
        """A sub-interface needs its parent, which is always on the host."""
        return (link_key("host", self.parent), *super().requires())


class Vxlan(Link):
    """A tunnel end (RFC 7348). `local` is the underlay address; learning is off: entries come from plans."""

    MUTABLE: ClassVar[frozenset[str]] = Link.MUTABLE | {"local"}

    kind: Literal["vxlan"] = "vxlan"
    vni: int = Field(ge=1, lt=1 << 24)
    """Identifier of the network that is tunnelled."""
    local: IpAddress | None = None
    """Address of this end on the underlay."""
    port: int = Field(default=4789, ge=1, le=65535)
    """UDP port of both ends."""

    def provides(self) -> tuple[Key, ...]:
        """The link, and the identifier: the kernel takes each only once for a UDP port."""
        return (self.key, ("vni", "host", str(self.port), str(self.vni)))


class Dummy(Link):
    """A link that drops what is sent; carries addresses."""

    kind: Literal["dummy"] = "dummy"


class Ifb(Link):
    """An intermediate functional block: received traffic is redirected to it to be shaped."""

    kind: Literal["ifb"] = "ifb"


class _OnLink(Resource):
    """Base of what hangs on a link: it needs the link, and goes with it."""

    ANCHORED: ClassVar[bool] = True

    ns: Ns = "sandbox"
    """Where the link lives."""
    link: IfName
    """Name of the link."""

    def requires(self) -> Iterable[Key]:
        """What hangs on a link needs the link."""
        return (link_key(self.ns, self.link),)


class BridgePort(_OnLink):
    """Settings of a port of a bridge (uapi/linux/if_link.h, IFLA_BRPORT_*)."""

    PHASE: ClassVar[int] = PHASE_PORT
    FAMILY: ClassVar[str] = "bridge-port"
    ID: ClassVar[tuple[str, ...]] = ("link",)
    MUTABLE: ClassVar[frozenset[str]] = frozenset(
        {"hairpin", "isolated", "learning", "neigh_suppress", "flood", "multicast_flood", "broadcast_flood"}
    )

    kind: Literal["bridge-port"] = "bridge-port"
    ns: Ns = "host"
    """Where the link lives."""
    hairpin: bool | None = None
    """Frames may leave by the port that they came in."""
    isolated: bool | None = None
    """Frames do not pass to other isolated ports."""
    learning: bool | None = None
    """Source addresses of frames are remembered."""
    neigh_suppress: bool | None = None
    """Requests for neighbours that are known are answered and not flooded."""
    flood: bool | None = None
    """Frames for addresses that are in no forwarding table are sent by the port."""
    multicast_flood: bool | None = None
    """Frames for groups are sent by the port."""
    broadcast_flood: bool | None = None
    """Frames for all are sent by the port."""


class Address(_OnLink):
    """An address of a link."""

    PHASE: ClassVar[int] = PHASE_ADDRESS
    FAMILY: ClassVar[str] = "address"
    ID: ClassVar[tuple[str, ...]] = ("link", "address")

    kind: Literal["address"] = "address"
    address: InterfaceAddress
    """The address, with the length of its prefix."""
    nodad: bool = True
    """IPv6: usable at once, without duplicate address detection (RFC 4862); the core probes where a wire is shared."""


class Route(Resource):
    """A route. Without `via` the destination is on the link. Default routes are `0.0.0.0/0` and `::/0`."""

    PHASE: ClassVar[int] = PHASE_ROUTE
    FAMILY: ClassVar[str] = "route"
    ID: ClassVar[tuple[str, ...]] = ("destination", "metric")
    MUTABLE: ClassVar[frozenset[str]] = frozenset({"via", "link"})
    ANCHORED: ClassVar[bool] = True

    kind: Literal["route"] = "route"
    ns: Ns = "sandbox"
    """Which namespace's routing table it is in."""
    destination: Prefix
    """What is reached by it."""
    via: IpAddress | None = None
    """Next hop."""
    link: IfName | None = None
    """Link by which packets leave."""
    metric: int = Field(default=0, ge=0, lt=1 << 32)
    """Lower wins. 0 means the kernel's default (which is 1024 for IPv6)."""
    source: IpAddress | None = None
    """Preferred source address."""
    onlink: bool = False
    """`via` is reachable on the link although no prefix says so."""

    @model_validator(mode="after")
    def _has_target(self) -> Route:
        if self.via is None and self.link is None:
            raise ValueError("a route needs `via`, `link` or both")
        return self

    def requires(self) -> Iterable[Key]:
        """A route needs its link."""
        return (link_key(self.ns, self.link),) if self.link else ()


def default_route(link: str, via: str, *, ns: Ns = "sandbox") -> Route:
    """Return the default route through a gateway, of its family."""
    return Route(ns=ns, link=link, via=via, destination="::/0" if bits_of(via) == 128 else "0.0.0.0/0")


class Neighbour(_OnLink):
    """A permanent entry of the neighbour table: `address` is at `mac`."""

    PHASE: ClassVar[int] = PHASE_NEIGHBOUR
    FAMILY: ClassVar[str] = "neighbour"
    ID: ClassVar[tuple[str, ...]] = ("link", "address")
    MUTABLE: ClassVar[frozenset[str]] = frozenset({"mac"})

    kind: Literal["neighbour"] = "neighbour"
    ns: Ns = "host"
    """Where the link lives."""
    address: IpAddress
    """Address of the neighbour."""
    mac: Mac
    """Hardware address of the neighbour."""


class ForwardingEntry(_OnLink):
    """An entry of a forwarding table: frames for `mac` go to the tunnel end `dst` ("self") or the port ("master")."""

    PHASE: ClassVar[int] = PHASE_NEIGHBOUR
    FAMILY: ClassVar[str] = "fdb"
    ID: ClassVar[tuple[str, ...]] = ("link", "mac", "table")
    MUTABLE: ClassVar[frozenset[str]] = frozenset({"dst"})

    kind: Literal["fdb"] = "fdb"
    ns: Ns = "host"
    """Where the link lives."""
    mac: Mac
    """Hardware address that frames are sent to."""
    dst: IpAddress | None = None
    """Tunnel end; None on a port of a bridge."""
    table: Literal["self", "master"] = "self"
    """The link's own table, or its bridge's."""

    @property
    def key(self) -> Key:
        """A flood entry (all zeros) has one copy for each tunnel end; any other MAC address is at one place."""
        return (*super().key, self.dst or "") if self.mac == FLOOD_MAC else super().key


class Sysctl(Resource):
    """A kernel parameter below `net.`; `link` fills the place of `{link}` in the name, so that the link is known.

    One without `link` is set and never restored (nobody knows who else relies on it).
    """

    PHASE: ClassVar[int] = PHASE_SYSCTL
    FAMILY: ClassVar[str] = "sysctl"
    ID: ClassVar[tuple[str, ...]] = ("name", "link")
    MUTABLE: ClassVar[frozenset[str]] = frozenset({"value"})
    SCOPE: ClassVar[Scope] = "set-only"
    ANCHORED: ClassVar[bool] = True

    kind: Literal["sysctl"] = "sysctl"
    ns: Ns = "sandbox"
    """Whose parameter it is."""
    name: str = Field(pattern=r"^net(\.[a-zA-Z0-9_{}-]+)+$")
    """Dotted, for example `net.ipv4.conf.{link}.arp_notify`."""
    value: str = Field(max_length=256)
    """As the kernel writes it when it is read."""
    link: IfName | None = None
    """Fills the place of `{link}` in the name."""

    @field_validator("value", mode="before")
    @classmethod
    def _text(cls, value: object) -> object:
        return str(int(value)) if isinstance(value, int) else value

    @model_validator(mode="after")
    def _link_is_used(self) -> Sysctl:
        if ("{link}" in self.name) != (self.link is not None):
            raise ValueError("`{link}` in the name and the field `link` go together")
        return self

    def requires(self) -> Iterable[Key]:
        """A parameter of a link needs the link."""
        return (link_key(self.ns, self.link),) if self.link else ()


class Shape(_OnLink):
    """A token bucket on what leaves a link (tc-tbf(8)): `rate` in bits a second, `burst` in bytes."""

    PHASE: ClassVar[int] = PHASE_QUEUE
    FAMILY: ClassVar[str] = "qdisc"
    ID: ClassVar[tuple[str, ...]] = ("link",)
    MUTABLE: ClassVar[frozenset[str]] = frozenset({"rate", "burst"})

    kind: Literal["shape"] = "shape"
    rate: int = Field(ge=8_000)
    """Bits a second."""
    burst: int = Field(default=65_536, ge=1_600)
    """Bytes that may be sent at once."""


class Redirect(_OnLink):
    """What comes in by a link goes out by another one instead, an `Ifb`, to be shaped there (tc-mirred(8))."""

    PHASE: ClassVar[int] = PHASE_QUEUE
    FAMILY: ClassVar[str] = "redirect"
    ID: ClassVar[tuple[str, ...]] = ("link",)

    kind: Literal["redirect"] = "redirect"
    to: IfName
    """Name of the other link, in the same namespace."""

    def requires(self) -> Iterable[Key]:
        """Both links."""
        return (link_key(self.ns, self.link), link_key(self.ns, self.to))
