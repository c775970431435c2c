"""Keeps a fanotify group open while the helper is down: who waits for a file goes on waiting, and reads no zeroes.

Run as a program of its own, with nothing but the standard library: `python holder.py LOCK GROUP_FD LOCK_FD`. It holds a
lock on the file LOCK (a second one would end at once), writes its pid into it, and ends when that file is removed. It
never reads the group. It has no protocol: whoever needs the group takes a copy of the descriptor by pidfd_getfd(2).
"""

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

_LOOK = 1.0  # seconds between two looks at the lock file


def hold(lock: Path) -> None:
    """Wait until the lock file is gone."""
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(OSError):  # some hosts forbid it
        Path("/proc/self/oom_score_adj").write_text("-900")
    while True:
        time.sleep(_LOOK)
        if not lock.exists():
            return


if __name__ == "__main__":
    os.chdir("/")
    hold(Path(sys.argv[1]))
