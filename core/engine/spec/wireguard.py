"""The encrypted underlay: one WireGuard link of the host, through which all its encrypted networks go.

Only the core makes it: the module is not part of the drivers' contract. Protocol:
https://www.wireguard.com/papers/wireguard.pdf
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from engine.spec.links import PHASE_LINK, link_key
from engine.spec.resource import Key, Resource
from engine.spec.values import Frozen, IfName, InterfaceAddress, IpAddress

WireguardKey = Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]{43}=$")]
"""A Curve25519 key in base64, as wg(8) writes it."""


class WireguardPeer(Frozen):
    """Another host."""

    public_key: WireguardKey
    """By which it is known."""
    endpoint: IpAddress
    """Where it is on the underlay."""
    port: int = Field(ge=1, le=65535)
    """UDP port there."""
    address: IpAddress
    """Its address inside the tunnel, and the only one that it may send from."""


class Wireguard(Resource):
    """A WireGuard link: the kernel's, or where that has none a userspace process that lives as long as the link."""

    PHASE: ClassVar[int] = PHASE_LINK - 1
    FAMILY: ClassVar[str] = "wireguard"
    ID: ClassVar[tuple[str, ...]] = ("name",)
    MUTABLE: ClassVar[frozenset[str]] = frozenset({"address", "mtu", "port", "key_file", "public_key", "peers"})

    kind: Literal["wireguard"] = "wireguard"
    name: IfName
    """What it is called on the host."""
    address: InterfaceAddress
    """The host's own address inside the tunnel; its prefix is what the other hosts' addresses are in."""
    mtu: int = Field(ge=1280, le=65535)
    """Largest packet inside the tunnel in bytes."""
    port: int = Field(ge=1, le=65535)
    """UDP port at which the other hosts' packets come in."""
    key_file: str = Field(pattern="^/")
    """File that holds the private key: a plan is printed and stored, and must not hold it."""
    public_key: WireguardKey
    """The public half of it: when the key is changed, the plan changes."""
    peers: tuple[WireguardPeer, ...] = ()
    """All other hosts."""

    def provides(self) -> tuple[Key, ...]:
        """Also the link itself, whatever makes it."""
        return (self.key, link_key("host", self.name))
