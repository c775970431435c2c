"""`none`: the container has a network namespace with nothing but its loopback link."""

from __future__ import annotations

from engine_sdk import Endpoint, Network, NetworkCaps, NetworkDriver, NetworkOptions, Plan


class NoneDriver(NetworkDriver[NetworkOptions]):
    """Give the container no network but its own loopback link."""

    caps = NetworkCaps(addresses=False, alone=True, max_networks=1)

    def endpoint_plan(self, network: Network[NetworkOptions], endpoint: Endpoint) -> Plan:
        """Nothing: the engine brings up loopback in every namespace."""
        return Plan()
