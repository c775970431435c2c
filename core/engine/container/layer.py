"""A container's changes to its image: as a list, and as a layer.

Overlayfs keeps them in the upper directory: a deleted name is a character device 0:0, a directory that hides the one
below has the attribute `trusted.overlay.opaque` (Documentation/filesystems/overlayfs.rst). A layer says the same with
names that begin with `.wh.` (OCI image specification, layer.md).

The places that the runtime makes in every container so that something can be mounted on them are no changes of the
container's: Docker keeps them in a layer of their own that it does not show.
"""

from __future__ import annotations

import os
import stat
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

CHANGED, ADDED, DELETED = 0, 1, 2
"""Kinds of the API's changes."""
_OPAQUE = "trusted.overlay.opaque"
_MADE_FILES = frozenset({"etc/hostname", "etc/hosts", "etc/resolv.conf", "dev/console"})
_MADE_DIRECTORIES = frozenset({"dev", "dev/mqueue", "dev/pts", "dev/shm", "proc", "sys"})


def changes(upper: Path, lowers: Sequence[Path]) -> list[dict[str, Any]]:
    """Return the API's list of what differs from the image."""
    result = []
    for path, found in _walk(upper):
        name = path.relative_to(upper)
        exists = _exists_below(name, lowers)
        if exists and stat.S_ISDIR(found.st_mode) and _holds_only_made(path, upper):
            continue
        kind = DELETED if _is_whiteout(found) else CHANGED if exists else ADDED
        result.append({"Path": f"/{name}", "Kind": kind})
    return result


def layer_tar(upper: Path) -> IO[bytes]:
    """Return a tar of the changes in the form of an image layer, positioned at its start."""
    spool = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
    links: dict[tuple[int, int], str] = {}
    with tarfile.open(fileobj=spool, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path, found in _walk(upper):
            name = str(path.relative_to(upper))
            if _is_whiteout(found):
                parent, _, base = name.rpartition("/")
                tar.addfile(_mark(f"{parent}/.wh.{base}".lstrip("/")))
            elif not stat.S_ISSOCK(found.st_mode):
                _add(tar, path, name, found, links)
    spool.seek(0)
    return spool


def size(upper: Path) -> int:
    """Return the bytes of the changes."""
    return sum(found.st_size for _, found in _walk(upper) if stat.S_ISREG(found.st_mode))


def _holds_only_made(directory: Path, upper: Path) -> bool:
    """Return whether a directory is in the upper one only for the sake of what the runtime made in it."""
    inner = list(directory.iterdir())
    return bool(inner) and all(_is_made(path, path.lstat(), upper) for path in inner)


def _is_made(path: Path, found: os.stat_result, upper: Path) -> bool:
    name = str(path.relative_to(upper))
    if stat.S_ISREG(found.st_mode):
        return found.st_size == 0 and name in _MADE_FILES
    return stat.S_ISDIR(found.st_mode) and name in _MADE_DIRECTORIES


def _walk(upper: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Give what is below the upper directory, without what the runtime made."""
    for path, facts in _walk_all(upper):
        if not _is_made(path, facts, upper):
            yield path, facts


def _walk_all(directory: Path) -> Iterator[tuple[Path, os.stat_result]]:
    try:
        with os.scandir(directory) as entries:
            found = sorted(entries, key=lambda e: e.name)
    except FileNotFoundError:
        return
    for entry in found:
        path = Path(entry.path)
        try:
            facts = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            continue  # the container removed it meanwhile
        yield path, facts
        if stat.S_ISDIR(facts.st_mode):
            yield from _walk_all(path)


def _add(tar: tarfile.TarFile, path: Path, name: str, found: os.stat_result, links: dict[tuple[int, int], str]) -> None:
    info = tar.gettarinfo(str(path), name)
    info.uname = info.gname = ""
    identity = (found.st_dev, found.st_ino)
    if info.isreg() or info.islnk():
        first = links.get(identity)
        if first is not None:
            info.type, info.linkname, info.size = tarfile.LNKTYPE, first, 0
        else:
            info.type, info.linkname, info.size = tarfile.REGTYPE, "", found.st_size
            links[identity] = name
    names = os.listxattr(path, follow_symlinks=False)
    info.pax_headers = {
        f"SCHILY.xattr.{key}": os.getxattr(path, key, follow_symlinks=False).decode("utf-8", "surrogateescape")
        for key in names
        if not key.startswith("trusted.overlay.")
    }
    if info.isreg():
        with path.open("rb") as file:
            tar.addfile(info, file)
        return
    tar.addfile(info)
    if info.isdir() and _OPAQUE in names:
        tar.addfile(_mark(f"{name}/.wh..wh..opq"))


def _mark(name: str) -> tarfile.TarInfo:
    return tarfile.TarInfo(name)


def _is_whiteout(found: os.stat_result) -> bool:
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == 0


def _exists_below(name: Path, lowers: Sequence[Path]) -> bool:
    for lower in lowers:
        path = lower / name
        try:
            return not _is_whiteout(path.lstat())
        except (FileNotFoundError, NotADirectoryError):
            if _hidden(lower, name):
                return False
    return False


def _hidden(lower: Path, name: Path) -> bool:
    """Return whether a layer hides everything below it at that name: an opaque or deleted directory on the way."""
    for parent in name.parents:
        path = lower / parent
        if parent == Path() or not os.path.lexists(path):
            continue
        if _is_whiteout(path.lstat()) or _OPAQUE in os.listxattr(path, follow_symlinks=False):
            return True
    return False
