"""A container's log as the API reads it."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from engine.runtime.logs import read_logs

_STREAMS = {"stdout": 1, "stderr": 2}


@dataclass(frozen=True)
class LogQuery:
    """What to read: times in nanoseconds since the epoch (0: no bound), `tail` None for all."""

    stdout: bool
    stderr: bool
    since_ns: int = 0
    until_ns: int = 0
    tail: int | None = None
    timestamps: bool = False
    follow: bool = False


class ContainerLogs:
    """An iterator of (1 stdout | 2 stderr, bytes) that another thread may close while it blocks."""

    def __init__(self, path: Path | None, query: LogQuery, *, tty: bool, ended: int | None) -> None:
        """`ended` is a pidfd of the monitor, ours from now on; None if the container does not run."""
        self.tty = tty
        self._path = path
        self._query = query
        self._stop, self._stopper = os.pipe2(os.O_CLOEXEC)
        self._resources = ExitStack()
        for fd in (self._stop, *(() if ended is None else (ended,))):
            self._resources.callback(os.close, fd)
        self._ended = ended
        self._closed = False
        self._begun = False
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        """Iterate; blocks for more while following. To be called once."""
        query = self._query
        with self._lock:
            if self._closed:
                return
            self._begun = True
        with self._resources:
            if self._path is None or not self._path.exists():
                return
            for entry in read_logs(
                self._path,
                stdout=query.stdout,
                stderr=query.stderr,
                since_ns=query.since_ns,
                until_ns=query.until_ns,
                tail=query.tail,
                follow=query.follow,
                ended=self._ended,
                stop=self._stop,
            ):
                if self._closed:
                    return
                yield _STREAMS[entry.stream], entry.rendered(timestamps=query.timestamps)

    def close(self) -> None:
        """End it, from any thread; once more is no error."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            os.close(self._stopper)
            if not self._begun:  # nobody will iterate: what the iteration would have closed
                self._resources.close()
