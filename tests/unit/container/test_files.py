from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from engine.container.files import _held


def test_a_lock_that_is_held_for_a_reader_is_left_whichever_thread_ends_it() -> None:
    lock = threading.RLock()

    @contextmanager
    def locked() -> Iterator[str]:
        with lock:
            yield "value"

    stack = ExitStack()
    assert _held(locked(), stack) == "value"
    assert not lock.acquire(blocking=False)
    closing = threading.Thread(target=stack.close)
    closing.start()
    closing.join(10)
    assert lock.acquire(blocking=False)


def test_failures_of_both_ends_arrive() -> None:
    @contextmanager
    def failing(at_start: bool) -> Iterator[None]:
        if at_start:
            raise ValueError("start")
        yield
        raise ValueError("end")

    with pytest.raises(ValueError, match="start"), ExitStack() as stack:
        _held(failing(True), stack)
    stack = ExitStack()
    _held(failing(False), stack)
    with pytest.raises(ValueError, match="end"):
        stack.close()
