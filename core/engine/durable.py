"""Files that are there whole or not at all after a crash, readable by root only."""

from __future__ import annotations

import ctypes
import os
import secrets
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)


def write_new_file(path: Path, data: bytes) -> None:
    """Write a file that must not exist yet. Raises FileExistsError, OSError."""
    unfinished = _written(path, data)
    try:
        os.link(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    sync_directory(path.parent)


def replace_file(path: Path, data: bytes) -> None:
    """Write a file, in place of one that may be there. Raises OSError."""
    unfinished = _written(path, data)
    try:
        unfinished.rename(path)
    except OSError:
        unfinished.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def _written(path: Path, data: bytes) -> Path:
    """Write a file beside the wanted one, to the disk."""
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(4)}.new")
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        unfinished.unlink(missing_ok=True)
        raise
    return unfinished


def sync_file(path: Path) -> None:
    """Put a file that somebody else wrote to the disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_directory(path: Path) -> None:
    """Put names in a directory to the disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file_system(descriptor: int) -> None:
    """Write all of the file system of a descriptor to its disk: syncfs(2). Raises OSError."""
    if _libc.syncfs(descriptor) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
