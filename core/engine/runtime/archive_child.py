"""A process of its own that reads or writes files of a container from inside of its root.

It changes its root directory to that of the container, and gives up all rights but those to files, before it touches a
path: no symbolic link can lead out, whatever changes meanwhile. Run as
`python -I -m engine.runtime.archive_child FD VERB PATH [FLAG...]`: FD is an open directory, VERB stat, get, export or
put. `get` and `export` write a line of JSON (the stat) and then a tar to standard output; `put` reads a tar from
standard input. Errors are one line of JSON on standard error, `{"kind", "what"}`, and exit code 1.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import posixpath
import stat
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from engine import treewalk
from engine.runtime import confinement
from engine.runtime.archive_in import receive
from engine.runtime.refusal import Refusal
from engine.treetar import TreeTar

_FIRST_SECOND, _LAST_SECOND = -62135596800, 253402300799
"""The years 1 to 9999, which a time of the API can say; a file can have others."""
_GO_MODES = (
    (stat.S_ISDIR, 1 << 31), (stat.S_ISLNK, 1 << 27), (stat.S_ISBLK, 1 << 26), (stat.S_ISCHR, 1 << 26 | 1 << 21),
    (stat.S_ISFIFO, 1 << 25), (stat.S_ISSOCK, 1 << 24),
)  # fmt: skip
"""Type bits of Go's os.FileMode, in which the API gives modes."""
_KINDS = {
    **dict.fromkeys((errno.EPERM, errno.EACCES, errno.EROFS), "forbidden"),
    errno.ENOENT: "not-found",
    **dict.fromkeys(
        (errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EINVAL), "invalid-parameter"
    ),
}
"""What kind of error is a failure that lies in what was asked for; all others are the engine's or the disk's."""
_GO_BITS = ((stat.S_ISUID, 1 << 23), (stat.S_ISGID, 1 << 22), (stat.S_ISVTX, 1 << 20))


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
    moment = datetime.fromtimestamp(min(max(found.st_mtime, _FIRST_SECOND), _LAST_SECOND), UTC)
    return {
        "name": posixpath.basename(clean) or "/",
        "size": found.st_size,
        "mode": go_mode(found.st_mode),
        "mtime": moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "linkTarget": target,
    }


def send(path: str, tar: TreeTar) -> None:
    """Write a tar of a path; a path that ends in `/.` gives the directory's content, named from `.`."""
    name = posixpath.basename(path) or posixpath.basename(path.rstrip("/")) or "."
    source = os.path.realpath(path) if path.endswith(("/", "/.")) else path
    directory, base = posixpath.split(source)
    with _opened(directory or "/") as parent:
        try:
            facts = os.lstat(base or ".", dir_fd=parent)
        except FileNotFoundError:
            return  # it went while we read
        tar.add(treewalk.Entry(parent, base or ".", facts, ()), name)
        if stat.S_ISDIR(facts.st_mode):
            with _opened(base or ".", os.O_NOFOLLOW, parent) as root:
                _send_below(root, name, tar)


def export(tar: TreeTar) -> None:
    """Write a tar of everything below the root, with bare names (`etc/passwd`), as Docker's export."""
    with _opened("/") as root:
        _send_below(root, "", tar)


def _send_below(root: int, name: str, tar: TreeTar) -> None:
    for entry in treewalk.walk(root, cross_mounts=True):
        tar.add(entry, posixpath.join(name, entry.path))


@contextlib.contextmanager
def _opened(path: str, flags: int = 0, at: int | None = None) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | flags, dir_fd=at)
    try:
        yield fd
    finally:
        os.close(fd)


def main(arguments: list[str]) -> int:
    """Do what the command line says."""
    fd, verb, path, *flags = arguments
    path = posixpath.join("/", path)
    out = sys.stdout.buffer
    tar = TreeTar(out) if verb in ("get", "export") else None
    try:
        confinement.enter(int(fd))
        if verb == "put":
            receive(path, sys.stdin.buffer, no_overwrite="--no-overwrite" in flags, copy_owner="--copy-owner" in flags)
            return 0
        out.write(json.dumps(describe(path)).encode() + b"\n")
        out.flush()
        if tar is not None:
            send(path, tar) if verb == "get" else export(tar)
            tar.close()
        out.flush()
    except Refusal as err:
        print(json.dumps({"kind": err.kind, "what": str(err)}), file=sys.stderr)
        return 1
    except BrokenPipeError:
        return 1
    except OSError as err:
        kind = _KINDS.get(err.errno or 0, "internal")
        print(json.dumps({"kind": kind, "what": f"{err.filename or path}: {err.strerror or err}"}), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
