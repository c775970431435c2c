"""`dhcp`: addresses come from a server on the network's wire, as for any machine there.

The client is the engine's: it works for every network driver whose endpoints have a wire of their own to speak on.
"""

from __future__ import annotations

from engine_sdk import AddressRequest, Field, IpamCaps, IpamDriver, Options, Pool, PoolRequest, Taken, Unsupported


class DhcpOptions(Options):
    """How containers ask."""

    timeout: float = Field(default=10.0, ge=1, le=300, description="Seconds after which a start without answer fails")
    hostname: bool = Field(default=True, description="Tell the server what the container calls itself")


class DhcpDriver(IpamDriver[DhcpOptions]):
    """Let containers ask a DHCP server on the wire (IPv4)."""

    caps = IpamCaps(leases=True)

    def choose_pool(self, request: PoolRequest, options: DhcpOptions, avoid: tuple[str, ...]) -> Pool:
        """Refuse: which addresses there are, the server alone knows."""
        raise Unsupported("a network with DHCP has no subnet of its own", hint="Leave out --subnet and --gateway")

    def choose_address(self, pool: Pool, request: AddressRequest, taken: Taken) -> str:
        """Refuse: the server chooses."""
        raise Unsupported("addresses are chosen by the DHCP server")
