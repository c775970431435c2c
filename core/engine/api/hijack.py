"""Taking the connection over from HTTP: after attach and exec it carries the raw streams, both ways, with half-close.

docker's protocol: the client asks with `Connection: Upgrade` and gets `101 UPGRADED`, an old one gets `200 OK`; from
then
on the bytes are its own. The client's half-close is the end of stdin, not of the connection. What a client sends before
it has the answer is lost in aiohttp's parser (3.14; RFC 9110, 7.8 forbids it, and docker's clients wait).
"""

from __future__ import annotations

import asyncio
import select
import socket

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

RAW = "application/vnd.docker.raw-stream"
MULTIPLEXED = "application/vnd.docker.multiplexed-stream"

_BUFFER = 1 << 18
"""Bytes from the client that wait for the container before we stop reading from the client."""
_HANGUP_SECONDS = 1.0
_KEEPALIVE = {socket.TCP_KEEPIDLE: 60, socket.TCP_KEEPINTVL: 15, socket.TCP_KEEPCNT: 4}


class Taken(web.StreamResponse):
    """What a handler returns after it took the connection over: nothing is written, and the connection is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.force_close()

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Write no headers."""
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Write no end of a body."""


class RawConnection(asyncio.Protocol):
    """A connection that was taken over. It is read, written and closed by one task: the handler's."""

    def __init__(self, request: web.Request) -> None:
        """Take over; the request's body must have been read. Raises ConnectionResetError if the client is gone."""
        transport = request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client is gone")
        self._http = request.protocol
        self._transport = transport
        self._received = bytearray()
        self._eof = False
        self._lost = False
        self._arrival = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        transport.set_protocol(self)
        transport.resume_reading()
        connection = transport.get_extra_info("socket")
        if connection is not None and connection.family != socket.AF_UNIX:
            for option, value in _KEEPALIVE.items():
                connection.setsockopt(socket.IPPROTO_TCP, option, value)

    def accept(self, request: web.Request, content_type: str) -> None:
        """Answer the request: from here on the client speaks raw."""
        if request.headers.get("Upgrade"):
            head = (
                f"HTTP/1.1 101 UPGRADED\r\nContent-Type: {content_type}\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
            )
        else:
            head = f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\n\r\n"
        self._transport.write(head.encode())

    async def read(self) -> bytes:
        """Return what came from the client; empty at its half-close."""
        while not self._received and not self._eof:
            self._arrival.clear()
            await self._arrival.wait()
        data = bytes(self._received)
        self._received.clear()
        if not self._eof and not self._lost:
            self._transport.resume_reading()
        return data

    async def write(self, data: bytes) -> None:
        """Send, and wait while the client is slow. Raises ConnectionResetError when it is gone."""
        if self._lost or self._transport.is_closing():
            raise ConnectionResetError("the client is gone")
        self._transport.write(data)
        await self._writable.wait()

    async def hung_up(self) -> None:
        """Return when a client that has half-closed is gone altogether.

        A transport whose reading side has ended does not tell, and a silent container would keep the connection for
        ever.
        (While it can be read, `connection_lost` tells, and the handler is cancelled.) On TCP, where a close looks like
        a
        half-close, it is the kernel's keepalive that finds out.
        """
        connection = self._transport.get_extra_info("socket")
        while not self._lost:
            await asyncio.sleep(_HANGUP_SECONDS)
            if not self._eof or connection is None or connection.fileno() < 0:
                continue
            poller = select.poll()
            poller.register(connection.fileno(), 0)
            if poller.poll(0):  # POLLHUP or POLLERR
                return

    def data_received(self, data: bytes) -> None:
        """Keep data for `read`."""
        self._received += data
        if len(self._received) >= _BUFFER:
            self._transport.pause_reading()
        self._arrival.set()

    def eof_received(self) -> bool:
        """Note the half-close, and keep the connection."""
        self._eof = True
        self._arrival.set()
        return True

    def pause_writing(self) -> None:
        """Make `write` wait."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """Let `write` go on."""
        self._writable.set()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Wake everybody, and let aiohttp cancel the handler."""
        self._lost = self._eof = True
        self._arrival.set()
        self._writable.set()
        self._http.connection_lost(exc)
