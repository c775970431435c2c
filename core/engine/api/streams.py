"""A container's streams: docker's frames, and the pump between a client and the monitor's socket."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from concurrent.futures import Future
from typing import Protocol

from engine.api.detach import DEFAULT_KEYS, KeySequence

STDOUT, STDERR = 1, 2
_MESSAGE = 1 << 16
"""More than the largest message of the monitor's socket (8193 bytes)."""
STDIN_BYTES = 8192
"""Most bytes of stdin in one message to the monitor."""


def frame(stream: int, data: bytes) -> bytes:
    """Return docker's multiplexed frame.

    Stream (1 stdout, 2 stderr), three zero bytes, length as 4 bytes big-endian.
    """
    return struct.pack(">BxxxI", stream, len(data)) + data


class Client(Protocol):
    """The client's side: `hijack.RawConnection`, or a WebSocket."""

    async def read(self) -> bytes:
        """Return input; empty at its end."""

    async def write(self, data: bytes) -> None:
        """Send output, at the client's speed. Raises ConnectionResetError when it is gone."""

    async def hung_up(self) -> None:
        """Return when the client is gone."""


class Pump:
    """Connects a client to the monitor's socket until the output ends, the client detaches, or is gone."""

    def __init__(
        self,
        client: Client,
        *,
        tty: bool,
        stdin: bool,
        streams: frozenset[int] = frozenset((STDOUT, STDERR)),
        detach_keys: bytes = DEFAULT_KEYS,
    ) -> None:
        self._client = client
        self._tty = tty
        self._stdin = stdin
        self._streams = streams
        self._keys = KeySequence(detach_keys if tty else b"")

    async def run(self, opening: Future[socket.socket]) -> None:
        """Wait for the monitor's socket, pump, and close it. Returns when it is over; raises what `opening` raises."""
        work = asyncio.ensure_future(self._work(opening))
        gone = asyncio.ensure_future(self._client.hung_up())
        try:
            await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            if not work.done():
                work.cancel()
            await asyncio.wait((work, gone))
        if not work.cancelled():
            with contextlib.suppress(ConnectionError):
                work.result()

    async def _work(self, opening: Future[socket.socket]) -> None:
        try:
            monitor = await asyncio.wrap_future(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_close_result)  # it came at the same moment
            raise
        try:
            monitor.setblocking(False)
            output = asyncio.ensure_future(self._output(monitor))
            tasks = [output]
            if self._stdin:
                tasks.append(asyncio.ensure_future(self._input(monitor)))
            try:
                while not output.done():
                    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                    if any(task is not output and task.result() for task in done):
                        return  # detached
                    tasks = [output]
                output.result()
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)
        finally:
            monitor.close()

    async def _output(self, monitor: socket.socket) -> bool:
        loop = asyncio.get_running_loop()
        reset = False
        while True:
            try:
                message = await loop.sock_recv(monitor, _MESSAGE)
            except ConnectionResetError:
                # The monitor ended with input of ours unread. The kernel says so once, before what is still to be read.
                if reset:
                    return False
                reset = True
                continue
            if not message:
                return False
            stream, data = message[0] - 1, message[1:]
            if stream in self._streams:
                await self._client.write(data if self._tty else frame(stream, data))

    async def _input(self, monitor: socket.socket) -> bool:
        """Forward stdin to its end; True when the client detached."""
        loop = asyncio.get_running_loop()
        try:
            while data := await self._client.read():
                data, detached = self._keys.feed(data)
                for start in range(0, len(data), STDIN_BYTES):
                    await loop.sock_sendall(monitor, data[start : start + STDIN_BYTES])
                if detached:
                    return True
            with contextlib.suppress(OSError):
                monitor.shutdown(socket.SHUT_WR)
        except OSError:  # nobody reads stdin any more; the output says how it ended
            await self._drain()
        return False

    async def _drain(self) -> None:
        while await self._client.read():
            pass


def discard(opening: Future[socket.socket]) -> None:
    """Give up a socket that may be there already, may still come, or may never."""
    opening.cancel()
    opening.add_done_callback(_close_result)


def _close_result(opening: Future[socket.socket]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()
