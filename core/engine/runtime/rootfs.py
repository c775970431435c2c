"""Reading files of a container's root file system without being led out of it by a symbolic link."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from engine.opening import RESOLVE_IN_ROOT, openat2

_MAX_BYTES = 16 * 1024 * 1024


def open_in_root(rootfs: Path, path: str, flags: int = os.O_RDONLY) -> int:
    """Open `path` as a process chrooted to `rootfs` would: `..` and absolute links end at `rootfs`. Raises
    OSError.
    """
    root = os.open(rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return openat2(root, path.lstrip("/"), flags, RESOLVE_IN_ROOT)
    finally:
        os.close(root)


def read_in_root(rootfs: Path, path: str) -> str:
    """Text of the regular file `path` in `rootfs`; empty when it is missing or no regular file. Raises OSError for
    the rest.
    """
    try:
        fd = open_in_root(rootfs, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except (FileNotFoundError, NotADirectoryError):
        return ""
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return ""
        return file.read(_MAX_BYTES).decode("utf-8", "replace")


def directory_in_root(rootfs: Path, path: str) -> Path | None:
    """The host path of a directory of the root file system, or None if there is none.

    Symbolic links on the way stay inside of the root. True only as long as nobody changes them: for a root file
    system in which nothing runs.
    """
    try:
        fd = open_in_root(rootfs, path, os.O_PATH | os.O_DIRECTORY)
    except OSError:
        return None
    try:
        return Path(f"/proc/self/fd/{fd}").readlink()
    finally:
        os.close(fd)
