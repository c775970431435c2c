"""What the work of a job has: its arguments, its secrets, a way to say how far it is, and programs that end with it."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from engine.spec.errors import Internal, Unsupported
from engine.storage.secrets import Secrets
from engine.volume.jobs.place import Place

_EVERY = 0.2
"""Seconds between two reports."""
_ENDING_SECONDS = 10.0
_END_WITH_PARENT = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL
if os.getppid() != int(sys.argv[1]):
    os._exit(1)
try:
    os.execvp(sys.argv[2], sys.argv[2:])
except OSError as err:
    sys.exit(f"{sys.argv[2]}: {err.strerror}")
"""


class Cancelled(BaseException):
    """Somebody asked to give up."""


class GivenSecrets(Secrets):
    """The secrets that the daemon read for this job."""

    def __init__(self, given: Mapping[str, str]) -> None:
        super().__init__()
        self._given = {reference: base64.b64decode(text) for reference, text in given.items()}

    def read(self, reference: str) -> bytes:
        """Return the bytes of a secret. Raises Internal for one that the daemon did not send."""
        if reference not in self._given:
            raise Internal(f"the job was not given the secret {reference}")
        return self._given[reference]


class Work:
    """One run of a job's process."""

    def __init__(self, place: Place, config: Mapping[str, Any]) -> None:
        self.place = place
        self.id: str = config["id"]
        self.volume: str = config["name"]
        self.args: Mapping[str, Any] = config["args"]
        self.attempt: int = config["attempts"]
        self.data = Path(config["data"])
        """The volume's directory."""
        self.path = Path(config["path"])
        """Its content, mounted if the kind asked for that."""
        self.secrets = GivenSecrets(config["secrets"])
        self._told_at = 0.0
        self._told_step = ""
        self._lock = threading.Lock()

    def tell(self, step: str, done: int = 0, total: int | None = None, unit: str = "bytes") -> None:
        """Say how far it is; what only moves a bar is told a few times a second. From any thread."""
        with self._lock:
            now = time.monotonic()
            if step == self._told_step and now - self._told_at < _EVERY:
                return
            self._told_at, self._told_step = now, step
            self.place.tell({"step": step, "done": done, "total": total, "unit": unit})

    @contextmanager
    def program(self, argv: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[bytes]]:
        """Run a program meanwhile, which never outlives this process. Raises Unsupported if it is not installed."""
        from shutil import which

        if which(argv[0]) is None:
            raise Unsupported(f"{argv[0]} is not installed", hint=f"Install the package {argv[0]}")
        head = [sys.executable, "-I", "-S", "-c", _END_WITH_PARENT, str(os.getpid())]
        process = subprocess.Popen([*head, *argv], **options)
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(_ENDING_SECONDS)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()
