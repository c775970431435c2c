"""Those who wait for a container to end or to be removed."""

from __future__ import annotations

import threading
from collections import defaultdict
from concurrent.futures import Future
from typing import Literal, NamedTuple

from engine.container.record import Container
from engine.spec.errors import InvalidParameter

Condition = Literal["not-running", "next-exit", "removed"]


class ExitResult(NamedTuple):
    """What waiting ends with: the exit code, and why waiting failed (empty: it did not)."""

    code: int
    error: str = ""


class Waiters:
    """Futures of ends and removals. The caller holds the container's lock where it asks about its state."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._exits: defaultdict[str, list[Future[ExitResult]]] = defaultdict(list)
        self._removals: defaultdict[str, list[Future[ExitResult]]] = defaultdict(list)

    def wait(self, container: Container, condition: str) -> Future[ExitResult]:
        """Return a future of the condition. Raises InvalidParameter for one that there is not."""
        future: Future[ExitResult] = Future()
        if condition == "removed":
            waiting = self._removals
        elif condition == "next-exit":
            waiting = self._exits
        elif condition in ("", "not-running"):
            if not container.state.running and container.state.status != "restarting":
                future.set_result(ExitResult(container.state.exit_code))
                return future
            waiting = self._exits
        else:
            raise InvalidParameter(f"invalid condition: {condition!r}")
        with self._lock:
            waiting[container.id].append(future)
        return future

    def ended(self, id: str, result: ExitResult) -> None:
        """Tell that a container ended."""
        self._finish(self._exits, id, result)

    def removed(self, id: str, result: ExitResult) -> None:
        """Tell that a container was removed."""
        self._finish(self._exits, id, result)
        self._finish(self._removals, id, result)

    def _finish(self, waiting: defaultdict[str, list[Future[ExitResult]]], id: str, result: ExitResult) -> None:
        with self._lock:
            futures = waiting.pop(id, [])
        for future in futures:
            if future.set_running_or_notify_cancel():
                future.set_result(result)
