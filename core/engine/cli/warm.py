"""The warm command line: a process with everything imported, which forks for each command of the fast path.

Started by the daemon: `python -I -m engine.cli.warm SOCKET HOST`, its stdin a pipe from the daemon. It is
single-threaded, so that forking is safe; its children run commands with the caller's descriptors, directory,
environment and umask (its limits and cgroup are the daemon's). It ends when the pipe closes or its parent ends.

One child is always forked ahead and has touched the memory that parsing touches: fork, page faults and the end of a
process cost 5 ms together, which a command need not wait for.
"""

from __future__ import annotations

import array
import gc
import http.client
import importlib.metadata
import io
import os
import selectors
import signal
import socket
import struct
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import typer

from engine.cli import VERSION, world
from engine.cli.app import build, run_command

_MAX_REQUEST = 1 << 20
_STUB_DESCRIPTORS = 4
"""stdin, stdout, stderr, working directory."""
_CREDENTIALS = struct.Struct("3i")
_REFILL_SECONDS = 0.03
"""The next child is forked when a command has ended, not to take a processor from it, or after this time."""
_REHEARSED = (("ps", "-a"), ("run", "--rm", "-e", "A=b", "image", "true"))


@dataclass
class Request:
    """A command as the stub sent it."""

    host: str
    world: str
    umask: int
    arguments: list[str]
    environment: dict[str, str]

    @classmethod
    def parse(cls, data: bytes) -> Request | None:
        """Parse a message; None if it is not of this version or not whole."""
        fields = os.fsdecode(data).split("\0")
        if len(fields) < 5 or fields[0] != VERSION:
            return None
        _, host, world, umask, count, *rest = fields
        if not umask.isdecimal() or not count.isdecimal():
            return None
        arguments, environment = rest[: int(count)], rest[int(count) :]
        pairs = (text.partition("=") for text in environment)
        return cls(host, world, int(umask), arguments, {k: v for k, _, v in pairs if k})


def _receive(connection: socket.socket, count: int) -> tuple[bytes, list[int]]:
    """Return a message and its descriptors; an empty message if it is cut or has another number of descriptors."""
    size = array.array("i", [0]).itemsize * count
    data, ancillary, flags, _ = connection.recvmsg(_MAX_REQUEST, socket.CMSG_SPACE(size), socket.MSG_CMSG_CLOEXEC)
    descriptors = array.array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(content[: len(content) - len(content) % descriptors.itemsize])
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC) or len(descriptors) != count:
        _close(descriptors)
        return b"", []
    return data, list(descriptors)


def _close(descriptors: Sequence[int]) -> None:
    for fd in descriptors:
        os.close(fd)


def _peer_uid(connection: socket.socket) -> int:
    """Return the user of the other end (SO_PEERCRED: pid, uid, gid)."""
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(data)[1])


class Child:
    """A forked process that waits for a command, and runs it."""

    def __init__(self, command: Any, *, ahead: bool) -> None:
        """Fork; `ahead` of time it rehearses, which takes longer than it saves when a command waits already."""
        self._command, self._ahead = command, ahead
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.pid = os.fork()
        if self.pid == 0:
            self._channel.close()
            self._live(theirs)
        theirs.close()
        self.pidfd = os.pidfd_open(self.pid)

    def give(self, data: bytes, descriptors: Sequence[int]) -> None:
        """Let it run a command: the stub's message, its descriptors and its connection. OSError if it was killed."""
        with self._channel:
            socket.send_fds(self._channel, [data], descriptors)

    def end(self) -> int:
        """Reap it; return its exit code, 128 and more for a signal."""
        os.close(self.pidfd)
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return code if code >= 0 else 128 - code

    def _live(self, channel: socket.socket) -> NoReturn:
        """Wait for the command, run it, and tell the stub the exit code before the slow end of a process."""
        code = 125
        try:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            if self._ahead:
                rehearse(self._command)
            data, descriptors = _receive(channel, _STUB_DESCRIPTORS + 1)
            request = Request.parse(data)
            if request is None:
                os._exit(code)  # the server has ended
            stub = os.fdopen(_rearrange(descriptors), "wb", 0)
            stub.write(b"taken")  # from here on the stub does not run it itself
            code = self._run(request)
            stub.write(b"exit %d" % code)
        except OSError:
            pass  # the stub has ended: nobody wants the code
        finally:
            os._exit(code)

    def _run(self, request: Request) -> int:
        try:
            _become(request)
            code = run_command(self._command, request.arguments)
        except SystemExit as err:
            code = err.code if isinstance(err.code, int) else 1
        except KeyboardInterrupt:
            code = 130
        except BaseException:  # noqa: BLE001 - the last frame of a process: report, then exit
            traceback.print_exc()
            code = 125
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except OSError:
                pass  # who read it has gone
        return code


def _rearrange(descriptors: Sequence[int]) -> int:
    """Make the caller's descriptors ours and close all others; return the connection to the stub."""
    *standard, directory, stub = descriptors
    for number, fd in enumerate(standard):
        os.dup2(fd, number)
    os.fchdir(directory)
    os.dup2(stub, 3, inheritable=False)
    os.closerange(4, max(descriptors) + 64)
    return 3


def _become(request: Request) -> None:
    """Take over the caller's umask, environment and standard streams."""
    os.umask(request.umask)
    os.environ.clear()
    os.environ.update(request.environment)
    time.tzset()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["engine", *request.arguments]
    sys.stdin = open(0, encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)  # noqa: SIM115


