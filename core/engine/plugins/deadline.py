"""Calls that must end in time: other people's code runs on a worker thread, and a hung one is left behind.

A thread of Python cannot be killed. So the caller goes on when the time is up, and the worker ends itself if its call
ever returns. Handing a call to an idle worker and back costs about 20 microseconds.
"""

from __future__ import annotations

import os
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


class Hung(Exception):
    """A call did not end in its time. `stack` is where it was then: (file, line), the innermost first."""

    def __init__(self, seconds: float, stack: list[tuple[str, int]]) -> None:
        super().__init__(f"no answer within {seconds:g} s")
        self.stack = stack


class _Worker:
    """One thread that runs one call at a time. Two locks pass the turn: cheaper than a condition or a future."""

    def __init__(self) -> None:
        self.call: Callable[[], Any] | None = None
        self.result: Any = None
        self.error: Exception | None = None
        self.abandoned = False
        self.wake, self.done = threading.Lock(), threading.Lock()
        self.wake.acquire()
        self.done.acquire()
        self.thread = threading.Thread(target=self._serve, name="driver call", daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        while True:
            self.wake.acquire()
            if self.abandoned or self.call is None:
                return
            try:
                self.result = self.call()
            except Exception as err:  # noqa: BLE001 - handed to the caller
                self.error = err
            except BaseException as err:  # noqa: BLE001 - SystemExit and the like must not end the engine
                self.error = RuntimeError(f"{type(err).__name__}: {err}")
                self.error.__cause__ = err
            self.done.release()


class Workers:
    """A pool of threads that grows with the number of calls at once. Safe to use from any thread."""

    def __init__(self) -> None:
        self._idle: list[_Worker] = []
        os.register_at_fork(after_in_child=self._idle.clear)  # threads do not exist in a forked child

    def run(self, call: Callable[[], T], seconds: float) -> T:
        """Run `call` and return what it returns. Raises what it raises, and Hung when the time is up."""
        try:
            worker = self._idle.pop()
        except IndexError:
            worker = _Worker()
        worker.call = call
        worker.wake.release()
        ended = False
        try:
            ended = worker.done.acquire(timeout=seconds)
        finally:
            if not ended:
                worker.abandoned = True
                worker.wake.release()  # it ends as soon as its call does
        if not ended:
            raise Hung(seconds, _stack(worker.thread))
        result, error = worker.result, worker.error
        worker.call = worker.result = worker.error = None
        self._idle.append(worker)
        if error is not None:
            raise error
        return result  # type: ignore[no-any-return]


def _stack(thread: threading.Thread) -> list[tuple[str, int]]:
    frame = sys._current_frames().get(thread.ident or 0)
    return [] if frame is None else [(f.f_code.co_filename, line) for f, line in traceback.walk_stack(frame)]
