"""Clients' ways to the streams of a container, also of one that has not started yet."""

from __future__ import annotations

import socket
import threading
from collections import defaultdict
from concurrent.futures import Future
from dataclasses import dataclass

from engine.container.record import Container
from engine.runtime.conmon import Conmon, attach
from engine.spec.errors import EngineError


@dataclass(frozen=True)
class Attachment:
    """A way to a container's streams: see `engine.api.services.containers.Attachment`, whose shape this is."""

    tty: bool
    open_stdin: bool
    connection: Future[socket.socket]


class Attachments:
    """The attachments that wait for their container to start."""

    def __init__(self, conmon: Conmon) -> None:
        self._conmon = conmon
        self._lock = threading.Lock()
        self._waiting: defaultdict[str, list[Future[socket.socket]]] = defaultdict(list)

    def ask(self, container: Container) -> Attachment:
        """Attach: at once if the container runs, else when it starts. The caller holds the container's lock."""
        future: Future[socket.socket] = Future()
        if container.state.running:
            future.set_result(attach(self._conmon.bundle(container.id)))
        else:
            with self._lock:
                self._waiting[container.id].append(future)
        return Attachment(container.config.tty, container.config.open_stdin, future)

    def connect(self, container: Container) -> None:
        """Connect those who wait: the monitor is there, and the process does not run yet."""
        for future in self._take(container.id):
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(attach(self._conmon.bundle(container.id)))
                except EngineError as err:
                    future.set_exception(err)

    def fail(self, id: str, err: EngineError) -> None:
        """Tell those who wait that the container will not start."""
        for future in self._take(id):
            if future.set_running_or_notify_cancel():
                future.set_exception(err)

    def _take(self, id: str) -> list[Future[socket.socket]]:
        with self._lock:
            return self._waiting.pop(id, [])