class Server:
    """Accepts stubs, gives their commands to children, passes signals on, reports their ends."""

    def __init__(self, listener: socket.socket, host: str, command: Any) -> None:
        self._host, self._command = host, command
        self._world = world()
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ, self._accept)
        self._spare: Child | None = Child(command, ahead=True)
        self._running: dict[Child, socket.socket] = {}

    def serve(self, *ends: int) -> None:
        """Serve until one of the descriptors is readable."""
        for fd in ends:
            self._selector.register(fd, selectors.EVENT_READ, None)
        while True:
            ready = self._selector.select(None if self._spare else _REFILL_SECONDS)
            if not ready:
                self._spare = Child(self._command, ahead=True)
            for key, _ in ready:
                if key.data is None:
                    return
                key.data(key.fileobj)

    def _accept(self, listener: socket.socket) -> None:
        connection, _ = listener.accept()
        connection.settimeout(5)
        if _peer_uid(connection) != os.geteuid():
            connection.close()
            return
        self._selector.register(connection, selectors.EVENT_READ, self._begin)

    def _begin(self, connection: socket.socket) -> None:
        """Give a command to the spare child, or refuse it."""
        self._selector.unregister(connection)
        try:
            data, descriptors = _receive(connection, _STUB_DESCRIPTORS)
            request = Request.parse(data)
            if request is None or request.host != self._host or request.world != self._world:
                _close(descriptors)
                connection.send(b"refused")
                connection.close()
                return
            try:
                child = self._give(data, [*descriptors, connection.fileno()])
            finally:
                _close(descriptors)
            self._watch(child, connection)
        except OSError:
            connection.close()  # the stub has ended, or there is no memory for a child: then it runs the command itself

    def _give(self, data: bytes, descriptors: Sequence[int]) -> Child:
        """Give a command to the child that is ahead, or to a new one if there is none or it was killed."""
        spare, self._spare = self._spare, None
        if spare is not None:
            try:
                spare.give(data, descriptors)
                return spare
            except OSError:
                spare.end()
        child = Child(self._command, ahead=False)
        child.give(data, descriptors)
        return child

    def _watch(self, child: Child, connection: socket.socket) -> None:
        self._running[child] = connection
        self._selector.register(child.pidfd, selectors.EVENT_READ, lambda _: self._ended(child))
        self._selector.register(connection, selectors.EVENT_READ, lambda _: self._message(child))

    def _message(self, child: Child) -> None:
        """Deliver a signal; a stub that went away takes its command with it."""
        connection = self._running.get(child)
        if connection is None:
            return  # both ended at once, and the command's end was seen first
        try:
            word, _, number = connection.recv(64).partition(b" ")
        except OSError:
            word, number = b"", b""
        if word != b"signal" or not number.isdigit():
            self._selector.unregister(connection)
            number = b"%d" % signal.SIGKILL
        try:
            signal.pidfd_send_signal(child.pidfd, int(number))
        except OSError:
            pass  # it ended at the same moment, which `_ended` sees

    def _ended(self, child: Child) -> None:
        """Tell the stub the exit code, in case the command was killed before it could."""
        connection = self._running.pop(child)
        self._selector.unregister(child.pidfd)
        code = child.end()
        try:
            self._selector.unregister(connection)
            connection.send(b"exit %d" % code)
        except (OSError, KeyError):
            pass  # the stub has its code already, or was killed
        connection.close()
        if self._spare is None:
            self._spare = Child(self._command, ahead=True)


def rehearse(command: Any) -> None:
    """Parse a few command lines and an answer's head, which touches the memory that real ones will need."""
    for name, *arguments in _REHEARSED:
        command.commands[name].make_context(name, arguments)
    http.client.parse_headers(io.BytesIO(b"Content-Type: application/json\r\n\r\n"))


def _prepare(command: Any) -> None:
    """Do once what commands do on first use, and keep the collector away from what children share."""
    _build_coercions(command)
    rehearse(command)
    importlib.metadata.version("pluggable-engine")
    gc.collect()
    gc.freeze()


def _build_coercions(command: Any) -> None:
    """Build the pydantic adapter of every flag, which Typer does on first use (3 ms of a command)."""
    for parameter in command.params:
        build_adapter = getattr(parameter, "get_runtime_param", None)
        if build_adapter is not None:
            build_adapter()
    for child in getattr(command, "commands", {}).values():
        _build_coercions(child)


def _listen(path: Path) -> socket.socket:
    """Listen at a path that only our user may connect to. It appears when we listen; a killed server's is replaced."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    before = os.umask(0o177)
    try:
        listener.bind(str(new))
    finally:
        os.umask(before)
    listener.listen(64)
    new.rename(path)
    return listener


def main() -> int:
    """Serve until the daemon, our parent, ends or closes our stdin."""
    path, host = Path(sys.argv[1]), sys.argv[2].removeprefix("unix://")
    parent = os.pidfd_open(os.getppid())

    def end(_number: int, _frame: FrameType | None) -> None:
        path.unlink(missing_ok=True)
        os._exit(0)

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    command = typer.main.get_command(build())
    _prepare(command)
    try:
        Server(_listen(path), host, command).serve(0, parent)
    finally:
        path.unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
