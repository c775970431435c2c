"""Freezes a file system for the time of a copy, with a watchdog: nobody's death leaves it frozen.

Run as a program (`python -m engine.reconcile.freezing FD SECONDS`) it is the watchdog: it freezes, says `frozen`, and
thaws when its standard input ends or the time is up; then it says `thawed`, or `late`. Source: linux/fs.h.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_FIFREEZE, _FITHAW = 0xC0045877, 0xC0045878
_START_SECONDS = 30.0


class Late(Exception):
    """The file system was thawed before the block ended: what was copied is no point in time."""


def thaw(path: Path) -> bool:
    """Thaw a file system that a killed process left frozen; tell whether it was."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(descriptor, _FITHAW, 0)
    except OSError as err:
        if err.errno == errno.EINVAL:
            return False
        raise
    finally:
        os.close(descriptor)
    return True


@contextmanager
def frozen(path: Path, seconds: float) -> Iterator[None]:
    """Keep the file system at `path` frozen while the block runs, at most so long.

    Raises Late at the end when that was not enough, and OSError where it cannot be frozen.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        watchdog = subprocess.Popen(
            [sys.executable, "-m", __name__, str(descriptor), str(seconds)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=(descriptor,), start_new_session=True, cwd="/",
        )  # fmt: skip
    finally:
        os.close(descriptor)
    assert watchdog.stdin is not None
    assert watchdog.stdout is not None
    try:
        ready = select.select([watchdog.stdout], [], [], _START_SECONDS)[0]
        answer = watchdog.stdout.readline().decode().split() if ready else []
        if answer[:1] != ["frozen"]:
            code = int(answer[1]) if len(answer) > 1 else errno.EIO
            raise OSError(code, f"the file system cannot be frozen: {os.strerror(code)}", str(path))
        yield
    finally:
        watchdog.stdin.close()
        end = watchdog.stdout.read().decode().split()
        watchdog.stdout.close()
        watchdog.wait()
    if end != ["thawed"]:
        raise Late


def main() -> int:
    """Be the watchdog."""
    descriptor, seconds = int(sys.argv[1]), float(sys.argv[2])
    try:
        fcntl.ioctl(descriptor, _FIFREEZE, 0)
    except OSError as err:
        print("refused", err.errno, flush=True)
        return 1
    try:
        print("frozen", flush=True)
        in_time = bool(select.select([0], [], [], seconds)[0])
    finally:
        fcntl.ioctl(descriptor, _FITHAW, 0)
    print("thawed" if in_time else "late", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
