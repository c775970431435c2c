"""The conversation with a container: standard streams over a hijacked connection, signals, window size, detaching.

Framing (Docker Engine API, "Stream format"): with a terminal the bytes are raw; without, each frame is a byte that
names the stream (1 stdout, 2 stderr), three zero bytes, the length as 32 bits big-endian, and the data.
"""

from __future__ import annotations

import os
import select
import signal
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType

from engine.cli.client import Hijacked
from engine.cli.errors import Failure
from engine.cli.terminal import DetachKeys, is_terminal, raw_mode, window_size

_HEADER = struct.Struct(">BxxxI")
_HIGH_WATER = 256 * 1024
NOT_PROXIED = {
    signal.SIGCHLD, signal.SIGPIPE, signal.SIGURG, signal.SIGWINCH, signal.SIGKILL, signal.SIGSTOP, signal.SIGTSTP,
    signal.SIGTTIN, signal.SIGTTOU, signal.SIGCONT, signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL,
    signal.SIGABRT, signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF, signal.SIGTRAP, signal.SIGSYS,
}  # fmt: skip
ENDING = ("SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM")
"""Signals by which somebody wants us to end."""
PATIENCE_SECONDS = 2.0
"""After which somebody at a terminal is told what we wait for."""


class Detached(Exception):
    """The detach keys were typed."""


class Demultiplexer:
    """Splits frames of any fragmentation into (stream, data)."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._stream, self._left = 0, 0

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Yield what the data completes; a frame's data is passed on as it comes. Raises Failure on a broken frame."""
        self._buffer += data
        while True:
            if self._left:
                part = bytes(self._buffer[: self._left])
                if not part:
                    return
                del self._buffer[: len(part)]
                self._left -= len(part)
                yield self._stream, part
            elif len(self._buffer) >= _HEADER.size:
                self._stream, self._left = _HEADER.unpack_from(self._buffer)
                del self._buffer[: _HEADER.size]
                if self._stream > 3:
                    raise Failure(f"the daemon sent a broken stream (type {self._stream})")
            else:
                return


def write_output(stream: int, data: bytes) -> None:
    """Write a frame's data to our stdout or stderr; stream 3 is an error of the daemon."""
    if stream == 3:
        raise Failure(data.decode(errors="replace").strip())
    fd = 2 if stream == 2 else 1
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:  # somebody made our stdout non-blocking (a shared terminal)
            select.select((), (fd,), ())


def copy_output(chunks: Iterator[bytes], *, raw: bool) -> None:
    """Copy a response body that has the stream format (logs) to stdout and stderr."""
    frames = Demultiplexer()
    for chunk in chunks:
        if raw:
            write_output(1, chunk)
        else:
            for stream, data in frames.feed(chunk):
                write_output(stream, data)


class Conversation:
    """Joins our standard streams with a container's, until it ends or the user detaches."""

    def __init__(self, connection: Hijacked, *, tty: bool, stdin: bool, detach_keys: bytes = b"") -> None:
        self._wire, self._received = connection.wire, connection.received
        self._raw = tty
        self._frames = Demultiplexer()
        self._stdin = 0 if stdin else None
        self._keys = DetachKeys(detach_keys if stdin and is_terminal(0) else b"")
        self._typed = bytearray()
        self._sending_ends = False

    def run(self) -> None:
        """Copy until the container's side closes. Raises Detached."""
        try:
            if self._stdin is None:
                self._end_sending()
            if self._received:
                self._output(self._received)
            self._pump()
        finally:
            self._wire.close()

    def _pump(self) -> None:
        wire = self._wire.fileno()
        while True:
            poller = select.poll()
            poller.register(wire, select.POLLIN | (select.POLLOUT if self._typed else 0))
            if self._stdin is not None and len(self._typed) < _HIGH_WATER:
                poller.register(self._stdin, select.POLLIN)
            ready = dict(poller.poll(0 if self._wire.pending() else None))
            if ready.get(wire, 0) & select.POLLOUT:
                self._send()
            if self._wire.pending() or ready.get(wire, 0) & (select.POLLIN | select.POLLHUP | select.POLLERR):
                data = self._receive()
                if not data:
                    return
                self._output(data)
            if self._stdin is not None and self._stdin in ready:
                self._read_stdin(self._stdin)

    def _receive(self) -> bytes:
        try:
            return self._wire.recv(65536)
        except ConnectionResetError:
            return b""

    def _output(self, data: bytes) -> None:
        if self._raw:
            write_output(1, data)
        else:
            for stream, part in self._frames.feed(data):
                write_output(stream, part)

    def _read_stdin(self, fd: int) -> None:
        try:
            data = os.read(fd, 65536)
        except BlockingIOError:
            return
        except OSError:  # the terminal is gone (EIO), or our stdin was closed before we started (EBADF)
            data = b""
        if not data:
            self._stdin = None
            self._sending_ends = True
            if not self._typed:
                self._end_sending()
            return
        passed, detach = self._keys.feed(data)
        self._typed += passed
        if detach:
            while self._typed:  # what was typed before the keys is for the container
                self._send()
            raise Detached

    def _send(self) -> None:
        part = bytes(self._typed[:16384])
        try:
            self._wire.sendall(part)
        except (BrokenPipeError, ConnectionResetError):
            self._stdin, self._typed = None, bytearray()  # the container no longer reads; its output may still come
            return
        del self._typed[: len(part)]
        if not self._typed and self._sending_ends:
            self._end_sending()

    def _end_sending(self) -> None:
        try:
            self._wire.end_sending()
        except OSError:
            pass  # the peer closed first: reading will say so


@contextmanager
def terminal_session(resize: Callable[[int, int], None] | None, *, raw: bool) -> Iterator[None]:
    """Raw mode on stdin (if `raw` and it is a terminal), and the window size now and whenever it changes.

    `resize(rows, columns)` is called in the main thread; its failures do not end the session.
    """
    with ExitStack() as stack:
        if resize is not None:
            stack.enter_context(_window_changes(resize))
        if raw and is_terminal(0):
            stack.enter_context(raw_mode(0))
        yield


@contextmanager
def _window_changes(resize: Callable[[int, int], None]) -> Iterator[None]:
    def tell(_signal: int = 0, _frame: FrameType | None = None) -> None:
        rows, columns = window_size(1 if is_terminal(1) else 0)
        if rows and columns:
            try:
                resize(rows, columns)
            except Failure:
                pass  # the container ended, or has not started yet: the next change tells it

    before = signal.signal(signal.SIGWINCH, tell)
    try:
        tell()
        yield
    finally:
        signal.signal(signal.SIGWINCH, before)


@contextmanager
def proxied_signals(kill: Callable[[str], None] | None) -> Iterator[None]:
    """Pass signals that reach us on to the container: `kill("SIGTERM")`. None: they do to us what they always do."""
    if kill is None:
        yield
        return

    def forward(number: int, _frame: FrameType | None) -> None:
        try:
            kill(signal.Signals(number).name)
        except Failure:
            pass  # the container has ended: its exit code follows

    chosen = [s for s in signal.valid_signals() if isinstance(s, signal.Signals) and s not in NOT_PROXIED]
    before = {number: signal.signal(number, forward) for number in chosen}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def announced(text: str) -> Iterator[None]:
    """Tell somebody at a terminal what we wait for, if it takes long."""
    if not is_terminal(2):
        yield
        return

    def tell(_number: int, _frame: FrameType | None) -> None:
        os.write(2, f"engine: {text}\n".encode())

    before = signal.signal(signal.SIGALRM, tell)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
