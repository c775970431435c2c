"""The daemon, made to kill itself at its k-th step once it is armed: `killing_daemon.py FILE OPTION...`.

It is armed when FILE exists, whose text is k. What changes the host or the database is a step; it dies before the step
begins, that is after the one before has ended. Then FILE is removed, and a new daemon begins: a fork of this process,
which has imported everything already.
"""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import engine.daemon  # noqa: F401 - once for all forks
from engine.cli.app import main
from engine.reconcile import netns
from engine.reconcile.execution import Execution
from engine.reconcile.nft import NftApplier
from engine.runtime.bundle import Bundle
from engine.runtime.conmon import Launch
from engine.runtime.oci import OciRuntime
from engine.state import State

PR_SET_PDEATHSIG = 1  # linux/prctl.h
_libc = ctypes.CDLL(None)
STEPS: tuple[tuple[Any, str], ...] = (
    (State, "put"), (State, "delete"), (State, "claim"), (State, "release"), (Execution, "make"),
    (Execution, "remove"), (NftApplier, "exchange"), (Bundle, "create"), (Bundle, "remove"), (Launch, "signal"),
    (Launch, "go"), (Launch, "pid"), (OciRuntime, "_run"), (netns, "create"), (netns, "destroy"),
    (shutil, "rmtree"), (Path, "mkdir"), (Path, "rmdir"),
)  # fmt: skip


class Killer:
    """Counts steps from the moment at which the file is there."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._left: int | None = None
        self._lock = threading.Lock()

    def wrap(self, owner: Any, name: str) -> None:
        """Make a function count as a step."""
        function: Callable[..., Any] = getattr(owner, name)

        @functools.wraps(function)
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.step()
            return function(*args, **kwargs)

        setattr(owner, name, counted)

    def step(self) -> None:
        with self._lock:
            if self._left is None:
                if not self._file.exists():
                    return
                self._left = int(self._file.read_text())
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            self._left -= 1


def daemon(file: Path, arguments: list[str]) -> int:
    """Be the daemon, which does not outlive its parent."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    killer = Killer(file)
    for step in STEPS:
        killer.wrap(*step)
    return main(["daemon", *arguments])


def supervise(file: Path, arguments: list[str]) -> int:
    """Run daemons until one ends by itself."""
    children: list[int] = []
    signal.signal(signal.SIGTERM, lambda *_: os.kill(children[-1], signal.SIGTERM))
    while True:
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os._exit(daemon(file, arguments))
        children.append(pid)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if code != -signal.SIGKILL:
            return code
        file.unlink()


if __name__ == "__main__":
    sys.exit(supervise(Path(sys.argv[1]), sys.argv[2:]))
