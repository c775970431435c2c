"""The contract of IPAM drivers: which pool a network gets, and which address an endpoint.

The core keeps what is taken, in its database and under one lock; a driver only chooses. Both operations are pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Generic, Protocol

from pydantic import Field, model_validator
from typing_extensions import TypeVar

from engine.spec.driver import Driver, SpecVersion, hookspec
from engine.spec.options import Options
from engine.spec.values import Frozen, IpAddress, Mac, Prefix, family_of

IpamOptionsT = TypeVar("IpamOptionsT", bound=Options, default=Options)
"""The model of a driver's options."""


class IpamCaps(Frozen):
    """How an IPAM driver works. Declared, so that the core knows before it asks."""

    leases: bool = False
    """A DHCP server on the network's wire chooses addresses, for a time; the core speaks with it. The network has no
    pools, and the driver is asked for nothing. Its options may have `timeout` (seconds) and `hostname` (tell it)."""


class AddressPool(Frozen):
    """Where networks that name no subnet get theirs: the prefixes of length `size` in `base`, the lowest first.

    `size` is at least the length of `base`, and leaves room for a gateway and a container.
    """

    base: Prefix
    """What the subnets are parts of."""
    size: int
    """Length of their prefixes."""

    @model_validator(mode="after")
    def _fits(self) -> AddressPool:
        least, bits = int(self.base.partition("/")[2]), 32 if family_of(self.base) == 4 else 128
        if not least <= self.size <= bits - 2:
            raise ValueError(f"a subnet of {self.base} has a length from {least} to {bits - 2}, not {self.size}")
        return self


class PoolRequest(Frozen):
    """What a network asks for: all fields may be empty."""

    key: str = ""
    """Stable name of the network: a pool may be derived from it."""
    family: int = Field(default=4)
    """4 or 6."""
    subnet: Prefix | None = None
    """None: the driver chooses."""
    ip_range: Prefix | None = None
    """Part of the subnet from which addresses are chosen; fixed addresses may lie outside of it."""
    gateway: IpAddress | None = None
    """None: the driver chooses one if `wants_gateway`."""
    wants_gateway: bool = True
    """The host is the gateway: choose an address for it where none is given."""
    aux: Mapping[str, IpAddress] = Field(default_factory=dict)
    """Addresses that somebody else on the network has: never given out."""
    defaults: tuple[AddressPool, ...] = ()
    """Where the operator wants subnets to be taken from, in this order; none of a family: the driver chooses. (1.2)"""


class Pool(Frozen):
    """An address pool of a network."""

    subnet: Prefix
    """The prefix of the network."""
    ip_range: Prefix | None = None
    """Part of the subnet from which addresses are chosen; None for all of it."""
    gateway: IpAddress | None = None
    """None for a network without a gateway."""
    aux: Mapping[str, IpAddress] = Field(default_factory=dict)
    """Addresses that somebody else on the network has: never given out."""


class AddressRequest(Frozen):
    """Who asks for an address of a pool."""

    address: IpAddress | None = None
    """The address that must be given."""
    previous: IpAddress | None = None
    """The address that the endpoint's container had last, if it is free: better than another one."""
    mac: Mac | None = None
    """Hardware address of the endpoint's link."""
    key: str = ""
    """Stable name of the endpoint (network and container name): an address may be derived from it."""


class Taken(Protocol):
    """The addresses of a pool that are not free."""

    def __contains__(self, address: object) -> bool:
        """Return whether an address (text in normal form) is taken."""

    @property
    def last(self) -> str | None:
        """The address that was given out last, so that a driver may go on after it."""


class IpamDriver(Driver, Generic[IpamOptionsT]):
    """Base of IPAM drivers."""

    GROUP: ClassVar[str] = "engine.ipam"
    SPEC: ClassVar[SpecVersion] = SpecVersion(1, 2)
    OPERATIONS: ClassVar[tuple[str, ...]] = ("choose_pool", "choose_address")
    REQUIRED: ClassVar[tuple[str, ...]] = OPERATIONS
    needs: ClassVar[SpecVersion] = SpecVersion(1, 0)

    caps: ClassVar[IpamCaps] = IpamCaps()
    """How the driver works."""
    options_model: ClassVar[type[Options]] = Options

    @hookspec(firstresult=True)
    def choose_pool(self, request: PoolRequest, options: IpamOptionsT, avoid: tuple[Prefix, ...]) -> Pool | None:
        """Return the pool for a network. `avoid` are the prefixes of other networks and of the host's routes.

        Raise InvalidParameter for a request that is malformed, Conflict for a subnet that overlaps `avoid`, Unavailable
        when no pool is left.
        """
        return None

    @hookspec(firstresult=True)
    def choose_address(self, pool: Pool, request: AddressRequest, taken: Taken) -> str | None:
        """Return a free address of the pool.

        Raise InvalidParameter for an address outside of the subnet, Conflict for one that is taken, Unavailable when
        the pool is full.
        """
        return None
