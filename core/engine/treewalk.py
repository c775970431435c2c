"""Walking and removing trees that others fill, and may change meanwhile: by descriptors, and iteratively.

A container chooses how deep its tree is, how many names a directory holds, and when a directory becomes a symbolic
link. So every step is one name below an open directory and never follows a link; at most a few descriptors are open,
however deep it goes; the names that are held are limited, however many there are. `shutil.rmtree`, `os.walk` and
`os.fwalk` do not keep that: their paths can be led elsewhere, or their recursion ends in RecursionError.
"""

from __future__ import annotations

import contextlib
import errno
import heapq
import os
import stat
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from engine.opening import RESOLVE_BENEATH, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, RESOLVE_NO_XDEV, openat2

_BATCH = 1 << 14
"""Names of one directory that are held at a time; it is read again for the ones after them."""
_HELD = 1 << 18
"""Names that are held of all directories of the way together."""
_STEP = 15
"""Names that make a path which the kernel takes: 255 bytes each, 4096 bytes together (linux/limits.h)."""
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Entry(NamedTuple):
    """A name that was found. Its descriptor and its path are good until the next one is asked for."""

    parent: int
    """The directory that holds it: an open descriptor of the walk's own."""
    name: str
    facts: os.stat_result
    """lstat(2)."""
    above: Sequence[str]
    """The names of the directories from the root of the walk to the parent."""

    @property
    def path(self) -> str:
        """The path below the root of the walk."""
        return "/".join((*self.above, self.name))

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory, into which the walk goes next."""
        return stat.S_ISDIR(self.facts.st_mode)


def walk(
    root: int, *, after: Callable[[int, str, Sequence[str]], None] | None = None, cross_mounts: bool = False
) -> Iterator[Entry]:
    """Give all below the directory of a descriptor, a directory before what is in it, in the order of the names.

    `after` is called with (descriptor of the parent, name, names above it) of a directory when all in it was given;
    what is given by then may be removed. What goes or is exchanged meanwhile is left out. A directory on which
    something is mounted counts as empty, unless `cross_mounts`. Raises OSError for what cannot be read.
    """
    with contextlib.closing(_Way(root, cross_mounts=cross_mounts)) as way:
        while True:
            name = way.next_name()
            if name is None:
                if way.is_at_root:
                    return
                left = way.leave()
                if left is not None and after is not None:
                    after(way.fd, left, way.names)
                continue
            try:
                facts = os.lstat(name, dir_fd=way.fd)
            except FileNotFoundError:
                continue
            yield Entry(way.fd, name, facts, way.names)
            if stat.S_ISDIR(facts.st_mode) and not way.enter(name) and after is not None:
                after(way.fd, name, way.names)


def remove_tree(path: Path) -> None:
    """Remove a directory with all in it, or a file; what is not there is no error.

    The directories above it must be ours. Goes on when something cannot be removed, and raises the first OSError then.
    Nothing is removed that is mounted in it.
    """
    try:
        parent = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        remove(parent, path.name)
    finally:
        os.close(parent)


def remove(parent: int, name: str) -> None:
    """Remove one name of a directory's descriptor, as `remove_tree`."""
    try:
        root = os.open(name, _DIRECTORY, dir_fd=parent)
    except FileNotFoundError:
        return
    except OSError as err:
        if err.errno not in (errno.ENOTDIR, errno.ELOOP):
            raise
        os.unlink(name, dir_fd=parent)
        return
    try:
        _empty(root)
    finally:
        os.close(root)
    os.rmdir(name, dir_fd=parent)


def empty(path: Path, keep: Collection[str] = ()) -> None:
    """Remove all that is in a directory but the names to keep, as `remove_tree`."""
    root = os.open(path, _DIRECTORY)
    try:
        _empty(root, keep)
    finally:
        os.close(root)


