"""Copies a tree of files: owners, modes, times, attributes, links, holes, devices; blocks are shared where they can be.

Every step is taken from an open directory and follows no link, so that whoever changes the tree meanwhile cannot lead
the copy out of it; and none is a recursion, however deep the tree is. An interrupted copy is simply made again: a file
appears whole, by a rename, and what is there is not copied twice. Sockets are left out: nobody listens on a copy.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from engine.treewalk import Entry, descend, walk

_UNFINISHED = ".engine-populate-"
"""Names of unfinished files."""
_CHUNK = 1 << 26
_PLAIN_CHUNK = 1 << 20
_FICLONE = 0x40049409
"""linux/fs.h: _IOW(0x94, 9, int)"""
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


@contextmanager
def _opened(name: str | Path, flags: int, at: int | None = None) -> Iterator[int]:
    descriptor = os.open(name, flags, 0o600, dir_fd=at)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


class _Place:
    """Where the copy of a walk is: one open directory of the target."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._names: tuple[str, ...] = ()
        self._fd = os.dup(root)

    def close(self) -> None:
        os.close(self._fd)

    def at(self, names: Sequence[str]) -> int:
        """Return the directory of these names; the descriptor is good until the next call."""
        if tuple(names) != self._names:
            fd = descend(self._root, names)
            os.close(self._fd)
            self._fd, self._names = fd, tuple(names)
        return self._fd

    def link(self, first: Sequence[str], name: str, target: int) -> None:
        """Give a file of the target another name."""
        directory = descend(self._root, first[:-1])
        try:
            os.link(first[-1], name, src_dir_fd=directory, dst_dir_fd=target, follow_symlinks=False)
        finally:
            os.close(directory)


