"""Network namespaces of tests: run a function in another one, without touching the caller's."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def call_in(netns: Path, function: Callable[[], T]) -> T:
    """Call a function in a thread of its own that has entered a network namespace; what it starts is there, too."""
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            with netns.open("rb") as namespace:
                if _libc.setns(namespace.fileno(), CLONE_NEWNET) != 0:  # os.setns is of Python 3.12
                    raise OSError(ctypes.get_errno(), f"setns {netns}")
            results.append(function())
        except BaseException as err:  # noqa: BLE001 - raised again by the caller
            errors.append(err)

    thread = threading.Thread(target=run, name="in-netns")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