def _empty(root: int, keep: Collection[str] = ()) -> None:
    failures: list[OSError] = []

    def attempt(remove_one: Callable[..., None], parent: int, name: str) -> None:
        try:
            remove_one(name, dir_fd=parent)
        except FileNotFoundError:
            pass
        except OSError as err:
            if not failures:
                failures.append(OSError(err.errno, err.strerror, name))

    def leave(parent: int, name: str, above: Sequence[str]) -> None:
        if (*above, name)[0] not in keep:
            attempt(os.rmdir, parent, name)

    for entry in walk(root, after=leave):
        if not entry.is_directory and (*entry.above, entry.name)[0] not in keep:
            attempt(os.unlink, entry.parent, entry.name)
    if failures:
        raise failures[0]


def descend(root: int, names: Sequence[str]) -> int:
    """Open the directory to which these names lead from a descriptor, however many they are. Raises OSError."""
    fd = os.open(".", _DIRECTORY, dir_fd=root)
    for start in range(0, len(names), _STEP):
        path = "/".join(names[start : start + _STEP])
        try:
            below = openat2(fd, path, _DIRECTORY, RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_BENEATH)
        finally:
            os.close(fd)
        fd = below
    return fd


class _Level:
    """A directory of the way from the root to where the walk is."""

    def __init__(self, fd: int) -> None:
        self.identity = _identity(fd)
        self.last = ""
        """The greatest name that was given."""
        self.held: list[str] = []
        """Names after `last`, the next one at the end."""
        self.is_more = True
        """Whether names may follow those that are held."""


class _Way:
    """Where a walk is: one open directory, and the names that lead there."""

    def __init__(self, root: int, *, cross_mounts: bool) -> None:
        self.names: list[str] = []
        self._root = root
        self._resolve = RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | (0 if cross_mounts else RESOLVE_NO_XDEV)
        self.fd = os.open(".", _DIRECTORY, dir_fd=root)
        self._levels = [_Level(self.fd)]
        self._held = 0

    def close(self) -> None:
        os.close(self.fd)

    @property
    def is_at_root(self) -> bool:
        return len(self._levels) == 1

    def next_name(self) -> str | None:
        """Return the next name of the directory; None at its end."""
        level = self._levels[-1]
        if not level.held and level.is_more:
            with os.scandir(self.fd) as entries:
                after = heapq.nsmallest(_BATCH, (entry.name for entry in entries if entry.name > level.last))
            level.is_more = len(after) == _BATCH
            level.held = after[::-1]
            self._held += len(after)
        if not level.held:
            return None
        self._held -= 1
        level.last = level.held.pop()
        return level.last

    def enter(self, name: str) -> bool:
        """Go into a directory; False if it is none any more, or something is mounted on it."""
        try:
            below = openat2(self.fd, name, _DIRECTORY, self._resolve)
        except OSError as err:
            if err.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV):
                raise
            return False
        if self._held > _HELD:
            for level in self._levels:
                level.is_more |= bool(level.held)
                level.held = []
            self._held = 0
        self._move(below)
        self._levels.append(_Level(below))
        self.names.append(name)
        return True

    def leave(self) -> str | None:
        """Go up; returns the name that was left, or None if it is not there any more."""
        self._drop(len(self._levels) - 1)
        left = self.names.pop()
        up = os.open("..", _DIRECTORY, dir_fd=self.fd)
        if _identity(up) == self._levels[-1].identity:
            self._move(up)
            return left
        os.close(up)  # the directory was moved: its parent is somewhere else in the container's tree, or outside
        self._return()
        return None

    def _return(self) -> None:
        """Go from the root to the deepest directory of the way that is still the one it was."""
        self._move(os.open(".", _DIRECTORY, dir_fd=self._root))
        for depth, name in enumerate(self.names):
            try:
                below = openat2(self.fd, name, _DIRECTORY, self._resolve)
            except OSError:
                break
            if _identity(below) != self._levels[depth + 1].identity:
                os.close(below)
                break
            self._move(below)
        else:
            return
        self._drop(depth + 1)
        del self.names[depth:]

    def _drop(self, depth: int) -> None:
        """Forget the levels from a depth on."""
        self._held -= sum(len(level.held) for level in self._levels[depth:])
        del self._levels[depth:]

    def _move(self, fd: int) -> None:
        os.close(self.fd)
        self.fd = fd


def _identity(fd: int) -> tuple[int, int]:
    facts = os.fstat(fd)
    return facts.st_dev, facts.st_ino
