"""Calls of clients that may hang: they run on a thread that is left behind when the time is up."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


def within(seconds: float, call: Callable[[], T]) -> T:
    """Return what a call returns; TimeoutError if it does not end in time.

    A thread cannot be killed: the call goes on, and its result is dropped. It does not keep the process from ending.
    """
    results: list[Any] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            results.append(call())
        except Exception as err:  # noqa: BLE001  # raised in the caller's thread
            errors.append(err)

    thread = threading.Thread(target=run, name="store call", daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if thread.is_alive() or not results:
        raise TimeoutError(f"no answer within {seconds:g} s")
    result: T = results[0]
    return result
