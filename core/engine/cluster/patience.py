"""Waiting for a store that is away, where that was asked for (`--cluster-wait`)."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from engine.spec.errors import Unavailable

T = TypeVar("T")
PAUSE_SECONDS = 0.2


def patiently(seconds: float, function: Callable[[], T]) -> T:
    """Return what a function returns; while it raises Unavailable it is tried again, for so long. 0: once."""
    end = time.monotonic() + seconds
    while True:
        try:
            return function()
        except Unavailable:
            if time.monotonic() + PAUSE_SECONDS > end:
                raise
            time.sleep(PAUSE_SECONDS)
