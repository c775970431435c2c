"""The way out of containers whose networks lead nowhere by themselves: one more network, of this host alone.

A driver declares it (`NetworkCaps.gateway`). The network is made when it is first needed. A container is put on it
when none of its other networks leads out, and taken off again when that changes; no person asks for it, so that it is
not shown among the container's networks, and nobody is found by name there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from engine.network.model import NetworkRecord
from engine.network.planner import Planner
from engine.spec.network import LocalGateway

LOWEST_PRIORITY = -(1 << 31)
"""Of the default route: any other network that leads out goes before."""


class WayOut:
    """Decides which containers need it."""

    def __init__(self, planner: Planner, network: Callable[[str, LocalGateway, bool], NetworkRecord]) -> None:
        """`network` returns the gateway network for networks of a driver, with or without IPv6, and makes it if it is
        not there.
        """  # fmt: skip
        self._planner = planner
        self._network = network

    def of(self, records: Iterable[NetworkRecord]) -> NetworkRecord | None:
        """Return the gateway network that a container on these networks needs; None if it needs none."""
        chosen = [r for r in records if not r.is_gateway]
        if any(self._leads_out(record) for record in chosen):
            return None
        for record in chosen:
            gateway = self._planner.caps(record.driver).gateway
            if gateway is not None and not record.internal:
                return self._network(record.driver, gateway, record.ipv6)
        return None

    def publishes(self, record: NetworkRecord) -> bool:
        """Return whether ports of a container on this network can be published, there or on its way out."""
        caps = self._planner.caps(record.driver)
        return caps.ports or (caps.gateway is not None and not record.internal)

    def routers(self, record: NetworkRecord) -> list[str]:
        """Return the addresses that default routes of a network may go through."""
        if record.internal or self._planner.caps(record.driver).gateway is not None:
            return []
        return [pool.gateway for pool in record.pools if pool.gateway]

    def _leads_out(self, record: NetworkRecord) -> bool:
        caps = self._planner.caps(record.driver)
        leased = caps.addresses and not record.pools and not record.internal  # its gateway comes with the lease
        return leased or bool(self.routers(record))
