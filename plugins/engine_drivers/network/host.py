"""`host`: the container uses the host's own network."""

from __future__ import annotations

from engine_sdk import Endpoint, Network, NetworkCaps, NetworkDriver, NetworkOptions, Plan


class HostDriver(NetworkDriver[NetworkOptions]):
    """Let the container use the host's network, without a namespace of its own."""

    caps = NetworkCaps(sandbox="host", addresses=False, alone=True, max_networks=1)

    def endpoint_plan(self, network: Network[NetworkOptions], endpoint: Endpoint) -> Plan:
        """Nothing: all is there."""
        return Plan()
