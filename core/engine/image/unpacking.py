"""Has a process of its own unpack a layer: see `engine.image.unpack_child`."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from engine.image.compression import CHUNK, Readable
from engine.image.unpack_child import CPU_SECONDS
from engine.spec.errors import InvalidParameter, Unavailable

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class Unpacked(NamedTuple):
    """What a layer came to."""

    size: int
    """Bytes of its regular files."""
    tar_size: int
    """Bytes of the plain tar."""
    diff_id: str
    """The digest of the plain tar."""


def unpack_apart(blob: Readable, directory: Path) -> Unpacked:
    """Unpack a layer's blob into an empty directory.

    Raises InvalidParameter for a damaged or hostile layer (the blob may not be read to its end then), OSError for what
    the host cannot do (no space), Unavailable when the process was killed. The directory is to be thrown away then.
    """
    process = _start(directory)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        with contextlib.suppress(BrokenPipeError):  # it refuses the layer: its answer says why
            while data := blob.read(CHUNK):
                process.stdin.write(data)
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        answer = process.stdout.read()
        process.wait()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        process.stdout.close()
    return _unpacked(answer, process.returncode)


def _start(directory: Path) -> subprocess.Popen[bytes]:
    fd = os.open(directory, _DIRECTORY)
    try:
        process = subprocess.Popen(
            [sys.executable, "-I", "-m", "engine.image.unpack_child", str(fd), str(CPU_SECONDS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=(fd,),
        )
    finally:
        os.close(fd)
    assert process.stdin is not None
    with contextlib.suppress(OSError):  # the user's share of pipe buffers is used up: slower, and well
        fcntl.fcntl(process.stdin, fcntl.F_SETPIPE_SZ, 4 * CHUNK)
    return process


def _unpacked(answer: bytes, code: int) -> Unpacked:
    if code == -signal.SIGXCPU:
        raise InvalidParameter("the layer cannot be unpacked", why="it takes more processor time than a layer may")
    if code != 0:
        why = f"the process that did it ended with {code}"
        raise Unavailable("the layer was not unpacked", why=why, hint="Try again")
    found: dict[str, Any] = json.loads(answer)
    if "refused" in found:
        raise InvalidParameter(**found["refused"])
    if "errno" in found:
        raise OSError(found["errno"], os.strerror(found["errno"]))
    return Unpacked(**found)
