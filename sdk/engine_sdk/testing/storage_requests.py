"""Requests for storage drivers: the one pure operation that they have."""

from __future__ import annotations

from engine_sdk import StorageCaps
from engine_sdk.testing.storage_subject import NOWHERE
from engine_sdk.testing.subject import Subject


def answers(subject: Subject) -> dict[str, str]:
    """Return what the driver says of its abilities, as text."""
    driver = subject.driver
    scheme = next((s for s in driver.schemes if s != "*"), subject.name)
    inner = StorageCaps(ranged=True, put_if=True, max_segment=255) if driver.wraps else None
    answer = subject.ask("store_caps", url=f"{scheme}://{NOWHERE}", options=subject.options(), inner=inner)
    if answer is not None and not isinstance(answer, StorageCaps):
        raise AssertionError(f"store_caps returned {type(answer).__name__}: {answer!r}; StorageCaps are expected")
    return {"store_caps": (answer or driver.caps).model_dump_json()}
