"""A process of its own that reads or writes files of a container from inside of its root.

It changes its root directory to that of the container before it touches a path, so that no symbolic link in it can
lead out, whatever changes meanwhile. Run as `python -I -m engine.runtime.archive_child FD VERB PATH [FLAG...]`: FD is
an open directory, VERB stat, get or put. `get` writes a line of JSON (the stat) and then a tar to standard output;
`put` reads a tar from standard input. Errors are one line of JSON on standard error, `{"kind", "what"}`, and exit
code 1.
"""

from __future__ import annotations

import errno
import io
import json
import os
import posixpath
import stat
import sys
import tarfile
from datetime import UTC, datetime
from typing import IO, Any

import zstandard  # before the root changes: nothing can be imported afterwards

_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"  # RFC 8878
_GO_MODES = (
    (stat.S_ISDIR, 1 << 31), (stat.S_ISLNK, 1 << 27), (stat.S_ISBLK, 1 << 26), (stat.S_ISCHR, 1 << 26 | 1 << 21),
    (stat.S_ISFIFO, 1 << 25), (stat.S_ISSOCK, 1 << 24),
)  # fmt: skip
"""Type bits of Go's os.FileMode, in which the API gives modes."""
_GO_BITS = ((stat.S_ISUID, 1 << 23), (stat.S_ISGID, 1 << 22), (stat.S_ISVTX, 1 << 20))


class Refusal(Exception):
    """An error for the client: `kind` is one of engine.spec.errors'."""

    def __init__(self, kind: str, what: str) -> None:
        super().__init__(what)
        self.kind = kind


def go_mode(mode: int) -> int:
    """Return a mode as Go's os.FileMode."""
    result = mode & 0o777
    for is_type, bit in _GO_MODES:
        if is_type(mode):
            result |= bit
    for ours, theirs in _GO_BITS:
        if mode & ours:
            result |= theirs
    return result


def describe(path: str) -> dict[str, Any]:
    """Return the API's stat of a path; a final symbolic link is not followed unless a slash comes after it."""
    clean = path.rstrip("/") or "/"
    try:
        if path.endswith("/") and clean != "/" and not os.path.isdir(clean):
            raise Refusal(
                "not-found" if not os.path.lexists(clean) else "invalid-parameter", f"{clean} is not a directory"
            )
        found = os.stat(clean) if path.endswith(("/", "/.")) else os.lstat(clean)
    except FileNotFoundError as err:
        raise Refusal("not-found", f"Could not find the file {path} in container") from err
    except NotADirectoryError as err:
        raise Refusal("invalid-parameter", f"{path}: a part of the path is not a directory") from err
    target = os.path.realpath(clean) if stat.S_ISLNK(found.st_mode) else ""
    moment = datetime.fromtimestamp(found.st_mtime, UTC)
    return {
        "name": posixpath.basename(clean) or "/",
        "size": found.st_size,
        "mode": go_mode(found.st_mode),
        "mtime": moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "linkTarget": target,
    }


def send(path: str, out: IO[bytes]) -> None:
    """Write a tar of a path; a path that ends in `/.` gives the directory's content, named from `.`."""
    name = posixpath.basename(path) or posixpath.basename(path.rstrip("/")) or "."
    source = os.path.realpath(path) if path.endswith(("/", "/.")) else path
    with tarfile.open(
        fileobj=out, mode="w|", format=tarfile.PAX_FORMAT, tarinfo=_WithAttributes, dereference=False
    ) as tar:
        _add(tar, source or "/", name)


def export(out: IO[bytes]) -> None:
    """Write a tar of everything below the root, with bare names (`etc/passwd`), as Docker's export."""
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT, tarinfo=_WithAttributes) as tar:
        _add_children(tar, "/", "")


class _WithAttributes(tarfile.TarInfo):
    """A header that does not look up names: the container's /etc/passwd is not ours."""


def _add(tar: tarfile.TarFile, path: str, name: str) -> None:
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return  # it went while we read
    if stat.S_ISSOCK(found.st_mode):
        return  # tar has no sockets
    info = tar.gettarinfo(path, name)
    info.uname = info.gname = ""
    info.pax_headers = _attributes(path)
    if info.isreg():
        with open(path, "rb") as file:
            tar.addfile(info, _Exactly(file, info.size))
        return
    tar.addfile(info)
    if info.isdir():
        _add_children(tar, path, name)


def _add_children(tar: tarfile.TarFile, path: str, name: str) -> None:
    with os.scandir(path) as entries:
        children = sorted(entry.name for entry in entries)
    for child in children:
        _add(tar, posixpath.join(path, child), posixpath.join(name, child))


