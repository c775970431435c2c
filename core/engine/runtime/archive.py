"""Files of a container, in and out: each transfer is a process of its own whose root is the container's."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import IO, Any, Protocol

from engine.spec.errors import EngineError, Forbidden, Internal, InvalidParameter, NotFound

_KINDS: dict[str, type[EngineError]] = {kind.kind: kind for kind in (NotFound, InvalidParameter, Forbidden, Internal)}
_CHUNK = 1 << 16
_END_SECONDS = 10.0


class Readable(Protocol):
    """A stream of bytes."""

    def read(self, size: int = -1, /) -> bytes:
        """Return at most `size` bytes, empty at the end."""


class Transfer:
    """A tar that comes out of a container; `facts` is the stat of what is in it."""

    def __init__(self, process: subprocess.Popen[bytes], facts: dict[str, Any]) -> None:
        self.facts = facts
        self._process = process
        assert process.stdout is not None
        self._out: IO[bytes] = process.stdout

    def read(self, size: int = -1, /) -> bytes:
        """Return at most `size` bytes; empty at the end. Raises OSError if the transfer broke off."""
        data = self._out.read(size)
        if not data and size != 0:
            code = self._process.wait(_END_SECONDS)
            if code > 0:
                raise OSError(str(_error(self._process)))
        return data

    def close(self) -> None:
        """End it, also in the middle."""
        self._out.close()
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait(_END_SECONDS)
        if self._process.stderr is not None:
            self._process.stderr.close()


def stat(root: Path, path: str) -> dict[str, Any]:
    """Return the API's stat of a path below a root. Raises NotFound, InvalidParameter."""
    transfer = _read(root, "stat", path)
    transfer.close()
    return transfer.facts


def get(root: Path, path: str) -> Transfer:
    """Return a tar of a path below a root. Raises NotFound, InvalidParameter."""
    return _read(root, "get", path)


def export(root: Path) -> Transfer:
    """Return a tar of everything below a root, with names that begin there (`etc/passwd`)."""
    return _read(root, "export", "/")


def put(root: Path, path: str, archive: Readable, *, no_overwrite: bool = False, copy_owner: bool = False) -> None:
    """Unpack a tar into a directory below a root; `copy_owner` gives its files the directory's owner.

    Raises NotFound or InvalidParameter for the directory or the archive, Forbidden where it is read-only.
    """
    flags = ["--no-overwrite"] * no_overwrite + ["--copy-owner"] * copy_owner
    process = _spawn(root, "put", path, flags, stdin=subprocess.PIPE)
    assert process.stdin is not None
    try:
        with contextlib.suppress(BrokenPipeError):  # it has refused: the reason is on its standard error
            while data := archive.read(_CHUNK):
                process.stdin.write(data)
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        if process.wait() != 0:
            raise _error(process)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(_END_SECONDS)
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


def _read(root: Path, verb: str, path: str) -> Transfer:
    process = _spawn(root, verb, path, [], stdin=subprocess.DEVNULL)
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        process.wait(_END_SECONDS)
        error = _error(process)
        Transfer(process, {}).close()
        raise error
    return Transfer(process, json.loads(line))


def _spawn(root: Path, verb: str, path: str, flags: list[str], stdin: int) -> subprocess.Popen[bytes]:
    if "\0" in path:
        raise InvalidParameter("a path must not contain a NUL byte")
    fd = os.open(root, os.O_PATH | os.O_DIRECTORY)
    try:
        return subprocess.Popen(
            [sys.executable, "-I", "-m", "engine.runtime.archive_child", str(fd), verb, path, *flags],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=(fd,),
        )
    finally:
        os.close(fd)


def _error(process: subprocess.Popen[bytes]) -> EngineError:
    assert process.stderr is not None
    text = process.stderr.read().decode("utf-8", "replace").strip()
    try:
        report = json.loads(text.splitlines()[-1])
        return _KINDS.get(report["kind"], Internal)(report["what"])
    except (IndexError, ValueError, KeyError):
        return Internal("copying files of the container failed", why=text or f"exit code {process.returncode}")
