"""A job's directory: its lock, what it says, and starting its process.

The process is known by the flock(2) that it holds, not by its id, which may be somebody else's by now. It reports by
files that are exchanged whole: who reads them needs no connection, and nobody is lost when the daemon dies.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine import lockfile
from engine.durable import replace_file
from engine.spec.errors import ApplyFailed
from engine.treewalk import remove_tree

_LOG_TAIL = 2000


class Place:
    """The directory of one job."""

    def __init__(self, path: Path) -> None:
        self.path = path

    # The daemon's side

    def start(
        self, config: Mapping[str, Any], *, stdin: int | None = None, stdout: int | None = None
    ) -> subprocess.Popen[bytes]:
        """Start the process and return it. The configuration, secrets with it, goes by a sealed memory file.

        The lock is taken before, so that there is no moment at which the job is neither started nor dead. Raises
        ApplyFailed.
        """
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            lock = lockfile.take(self.path / "lock")
        except OSError as err:
            raise ApplyFailed("the process of a job cannot be started", why=str(err)) from err
        settings = _sealed(json.dumps(config).encode())
        try:
            with (self.path / "log").open("ab") as log:
                return subprocess.Popen(
                    [sys.executable, "-m", "engine.volume.jobs", str(self.path), str(settings)],
                    stdin=subprocess.DEVNULL if stdin is None else stdin,
                    stdout=log if stdout is None else stdout,
                    stderr=log,
                    cwd="/",
                    pass_fds=(lock, settings),
                    start_new_session=True,
                )
        except OSError as err:
            raise ApplyFailed("the process of a job cannot be started", why=str(err)) from err
        finally:
            os.close(lock)
            os.close(settings)

    def alive(self) -> bool:
        """Tell whether the process runs."""
        return lockfile.is_taken(self.path / "lock")

    def cancel(self) -> None:
        """Ask the process to give up."""
        (self.path / "cancel").touch()

    def progress(self) -> dict[str, Any]:
        """Return the last step that was told; empty before the first."""
        return self._read("progress.json") or {}

    def outcome(self) -> dict[str, Any] | None:
        """Return how it ended: `state`, `result`, `error`; None if it has not, or was killed."""
        return self._read("outcome.json")

    def log(self) -> str:
        """Return the end of what the process wrote."""
        try:
            return (self.path / "log").read_text(errors="replace").strip()[-_LOG_TAIL:]
        except FileNotFoundError:
            return ""

    def remove(self) -> None:
        """Remove the directory."""
        with contextlib.suppress(OSError):
            remove_tree(self.path)

    # The process's side

    def tell(self, progress: Mapping[str, Any]) -> None:
        """Say how far it is. It need not survive a crash of the machine."""
        unfinished = self.path / "progress.new"
        unfinished.write_text(json.dumps(progress))
        unfinished.rename(self.path / "progress.json")

    def checkpoint(self) -> dict[str, Any]:
        """Return what `keep` wrote last; empty the first time."""
        return self._read("checkpoint.json") or {}

    def keep(self, checkpoint: Mapping[str, Any]) -> None:
        """Write down, on the disk, what a next start has to know."""
        replace_file(self.path / "checkpoint.json", json.dumps(checkpoint).encode())

    def end(self, outcome: Mapping[str, Any]) -> None:
        """Say how it ended."""
        replace_file(self.path / "outcome.json", json.dumps(outcome).encode())

    def is_cancelled(self) -> bool:
        """Tell whether somebody asked to give up."""
        return (self.path / "cancel").exists()

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = json.loads((self.path / name).read_bytes())
        except FileNotFoundError:
            return None
        return found


def _sealed(data: bytes) -> int:
    descriptor = os.memfd_create("job", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with os.fdopen(os.dup(descriptor), "wb") as file:
        file.write(data)
    os.lseek(descriptor, 0, os.SEEK_SET)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    return descriptor
