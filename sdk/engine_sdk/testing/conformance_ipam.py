"""The conformance suite of IPAM drivers: `pytest --ipam-driver NAME`, or a subclass of `IpamConformance`."""

from __future__ import annotations

from engine_sdk.testing.ipam_checks import CHECKS
from engine_sdk.testing.suite import Conformance, parametrize


class IpamConformance(Conformance):
    """All checks of an IPAM driver."""

    conformance_kind = "ipam"

    test_pure = parametrize(CHECKS, "pure")


class TestIpamDriver(IpamConformance):
    """The driver that the command line names."""
