"""The program gocryptfs: makes a directory of encrypted files, and serves the plain view of it.

It gets its key by its standard input, from memory that no other process sees. It leaves its caller's session by itself,
and its first process ends when the mount is ready: a mount that is only seen in mountinfo may not be used yet. Its own
scrypt need not be slow, because what it gets is a random key. Source: gocryptfs(1).
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from hmac import digest
from pathlib import Path

from engine.spec.encryption import GocryptMount, GocryptStore
from engine.spec.errors import Forbidden, Unsupported
from engine.treewalk import remove_tree

DEADLINE = 30.0
"""Seconds that the program has to be ready."""
ANSWER_DEADLINE = 5.0
"""Seconds after which a mount that does not answer counts as slow."""
_FLAGS = frozenset({"ro", "nosuid", "nodev", "noexec"})
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_REASONS = {
    6: "the directory of encrypted files cannot be used",
    10: "the mount point cannot be used",
    14: "the master key could not be opened",
    19: "FUSE cannot be used: is /dev/fuse there?",
    23: "gocryptfs.conf cannot be opened",
}
CONFIG = "gocryptfs.conf"
"""The file of a store that wraps its master key."""


def password_of(secret: bytes) -> bytes:
    """Return the password of a store: derived from the volume's key, as text of one line."""
    return digest(secret, b"engine gocryptfs password 1", hashlib.sha256).hex().encode()


def make_store(resource: GocryptStore, secret: bytes) -> None:
    """Make the directory of encrypted files. Raises OSError, Unsupported."""
    path = Path(resource.path)
    path.mkdir(mode=0o700)
    try:
        _run(["-init", "-scryptn", "10", "-nosyslog", resource.path], password_of(secret), resource.path, log=None)
    except BaseException:
        remove_tree(path)
        raise


def serve(resource: GocryptMount, target: str, secret: bytes) -> None:
    """Mount the plain view on `target`, and return when it is ready. Raises OSError, Forbidden, Unsupported."""
    if not (Path(resource.store) / CONFIG).is_file():
        raise FileNotFoundError(errno.ENOENT, "the encrypted files are missing", resource.store)
    flags = [f"-{option}" for option in resource.options if option in _FLAGS]
    others = [option for option in resource.options if option not in _FLAGS]
    options = [*flags, *(["-ko", ",".join(others)] if others else []), "-allow_other", "-acl", "-nosyslog"]
    log = f"{resource.store}.log"
    _run([*options, resource.store, target], password_of(secret), resource.store, log=log)


def _run(arguments: Sequence[str], password: bytes, what: str, *, log: str | None) -> None:
    """Run the program until it says that it is ready. What it writes goes to a file: it may outlive this process."""
    program = shutil.which("gocryptfs", path=_PATH)
    if program is None:
        raise Unsupported("gocryptfs is not installed", hint="Install the package gocryptfs")
    flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    output = os.memfd_create("gocryptfs-log") if log is None else os.open(log, flags, 0o600)
    key = os.memfd_create("gocryptfs-key")
    try:
        os.write(key, password + b"\n")
        os.lseek(key, 0, os.SEEK_SET)
        process = subprocess.Popen(
            [program, *arguments], stdin=key, stdout=output, stderr=output, cwd="/", env={"PATH": _PATH},
            start_new_session=True,
        )  # fmt: skip
        try:
            code = process.wait(DEADLINE)
        except subprocess.TimeoutExpired as err:
            process.kill()
            process.wait()
            raise TimeoutError(errno.ETIMEDOUT, f"gocryptfs was not ready within {DEADLINE:g} seconds", what) from err
        if code == 12:
            raise Forbidden(
                "the volume's key is wrong", why="it does not open gocryptfs.conf", hint="Nothing was changed"
            )
        if code != 0:
            said = os.pread(output, 1 << 16, 0).decode(errors="replace").strip()[-300:]
            raise OSError(errno.EIO, f"gocryptfs failed ({code}): {_REASONS.get(code, said)}", what)
    finally:
        os.close(key)
        os.close(output)


def is_dead(target: str) -> bool:
    """Tell whether a mount's process is gone: the kernel then answers everything with ENOTCONN.

    Asked in a process of its own, which is left alone if it hangs in the file system: it could not be waited for.
    """
    process = subprocess.Popen(
        ["/usr/bin/stat", "--file-system", "--format=%T", target], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True, env={"LC_ALL": "C"},
    )  # fmt: skip
    assert process.stderr is not None
    with process.stderr:
        try:
            return process.wait(ANSWER_DEADLINE) != 0 and os.strerror(errno.ENOTCONN) in process.stderr.read()
        except subprocess.TimeoutExpired:
            process.kill()
            return False  # alive and slow: not ours to take away