def _attributes(path: str) -> dict[str, str]:
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError:
        return {}
    result = {}
    for name in names:
        if not name.startswith(("trusted.overlay.", "security.selinux")):
            value = os.getxattr(path, name, follow_symlinks=False)
            result[f"SCHILY.xattr.{name}"] = value.decode("utf-8", "surrogateescape")
    return result


class _Exactly(io.RawIOBase):
    """Reads as many bytes as the header says, also when the file changes meanwhile: missing ones are zeroes."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file = file
        self._left = size

    def read(self, size: int = -1, /) -> bytes:
        size = self._left if size < 0 else min(size, self._left)
        data = self._file.read(size)
        data += b"\0" * (size - len(data))
        self._left -= len(data)
        return data


def receive(path: str, source: IO[bytes], *, no_overwrite: bool, copy_owner: bool) -> None:
    """Unpack a tar (plain, gzip, bzip2, xz, zstd) into a directory."""
    if not os.path.isdir(path):
        if os.path.lexists(path):
            raise Refusal("invalid-parameter", f"extraction point is not a directory: {path}")
        raise Refusal("not-found", f"Could not find the file {path} in container")
    os.chdir(path)
    head = source.read(len(_ZSTD_MAGIC))
    stream: Any = _Chained(head, source)
    if head == _ZSTD_MAGIC:
        stream = zstandard.ZstdDecompressor().stream_reader(stream)
    owner = os.stat(".")
    try:
        with tarfile.open(fileobj=stream, mode="r|*", errorlevel=1) as tar:
            tar.extraction_filter = _as_it_is  # an argument of `extract` only since Python 3.11.4
            for member in tar:
                _check(member, no_overwrite)
                if copy_owner:
                    member.uid, member.gid = owner.st_uid, owner.st_gid
                tar.extract(member, ".", numeric_owner=True)
                _restore_attributes(member)
    except (tarfile.TarError, zstandard.ZstdError, EOFError) as err:
        raise Refusal("invalid-parameter", f"the archive is damaged or is none: {err}") from err
    while stream.read(1 << 16):
        pass  # what follows the end of the tar, so that the sender is not cut off


class _Chained(io.RawIOBase):
    """What was read ahead, then the rest."""

    def __init__(self, head: bytes, rest: IO[bytes]) -> None:
        self._head = head
        self._rest = rest

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        if self._head:
            data, self._head = (self._head, b"") if size < 0 else (self._head[:size], self._head[size:])
            return data if size == len(data) else data + self._rest.read(size - len(data) if size > 0 else -1)
        return self._rest.read(size)


def _as_it_is(member: tarfile.TarInfo, _: str) -> tarfile.TarInfo:
    return member


def _check(member: tarfile.TarInfo, no_overwrite: bool) -> None:
    # Links may lead anywhere: "anywhere" ends at the container's root, which is ours here.
    member.name = posixpath.normpath(posixpath.join("/", member.name)).lstrip("/") or "."
    if no_overwrite and os.path.lexists(member.name):
        there = os.path.isdir(member.name) and not os.path.islink(member.name)
        if there != member.isdir():
            raise Refusal("invalid-parameter", f"cannot overwrite {'' if there else 'non-'}directory {member.name!r}")


def _restore_attributes(member: tarfile.TarInfo) -> None:
    for key, value in member.pax_headers.items():
        name = key.removeprefix("SCHILY.xattr.")
        if name != key and not name.startswith("trusted.overlay."):
            try:
                os.setxattr(member.name, name, value.encode("utf-8", "surrogateescape"), follow_symlinks=False)
            except OSError as err:
                if err.errno not in (errno.EOPNOTSUPP, errno.EPERM):
                    raise


def main(arguments: list[str]) -> int:
    """Do what the command line says."""
    fd, verb, path, *flags = arguments
    "".encode("idna")  # loads the codec that tarfile and others may want, while that is possible
    os.fchdir(int(fd))
    os.chroot(".")
    os.chdir("/")
    os.umask(0)
    path = posixpath.join("/", path)
    try:
        if verb == "put":
            receive(path, sys.stdin.buffer, no_overwrite="--no-overwrite" in flags, copy_owner="--copy-owner" in flags)
        else:
            facts = describe(path)
            sys.stdout.buffer.write(json.dumps(facts).encode() + b"\n")
            sys.stdout.buffer.flush()
            if verb == "get":
                send(path, sys.stdout.buffer)
            elif verb == "export":
                export(sys.stdout.buffer)
            sys.stdout.buffer.flush()
    except Refusal as err:
        print(json.dumps({"kind": err.kind, "what": str(err)}), file=sys.stderr)
        return 1
    except BrokenPipeError:
        return 1
    except OSError as err:
        kind = "forbidden" if err.errno in (errno.EPERM, errno.EACCES, errno.EROFS) else "internal"
        print(json.dumps({"kind": kind, "what": f"{err.filename or path}: {err.strerror or err}"}), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
