"""The conformance suite of volume drivers: `pytest --volume-driver NAME`, or a subclass of `VolumeConformance`."""

from __future__ import annotations

from engine_sdk.testing.suite import Conformance, parametrize
from engine_sdk.testing.volume_checks import CHECKS


class VolumeConformance(Conformance):
    """All checks of a volume driver."""

    conformance_kind = "volume"

    test_pure = parametrize(CHECKS, "pure")
    test_kernel = parametrize(CHECKS, "kernel")


class TestVolumeDriver(VolumeConformance):
    """The driver that the command line names."""
