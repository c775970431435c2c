"""Copies what an image has at a mount point into a new volume: owners, modes, times, attributes, links, devices.

An interrupted copy is simply made again: every file appears whole, by a rename, and what is there is not copied twice.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

_PREFIX = ".engine-populate-"
"""Names of unfinished files."""
_NOT_COPIED = ("trusted.overlay.", "user.overlay.")
"""Attributes that overlayfs keeps its own books in."""
_CHUNK = 1 << 30


def is_empty(directory: Path) -> bool:
    """Tell whether a directory has nothing in it (the lost+found of ext4 does not count)."""
    with os.scandir(directory) as entries:
        return all(entry.name == "lost+found" for entry in entries)


def copy_tree(source: Path, target: Path) -> None:
    """Make the directory `target`, which exists, hold what `source` has. Raises OSError."""
    links: dict[tuple[int, int], Path] = {}
    _copy_directory(source, target, links)


def _copy_directory(source: Path, target: Path, links: dict[tuple[int, int], Path]) -> None:
    with os.scandir(target) as entries:
        for left in [Path(e.path) for e in entries if e.name.startswith(_PREFIX)]:
            left.unlink()
    with os.scandir(source) as entries:
        for entry in entries:
            _copy_entry(Path(entry.path), target / entry.name, entry.stat(follow_symlinks=False), links)
    _copy_metadata(source, target, source.lstat())


def _copy_entry(source: Path, target: Path, info: os.stat_result, links: dict[tuple[int, int], Path]) -> None:
    if stat.S_ISSOCK(info.st_mode):
        return  # nobody listens on it
    if stat.S_ISDIR(info.st_mode):
        if not target.is_dir() or target.is_symlink():
            target.mkdir(mode=0o700)
        _copy_directory(source, target, links)
        return
    identity = (info.st_dev, info.st_ino)
    first = links.get(identity)
    if info.st_nlink > 1:
        links.setdefault(identity, target)
    if os.path.lexists(target):
        return
    if first is not None:
        target.hardlink_to(first)
        return
    unfinished = target.with_name(_PREFIX + os.urandom(8).hex())
    try:
        _copy_content(source, unfinished, info)
        _copy_metadata(source, unfinished, info)
        unfinished.rename(target)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def _copy_content(source: Path, target: Path, info: os.stat_result) -> None:
    if stat.S_ISLNK(info.st_mode):
        target.symlink_to(source.readlink())
    elif stat.S_ISREG(info.st_mode):
        with source.open("rb") as read, target.open("xb") as write:
            _copy_extents(read.fileno(), write.fileno(), info.st_size)
    else:  # a device or a pipe
        os.mknod(target, info.st_mode, info.st_rdev)


def _copy_extents(read: int, write: int, size: int) -> None:
    """Copy what has been written of a file: holes stay holes, and file systems that can share blocks do."""
    os.truncate(write, size)
    position = 0
    while position < size:
        try:
            start = os.lseek(read, position, os.SEEK_DATA)
        except OSError as err:
            if err.errno == errno.ENXIO:  # only a hole is left
                return
            raise
        position = min(os.lseek(read, start, os.SEEK_HOLE), size)
        while start < position:
            copied = _copy_range(read, write, start, min(position - start, _CHUNK))
            if copied == 0:
                raise OSError(errno.EIO, "the source became shorter while it was copied")
            start += copied


def _copy_range(read: int, write: int, start: int, count: int) -> int:
    try:
        return os.copy_file_range(read, write, count, start, start)
    except OSError as err:
        if err.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
    return os.pwrite(write, os.pread(read, min(count, 1 << 20), start), start)


def _copy_metadata(source: Path, target: Path, info: os.stat_result) -> None:
    os.chown(target, info.st_uid, info.st_gid, follow_symlinks=False)
    for name in os.listxattr(source, follow_symlinks=False):
        if name.startswith(_NOT_COPIED):
            continue
        try:
            os.setxattr(target, name, os.getxattr(source, name, follow_symlinks=False), follow_symlinks=False)
        except OSError as err:
            if err.errno != errno.EOPNOTSUPP:  # the volume's file system has no such attributes
                raise
    if not stat.S_ISLNK(info.st_mode):
        target.chmod(stat.S_IMODE(info.st_mode))  # after chown, which clears setuid
    os.utime(target, ns=(info.st_atime_ns, info.st_mtime_ns), follow_symlinks=False)
