"""The helper's side of the holder: there is always one. It goes on when the helper ends."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

from engine import lockfile
from engine.tree import holder
from engine.tree.fanotify import Group

log = logging.getLogger(__name__)


class Keeping:
    """Starts the holder of a group, and again when it ended. Its lock says whether it lives; no pid is trusted."""

    def __init__(self, lock: Path, group: Group) -> None:
        self._lock = lock
        self._group = group
        self._child: subprocess.Popen[bytes] | None = None

    def check(self) -> None:
        """Start a holder if none lives. Takes no time if one does."""
        if self._child is not None and self._child.poll() is None:
            return
        self._child = None
        try:
            fd = lockfile.take(self._lock)
        except BlockingIOError:  # one lives that an earlier helper started
            return
        try:
            self._start(fd)
        finally:
            os.close(fd)

    def _start(self, lock: int) -> None:
        arguments = [sys.executable, "-I", "-S", holder.__file__, str(self._lock)]
        self._child = subprocess.Popen(
            arguments, pass_fds=(self._group.fd, lock), start_new_session=True, cwd="/", env={},
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{self._child.pid}\n".encode(), 0)
        log.info("the holder of the volume's group is process %d", self._child.pid)
