"""A container's changes to its image: as a list, and as a layer.

Overlayfs keeps them in the upper directory: a deleted name is a character device 0:0, a directory that hides the one
below has the attribute `trusted.overlay.opaque` (Documentation/filesystems/overlayfs.rst). A layer says the same with
names that begin with `.wh.` (OCI image specification, layer.md).

The places that the runtime makes in every container so that something can be mounted on them are no changes of the
container's: Docker keeps them in a layer of their own that it does not show.

The container may run meanwhile, and exchange whatever it wants: all is read by descriptors that follow no link.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

from engine.opening import RESOLVE_BENEATH, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, openat2
from engine.spec.errors import InvalidParameter
from engine.treetar import PATH_MAX, TreeTar
from engine.treewalk import Entry, walk

CHANGED, ADDED, DELETED = 0, 1, 2
"""Kinds of the API's changes."""
_OPAQUE = "trusted.overlay.opaque"
_MADE_FILES = frozenset({"etc/hostname", "etc/hosts", "etc/resolv.conf", "dev/console"})
_MADE_DIRECTORIES = frozenset({"dev", "dev/mqueue", "dev/pts", "dev/shm", "proc", "sys"})
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_LINKS = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS


def changes(upper: Path, lowers: Sequence[Path]) -> list[dict[str, Any]]:
    """Return the API's list of what differs from the image. Raises InvalidParameter for a path that has no name."""
    result = []
    with ExitStack() as stack:
        below = [stack.enter_context(_opened(lower)) for lower in lowers]
        for entry in _walk(upper):
            path = _path(entry)
            exists = _exists_below(path, below)
            if exists and entry.is_directory and _holds_only_made(entry):
                continue
            kind = DELETED if _is_whiteout(entry.facts) else CHANGED if exists else ADDED
            result.append({"Path": f"/{path}", "Kind": kind})
    return result


def layer_tar(upper: Path) -> IO[bytes]:
    """Return a tar of the changes in the form of an image layer, positioned at its start.

    Raises InvalidParameter for a path that has no name.
    """
    spool = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
    with contextlib.closing(TreeTar(spool, "w")) as tar:
        for entry in _walk(upper):
            path = _path(entry)
            if _is_whiteout(entry.facts):
                tar.mark("/".join((*entry.above, f".wh.{entry.name}")))
            elif _OPAQUE in tar.add(entry, path):
                tar.mark(f"{path}/.wh..wh..opq")
    spool.seek(0)
    return spool


def size(upper: Path) -> int:
    """Return the bytes of the changes."""
    return sum(entry.facts.st_size for entry in _walk(upper) if stat.S_ISREG(entry.facts.st_mode))


@contextlib.contextmanager
def _opened(directory: Path) -> Iterator[int]:
    fd = os.open(directory, _DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


def _walk(upper: Path) -> Iterator[Entry]:
    """Give what is below the upper directory, without what the runtime made."""
    with _opened(upper) as root:
        for entry in walk(root):
            if not _is_made(entry.above, entry.name, entry.facts):
                yield entry


def _path(entry: Entry) -> str:
    path = entry.path
    if len(os.fsencode(path)) >= PATH_MAX:
        raise InvalidParameter(
            "the container's changes cannot be told",
            why=f"/{path[:60]}... is a path longer than {PATH_MAX} bytes, which nobody could open or unpack",
            hint="Remove it in the container, a directory at a time",
        )
    return path


def _holds_only_made(directory: Entry) -> bool:
    """Return whether a directory is in the upper one only for the sake of what the runtime made in it."""
    above = (*directory.above, directory.name)
    if len(above) > 1:
        return False  # the runtime makes nothing that deep
    try:
        fd = os.open(directory.name, _DIRECTORY, dir_fd=directory.parent)
    except OSError:
        return False
    try:
        with os.scandir(fd) as entries:
            made = [_is_made(above, entry.name, os.lstat(entry.name, dir_fd=fd)) for entry in entries]
    except FileNotFoundError:
        return False  # removed meanwhile: the container works in it
    finally:
        os.close(fd)
    return bool(made) and all(made)


def _is_made(above: Sequence[str], name: str, found: os.stat_result) -> bool:
    if len(above) > 1:
        return False
    path = "/".join((*above, name))
    if stat.S_ISREG(found.st_mode):
        return found.st_size == 0 and path in _MADE_FILES
    return stat.S_ISDIR(found.st_mode) and path in _MADE_DIRECTORIES


def _is_whiteout(found: os.stat_result) -> bool:
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == 0


def _exists_below(path: str, lowers: Sequence[int]) -> bool:
    for lower in lowers:
        with _found(lower, path) as fd:
            if fd is not None:
                return not _is_whiteout(os.fstat(fd))
        if _hides(lower, path):
            return False
    return False


def _hides(lower: int, path: str) -> bool:
    """Return whether a layer hides all below it at a path: by another thing, or an opaque directory, on the way."""
    end = path.find("/")
    while end > 0:
        with _found(lower, path[:end]) as fd:
            if fd is None:
                return False
            if not stat.S_ISDIR(os.fstat(fd).st_mode) or _OPAQUE in os.listxattr(f"/proc/self/fd/{fd}"):
                return True
        end = path.find("/", end + 1)
    return False


@contextlib.contextmanager
def _found(lower: int, path: str) -> Iterator[int | None]:
    """Give a descriptor of what a layer has at a path, or None."""
    try:
        fd = openat2(lower, path, os.O_PATH | os.O_NOFOLLOW, _NO_LINKS)
    except OSError as err:
        if err.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            raise
        yield None  # ELOOP: a link is on the way, where the container has a directory
        return
    try:
        yield fd
    finally:
        os.close(fd)
