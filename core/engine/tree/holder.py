"""Keeps a fanotify group open while the helper is down: who waits for a file goes on waiting, and reads no zeroes.

Run as a program of its own, with nothing but the standard library: `python holder.py LOCK`. It has inherited the
group and a lock (flock(2)) on the file LOCK, in which its pid is. It never reads the group, and has no protocol:
whoever needs the group takes a copy of the descriptor by pidfd_getfd(2). It outlives the helper, and ends when the
volume is released (`end`), or when its lock file is gone.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import sys
import time
from pathlib import Path

LOCK = "holder.lock"
"""Name of the lock file in the helper's directory."""
_LOOK = 1.0  # seconds between two looks at the lock file


def hold(lock: Path) -> None:
    """Wait until the lock file is gone."""
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(OSError):  # some hosts forbid it
        Path("/proc/self/oom_score_adj").write_text("-900")
    while lock.exists():
        time.sleep(_LOOK)


def end(run: Path, seconds: float = 5.0) -> bool:
    """End the holder of a helper's directory, if there is one; False if it is still there after so many seconds.

    Only when nobody can see the volume any more: the kernel lets go everybody who waits for a file.
    """
    lock = run / LOCK
    try:
        fd = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        pid = _holder(fd)
        lock.unlink(missing_ok=True)
        return pid is None or _terminate(pid, fd, seconds)
    finally:
        os.close(fd)


def _holder(lock: int) -> int | None:
    """Return the pid of who has the lock; None if nobody has."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        text = os.pread(lock, 20, 0).strip()
        return int(text) if text.isdigit() else None
    return None


def _terminate(pid: int, lock: int, seconds: float) -> bool:
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        if _holder(lock) != pid:  # it ended before we had its pidfd: the number may be another's
            return True
        signal.pidfd_send_signal(pidfd, signal.SIGTERM)
        return bool(select.select([pidfd], [], [], seconds)[0])
    finally:
        os.close(pidfd)


if __name__ == "__main__":
    os.chdir("/")
    hold(Path(sys.argv[1]))
