"""Learns that containers end: one thread that waits on a pidfd of each container's monitor process."""

from __future__ import annotations

import logging
import os
import selectors
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)


class ExitMonitor:
    """Calls back, on a thread of its own each time, when a watched process has ended."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._wake, self._waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._selector.register(self._wake, selectors.EVENT_READ)
        self._lock = threading.Lock()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="exit-monitor", daemon=True)
        self._thread.start()

    def watch(self, pidfd: int, ended: Callable[[], None]) -> None:
        """Call `ended` once when the process of `pidfd` has ended; the descriptor is ours from now on."""
        with self._lock:
            self._selector.register(pidfd, selectors.EVENT_READ, ended)
        os.write(self._waker, b".")

    def close(self) -> None:
        """Stop watching. The processes go on."""
        self._closing = True
        os.write(self._waker, b".")
        self._thread.join(5)
        with self._lock:
            for key in list(self._selector.get_map().values()):
                os.close(key.fd)
            self._selector.close()
            os.close(self._waker)

    def _run(self) -> None:
        while not self._closing:
            for key, _ in self._selector.select():
                if key.fd == self._wake:
                    os.read(self._wake, 4096)
                    continue
                with self._lock:
                    self._selector.unregister(key.fd)
                os.close(key.fd)
                threading.Thread(target=self._call, args=(key.data,), name="container-exit", daemon=True).start()

    @staticmethod
    def _call(ended: Callable[[], None]) -> None:
        try:
            ended()
        except Exception:
            log.exception("handling the end of a container failed")
