"""The daemon that a command starts when none answers at the default host: it stops by itself when idle and empty."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from engine.cli.errors import Failure
from engine.cli.transport import Endpoint
from engine.daemon_options import DEFAULT_DATA_ROOT, DEFAULT_EXEC_ROOT, DaemonOptions

IDLE_SECONDS = 60
START_SECONDS = 30.0
_LOG_LINES = 15


def answers(path: str) -> bool:
    """Whether somebody listens on a Unix socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(5)
        try:
            sock.connect(path)
        except OSError as err:
            # no permission and a full backlog mean that somebody is there
            return err.errno in (errno.EACCES, errno.EPERM, errno.EAGAIN)
    return True


def ensure_daemon(
    endpoint: Endpoint,
    *,
    data_root: Path = DEFAULT_DATA_ROOT,
    exec_root: Path = DEFAULT_EXEC_ROOT,
    seconds: float = START_SECONDS,
) -> None:
    """Start a daemon unless one answers, and wait until it does. Raises Failure with the end of its log."""
    if not endpoint.path or answers(endpoint.path):
        return
    if os.geteuid() != 0:
        raise Failure(
            f"no daemon answers at {endpoint.host}, and only root can start one: use sudo, or --host for another one"
        )
    try:
        data_root.mkdir(parents=True, exist_ok=True, mode=0o700)
        exec_root.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as err:
        raise Failure(f"cannot start the daemon: {err}") from err
    with _alone(exec_root / "start.lock", seconds):
        if answers(endpoint.path):  # another command started it meanwhile
            return
        log = data_root / "daemon.log"
        offset = log.stat().st_size if log.exists() else 0
        process = _spawn(endpoint, data_root, exec_root, log)
        _wait_until_ready(endpoint.path, process, log, offset, seconds)


@contextlib.contextmanager
def _alone(path: Path, seconds: float) -> Iterator[None]:
    """Hold a lock file, so that commands that start at the same time start one daemon."""
    deadline = time.monotonic() + seconds
    with path.open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise Failure(f"another command has been starting the daemon for {seconds:.0f} s: {path}") from None
                time.sleep(0.02)
        yield


def daemon_command(endpoint: Endpoint, data_root: Path, exec_root: Path) -> list[str]:
    """Return the command line of the daemon: not `engine daemon`, whose imports would cost 150 ms more."""
    options = DaemonOptions(
        hosts=(endpoint.host,), data_root=data_root, exec_root=exec_root, idle_exit=float(IDLE_SECONDS)
    )
    return [sys.executable, "-I", "-m", "engine.daemon", options.to_json()]


def _spawn(endpoint: Endpoint, data_root: Path, exec_root: Path, log: Path) -> int:
    """Start the daemon in a session of its own, orphaned; return a pidfd of it."""
    command = daemon_command(endpoint, data_root, exec_root)
    reading, writing = os.pipe()
    first = os.fork()
    if first == 0:
        try:
            os.close(reading)
            os.setsid()
            second = os.fork()
            if second:
                os.write(writing, str(second).encode())
                os._exit(0)
            null = os.open(os.devnull, os.O_RDONLY)
            out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            os.dup2(null, 0)
            os.dup2(out, 1)
            os.dup2(out, 2)
            os.closerange(3, 1024)
            os.umask(0o022)
            os.chdir("/")
            os.execv(command[0], command)
        finally:
            os._exit(127)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    os.waitpid(first, 0)
    if not text:
        raise Failure("cannot start the daemon: fork failed")
    try:
        return os.pidfd_open(int(text))
    except OSError as err:
        raise Failure(f"the daemon ended at once. Its log, {log}:{_tail(log, 0)}") from err


def _wait_until_ready(path: str, process: int, log: Path, offset: int, seconds: float) -> None:
    import select

    deadline = time.monotonic() + seconds
    try:
        poller = select.poll()
        poller.register(process, select.POLLIN)
        while not answers(path):
            if poller.poll(10):
                raise Failure(f"the daemon could not start. The end of its log, {log}:{_tail(log, offset)}")
            if time.monotonic() > deadline:
                raise Failure(f"the daemon does not answer after {seconds:.0f} s. Its log, {log}:{_tail(log, offset)}")
    finally:
        os.close(process)


def _tail(log: Path, offset: int) -> str:
    """Return the last lines that were written since an offset, each on a line of its own."""
    try:
        with log.open("rb") as file:
            file.seek(offset)
            lines = file.read().decode(errors="replace").splitlines()
    except OSError as err:
        return f" (cannot be read: {err.strerror})"
    return "".join(f"\n  {line}" for line in lines[-_LOG_LINES:]) or " (empty)"
