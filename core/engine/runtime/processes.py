"""Processes: commands with a deadline, pidfds, and ending a whole family of processes."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from engine.spec.errors import DeadlineExceeded, Unavailable


class Deadline:
    """A point in time that several waits share."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds that are left, never negative."""
        return max(0.0, self._end - time.monotonic())

    def error(self, what: str) -> DeadlineExceeded:
        """The error to raise when it has passed."""
        return DeadlineExceeded(what, why=f"no answer within {self.seconds:g} s")


def run(argv: Sequence[str], *, seconds: float, what: str) -> subprocess.CompletedProcess[str]:
    """Run a command and return its output and code; it gets no input, and is killed at the deadline.

    Raises DeadlineExceeded, or Unavailable when the program cannot be executed; a code other than 0 is the caller's
    to judge.
    """
    try:
        return subprocess.run(
            list(argv),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as err:
        raise DeadlineExceeded(what, why=f"{argv[0]} gave no answer within {seconds:g} s") from err
    except OSError as err:
        raise Unavailable(what, why=f"cannot run {argv[0]}: {err.strerror}") from err


def wait_readable(fd: int, seconds: float | None) -> bool:
    """Wait until `fd` (a pipe, a pidfd) is readable or closed by the other side; False at the end of `seconds`."""
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    return bool(poller.poll(None if seconds is None else seconds * 1000))


def open_pidfd(pid: int) -> int | None:
    """A pidfd, or None when there is no such process."""
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None


def read_pid(file: Path) -> int | None:
    """The pid in a pidfile; None when it is missing or not yet written."""
    try:
        return int(file.read_text())
    except (FileNotFoundError, ValueError):
        return None


def command_line(pid: int) -> list[str]:
    """The arguments of a process; empty when it is gone or a zombie."""
    try:
        return os.fsdecode(Path(f"/proc/{pid}/cmdline").read_bytes()).split("\0")[:-1]
    except (FileNotFoundError, ProcessLookupError):
        return []


def reap(pidfd: int) -> None:
    """Collect an ended process if it is our child: only when we are process 1 or a subreaper; otherwise init does
    that.
    """
    with contextlib.suppress(ChildProcessError):
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)


def kill_family(pid: int) -> None:
    """SIGKILL a process and all that descend from it.

    The family is stopped first, so that it cannot grow meanwhile.
    """
    family = [pid]
    for member in family:
        with contextlib.suppress(ProcessLookupError):
            os.kill(member, signal.SIGSTOP)
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for task in Path(f"/proc/{member}/task").iterdir():
                family.extend(int(child) for child in (task / "children").read_text().split())
    for member in reversed(family):
        with contextlib.suppress(ProcessLookupError):
            os.kill(member, signal.SIGKILL)


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and is not reaped does not."""
    try:
        # The name in parentheses may hold anything: the state comes after the last one (proc(5)).
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False