class TreeCopy:
    """One copy. `without` are beginnings of attribute names that are not copied; `copied` is told the bytes."""

    def __init__(self, *, without: tuple[str, ...] = (), copied: Callable[[int], object] = lambda count: None) -> None:
        self._without = without
        self._copied = copied
        self._links: dict[tuple[int, int], tuple[str, ...]] = {}

    def copy(self, source: Path, target: Path) -> None:
        """Make the directory `target`, which exists, hold what `source` has, and be like it. Raises OSError."""
        with _opened(source, _DIRECTORY) as read, _opened(target, _DIRECTORY) as write:
            facts = os.fstat(read)
            _remove_unfinished(write)
            place = _Place(write)
            try:
                for entry in walk(read, after=partial(self._end_directory, place), cross_mounts=True):
                    try:
                        self._entry(entry, place)
                    except FileNotFoundError:
                        if _there(entry.parent, entry.name):
                            raise
            finally:
                place.close()
            self._metadata(read, write, facts)

    def _end_directory(self, place: _Place, parent: int, name: str, above: Sequence[str]) -> None:
        try:
            with _opened(name, _DIRECTORY, parent) as read, _opened(name, _DIRECTORY, place.at(above)) as write:
                self._metadata(read, write, os.fstat(read))
        except (FileNotFoundError, NotADirectoryError):
            if _is_directory(parent, name):
                raise

    def _entry(self, entry: Entry, place: _Place) -> None:
        facts, name, target = entry.facts, entry.name, place.at(entry.above)
        if stat.S_ISSOCK(facts.st_mode):
            return
        if entry.is_directory:
            if not _is_directory(target, name):
                os.mkdir(name, 0o700, dir_fd=target)
            with _opened(name, _DIRECTORY, target) as write:
                _remove_unfinished(write)
            return
        identity = (facts.st_dev, facts.st_ino)
        first = self._links.get(identity)
        if facts.st_nlink > 1:
            self._links.setdefault(identity, (*entry.above, name))
        if _there(target, name):
            return
        if first is not None:
            place.link(first, name, target)
            return
        unfinished = _UNFINISHED + os.urandom(8).hex()
        try:
            self._leaf(entry.parent, target, name, unfinished, facts)
            os.rename(unfinished, name, src_dir_fd=target, dst_dir_fd=target)
        except BaseException:
            if _there(target, unfinished):
                os.unlink(unfinished, dir_fd=target)
            raise

    def _leaf(self, source: int, target: int, name: str, unfinished: str, facts: os.stat_result) -> None:
        if stat.S_ISREG(facts.st_mode):
            with _opened(name, _FILE, source) as read, _opened(unfinished, _NEW, target) as write:
                copy_content(read, write, os.fstat(read).st_size, self._copied)
                self._metadata(read, write, facts)
            return
        if stat.S_ISLNK(facts.st_mode):
            os.symlink(os.readlink(name, dir_fd=source), unfinished, dir_fd=target)
        else:  # a device or a pipe
            os.mknod(unfinished, facts.st_mode, facts.st_rdev, dir_fd=target)
        os.chown(unfinished, facts.st_uid, facts.st_gid, dir_fd=target, follow_symlinks=False)
        here, there = f"/proc/self/fd/{source}/{name}", f"/proc/self/fd/{target}/{unfinished}"
        for attribute in os.listxattr(here, follow_symlinks=False):
            value = os.getxattr(here, attribute, follow_symlinks=False)
            self._attribute(attribute, value, lambda n, v: os.setxattr(there, n, v, follow_symlinks=False))
        if not stat.S_ISLNK(facts.st_mode):
            os.chmod(there, stat.S_IMODE(facts.st_mode))  # noqa: PTH101 - below a descriptor
        times = (facts.st_atime_ns, facts.st_mtime_ns)
        os.utime(unfinished, ns=times, dir_fd=target, follow_symlinks=False)

    def _metadata(self, source: int, target: int, facts: os.stat_result) -> None:
        os.fchown(target, facts.st_uid, facts.st_gid)
        for name in os.listxattr(source):
            self._attribute(name, os.getxattr(source, name), lambda n, v: os.setxattr(target, n, v))
        os.fchmod(target, stat.S_IMODE(facts.st_mode))  # after chown, which clears setuid
        os.utime(target, ns=(facts.st_atime_ns, facts.st_mtime_ns))

    def _attribute(self, name: str, value: bytes, put: Callable[[str, bytes], object]) -> None:
        if name.startswith(self._without):
            return
        try:
            put(name, value)
        except OSError as err:
            if err.errno != errno.EOPNOTSUPP:  # the target's file system has no such attributes
                raise


def _remove_unfinished(directory: int) -> None:
    with os.scandir(directory) as entries:
        left = [entry.name for entry in entries if entry.name.startswith(_UNFINISHED)]
    for name in left:
        os.unlink(name, dir_fd=directory)


def _there(directory: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _is_directory(directory: int, name: str) -> bool:
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def share_content(read: int, write: int) -> bool:
    """Make a new file share all blocks of another one; False where the file system cannot."""
    try:
        fcntl.ioctl(write, _FICLONE, read)
    except OSError as err:
        if err.errno in (errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL, errno.ENOSYS):
            return False
        raise
    return True


def copy_content(read: int, write: int, size: int, copied: Callable[[int], object] = lambda count: None) -> None:
    """Copy a file into a new one: holes stay holes, blocks are shared where they can be. Raises OSError."""
    if share_content(read, write):
        copied(size)
        return
    os.ftruncate(write, size)
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
            count = _copy_range(read, write, start, min(position - start, _CHUNK))
            if count == 0:  # it became shorter meanwhile
                os.ftruncate(write, start)
                return
            start += count
            copied(count)


def _copy_range(read: int, write: int, start: int, count: int) -> int:
    try:
        return os.copy_file_range(read, write, count, start, start)
    except OSError as err:
        if err.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
    return os.pwrite(write, os.pread(read, min(count, _PLAIN_CHUNK), start), start)
