"""What ends the processes of a running container, or tells them something: stop, kill."""

from __future__ import annotations

import signal

from engine.container.creation import signal_number
from engine.container.freezer import Freezer
from engine.container.lifecycle import Lifecycle
from engine.container.record import Container
from engine.container.store import ContainerStore
from engine.events import EventBus
from engine.runtime.conmon import Conmon
from engine.spec.errors import Conflict, DeadlineExceeded, EngineError

STOP_TIMEOUT = 10
"""Seconds between the stop signal and SIGKILL, as Docker's."""
KILL_SECONDS = 20.0
"""How long the end of a killed container is waited for."""
_ENDING = frozenset({signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGKILL})
"""Signals that end a process which is not prepared: sent before there is one, they end its start."""


class Signals:
    """Sends signals to containers, and waits for the end that they are to bring."""

    def __init__(
        self, store: ContainerStore, lifecycle: Lifecycle, freezer: Freezer, conmon: Conmon, events: EventBus
    ) -> None:
        self._store = store
        self._lifecycle = lifecycle
        self._freezer = freezer
        self._conmon = conmon
        self._events = events

    def stop(self, container: Container, *, timeout: int | None = None, signal: str = "") -> bool:
        """Send `signal` (empty: its own), and SIGKILL after `timeout` seconds; False if it does not run."""
        self._lifecycle.give_up_start(container)
        with self._store.lock(container):
            self._lifecycle.give_up_restart(container)
            if not container.state.running:
                return False
            self._freezer.thaw(container)
            container.state.stopped_by_hand = True
            self._store.save(container)
            ended = self._lifecycle.when_ended(container)
            number = signal_number(signal or container.config.stop_signal)
            self._signal(container, number)
        if timeout is None:
            timeout = STOP_TIMEOUT if container.config.stop_timeout is None else container.config.stop_timeout
        try:
            ended.result(None if timeout < 0 else timeout)
        except TimeoutError:
            self.kill_and_wait(container)
        with self._store.lock(container):  # until the end has been handled
            self._emit(container, "stop")
        return True

    def kill(self, container: Container, signal: str = "") -> None:
        """Send a signal; SIGKILL if none is given."""
        number = signal_number(signal or "KILL")
        if number in _ENDING and self._lifecycle.give_up_start(container):
            return
        with self._store.lock(container):
            if not container.state.running:
                raise Conflict(f"Cannot kill container: {container.name}: container {container.id} is not running")
            if number in (signal_number("KILL"), signal_number(container.config.stop_signal)):
                container.state.stopped_by_hand = True
                self._store.save(container)
            if number == signal_number("KILL"):
                self._freezer.thaw(container)
            self._signal(container, number)
        self._events.emit("container", "kill", container.id, {**container.attributes(), "signal": str(number)})

    def kill_and_wait(self, container: Container) -> None:
        """Kill a container if it runs, and wait for its end. Raises DeadlineExceeded."""
        with self._store.lock(container):
            self._lifecycle.give_up_restart(container)
            if not container.state.running:
                return
            self._freezer.thaw(container)
            container.state.stopped_by_hand = True
            ended = self._lifecycle.when_ended(container)
            self._signal(container, signal.SIGKILL)
        try:
            ended.result(KILL_SECONDS)
        except TimeoutError as err:
            raise DeadlineExceeded(
                f"container {container.name} did not end", why=f"SIGKILL was sent {KILL_SECONDS:.0f} s ago"
            ) from err

    def _signal(self, container: Container, number: int) -> None:
        try:
            self._conmon.runtime.kill(container.id, number)
        except EngineError:
            if container.state.running and self._conmon.pidfd(self._conmon.bundle(container.id)) is not None:
                raise

    def _emit(self, container: Container, action: str) -> None:
        self._events.emit("container", action, container.id, container.attributes())
