"""The conformance suite of storage drivers: `pytest --storage-driver NAME`, or a subclass of `StorageConformance`.

    pytest --storage-driver s3 --driver-option url=s3://scratch/kit --driver-option endpoint-url=http://127.0.0.1:8333

Without `url` a directory is used, `NAME:///tmp/...`. The store is written to, below a prefix of the kit's own.
"""

from __future__ import annotations

from engine_sdk.testing.storage_checks import CHECKS
from engine_sdk.testing.suite import Conformance, parametrize


class StorageConformance(Conformance):
    """All checks of a storage driver. `driver_options` has `url`, and for read-only drivers `seed-url`, beside them."""

    conformance_kind = "storage"

    test_pure = parametrize(CHECKS, "pure")
    test_live = parametrize(CHECKS, "live")


class TestStorageDriver(StorageConformance):
    """The driver that the command line names."""
