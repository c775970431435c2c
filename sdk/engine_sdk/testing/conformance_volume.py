"""The conformance suite of volume drivers: run it by `pytest --volume-driver NAME`, or subclass `VolumeConformance`."""

from __future__ import annotations

from engine_sdk.testing.volume_checks import CHECKS
from engine_sdk.testing.suite import Conformance, parametrize


class VolumeConformance(Conformance):
    """All checks of a volume driver."""

    conformance_kind = "volume"

    test_pure = parametrize(CHECKS, "pure")
    test_kernel = parametrize(CHECKS, "kernel")


class TestVolumeDriver(VolumeConformance):
    """The driver that the command line names."""
