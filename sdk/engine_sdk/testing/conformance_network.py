"""The conformance suite of network drivers: `pytest --network-driver NAME`, or a subclass of `NetworkConformance`."""

from __future__ import annotations

from engine_sdk.testing.network_checks import CHECKS
from engine_sdk.testing.suite import Conformance, parametrize


class NetworkConformance(Conformance):
    """All checks of a network driver."""

    conformance_kind = "network"

    test_pure = parametrize(CHECKS, "pure")
    test_kernel = parametrize(CHECKS, "kernel")


class TestNetworkDriver(NetworkConformance):
    """The driver that the command line names."""
