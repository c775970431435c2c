"""A machine whose daemon kills itself at the k-th step of an operation (see `killing_daemon`)."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.crash.conftest import CrashHost
from tests.host import until

PROGRAM = Path(__file__).with_name("killing_daemon.py")
MOST_STEPS = 200


class KillingHost(CrashHost):
    """A machine whose daemon kills itself at a step."""

    @property
    def armed(self) -> Path:
        return self.root / "armed"

    def start_daemon(self, *options: str) -> None:
        self.armed.unlink(missing_ok=True)
        argv = [sys.executable, str(PROGRAM), str(self.armed), "--host", self.url, "--data-root", str(self.data_root)]
        argv += ["--exec-root", str(self.exec_root), "--no-cli-server", *self.daemon_options, *options]
        with (self.root / "log").open("ab") as log:
            self.daemon = subprocess.Popen(
                [*self.enter, *argv], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment()
            )
        until(self._answers, "the daemon's first answer")

    def killed_at(self, step: int, method: str, path: str, body: dict[str, Any] | None = None) -> bool:
        """Make a request of a daemon that kills itself; tell whether it did. A new one runs then."""
        self.armed.write_text(str(step))
        status, answer = self.call(method, path, body)
        if status:
            assert status < 300, answer
            self.armed.unlink()
            self.kill_daemon()
            self.start_daemon()
            return False
        until(lambda: not self.armed.exists() and self._answers(), "a new daemon")
        return True

    def killed_while(self, step: int, act: Callable[[], object], done: Callable[[], object], what: str) -> bool:
        """Do something that the daemon answers to by itself; tell whether it killed itself before all was `done`."""
        self.armed.write_text(str(step))
        act()
        until(lambda: not self.armed.exists() or self._is(done), what)
        if self.armed.exists():
            self.armed.unlink()
            self.kill_daemon()
            self.start_daemon()
            return False
        until(self._answers, "a new daemon")
        return True

    def _is(self, done: Callable[[], object]) -> bool:
        """Ask the daemon, which may die before it answers."""
        try:
            return bool(done())
        except AssertionError:
            return False
