"""A DHCP lease, as a value: what the client of `engine.reconcile.dhcp` got, and the database keeps."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Lease:
    """An address for a time."""

    address: str
    """With prefix length."""
    server: str
    """Address of the server."""
    server_mac: str
    """Hardware address of the server, or of the relay that leads to it."""
    seconds: int
    """For how long."""
    renew: int
    """After so many seconds the server is asked for more time (T1)."""
    rebind: int
    """After so many seconds any server is asked (T2)."""
    obtained: float
    """When (seconds since the epoch): a lease outlives a process, and perhaps the machine's being asleep."""
    routers: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()
    domain: str = ""
