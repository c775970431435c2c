"""Restart policies: whether and when a container that ended is started again."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime

from engine.container.record import Container
from engine.spec.errors import InvalidParameter

FIRST_DELAY, LONGEST_DELAY = 0.1, 60.0
"""Seconds; doubled at each end, as Docker does."""
STABLE_AFTER = 10.0
"""Seconds after which a run counts as a success: the next delay is the first one again."""
POLICIES = ("", "no", "always", "unless-stopped", "on-failure")


def check_policy(name: str, retries: int, *, auto_remove: bool) -> None:
    """Raise InvalidParameter for a policy that there is not, or that contradicts --rm."""
    if name not in POLICIES:
        raise InvalidParameter(f"invalid restart policy {name!r}", hint=f"Known: {', '.join(POLICIES[1:])}.")
    if retries and name != "on-failure":
        raise InvalidParameter("maximum retry count can only be used with on-failure")
    if retries < 0:
        raise InvalidParameter("maximum retry count must not be negative")
    if auto_remove and name not in ("", "no"):
        raise InvalidParameter("can't create 'AutoRemove' container with restart policy")


class RestartTimers:
    """The delays after which containers are started again."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._timers: dict[str, threading.Timer] = {}
        self._delays: dict[str, float] = {}
        self._closed = False

    def delay(self, container: Container) -> float | None:
        """Return the seconds after which a container that just ended is to be started again, or None."""
        if _seconds(container.state.started_at, container.state.finished_at) >= STABLE_AFTER:
            self._delays.pop(container.id, None)
        return self.delay_after_failure(container)

    def delay_after_failure(self, container: Container) -> float | None:
        """Return the same of a container that could not be started: however long it ran before does not count."""
        policy, state = container.host_config.restart_policy, container.state
        if state.stopped_by_hand or self._closed:
            return None
        if policy.name == "on-failure":
            if state.exit_code == 0 or 0 < policy.maximum_retry_count <= state.restart_count:
                return None
        elif policy.name not in ("always", "unless-stopped"):
            return None
        delay = self._delays.get(container.id, FIRST_DELAY)
        self._delays[container.id] = min(delay * 2, LONGEST_DELAY)
        return delay

    @staticmethod
    def at_boot(container: Container) -> bool:
        """Return whether a container that does not run is started with the daemon."""
        name, state = container.host_config.restart_policy.name, container.state
        if state.status != "exited":
            return False
        return name == "always" or (name == "unless-stopped" and not state.stopped_by_hand)

    def set(self, id: str, delay: float, start: Callable[[], None]) -> None:
        """Call `start` after a delay, unless it is cancelled before."""
        timer = threading.Timer(delay, start)
        timer.daemon = True
        with self._lock:
            if self._closed:
                return
            self._timers[id] = timer
        timer.start()

    def cancel(self, id: str) -> None:
        """Forget a container's timer."""
        with self._lock:
            timer = self._timers.pop(id, None)
        if timer is not None:
            timer.cancel()

    def close(self) -> None:
        """Cancel all timers, and take no more."""
        with self._lock:
            self._closed = True
            timers = list(self._timers.values())
            self._timers.clear()
        for timer in timers:
            timer.cancel()


def _seconds(begin: str, end: str) -> float:
    return (datetime.fromisoformat(end) - datetime.fromisoformat(begin)).total_seconds()
