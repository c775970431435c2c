"""TLS with half-close: the client's close_notify ends its direction only, as docker's attach and exec need.

asyncio's own TLS transport drops all output after the peer's close_notify. Here a connection is an `asyncio.Protocol`
on
the raw TCP transport and an `asyncio.Transport` for the application, with `ssl.MemoryBIO` in between.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from typing import Any, cast

log = logging.getLogger(__name__)

HANDSHAKE_SECONDS = 15.0
_READ = 1 << 16


class HalfCloseTLS(asyncio.Protocol, asyncio.Transport):
    """One server-side TLS connection; the application's protocol sees an ordinary transport."""

    def __init__(self, context: ssl.SSLContext, application: asyncio.BaseProtocol) -> None:
        """Wrap `application`. `context` is the server's, with client certificates required or not."""
        asyncio.Transport.__init__(self)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._application = cast(asyncio.Protocol, application)
        self._raw: asyncio.Transport | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._established = False
        self._input_ended = False
        self._closing = False
        self._reading = True

    # What the raw transport tells us

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the client's hello."""
        self._raw = cast(asyncio.Transport, transport)
        self._deadline = asyncio.get_running_loop().call_later(HANDSHAKE_SECONDS, self.abort)

    def data_received(self, data: bytes) -> None:
        """Decrypt, and hand on."""
        self._incoming.write(data)
        try:
            if not self._established:
                self._handshake()
            if self._established:
                self._decrypt()
        except ssl.SSLError as err:
            log.info("TLS with a client failed: %s", err)
            self._flush()  # the alert
            self.abort()

    def eof_received(self) -> bool:
        """The client's TCP direction ended, with or without close_notify."""
        self._incoming.write_eof()
        if not self._established:
            return False
        self._end_input()
        return True

    def pause_writing(self) -> None:
        """Pass on that the client is slow."""
        if self._established:
            self._application.pause_writing()

    def resume_writing(self) -> None:
        """Pass on that the client reads again."""
        if self._established:
            self._application.resume_writing()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Pass on the end."""
        self._closing = True
        if self._deadline is not None:
            self._deadline.cancel()
        if self._established:
            self._application.connection_lost(cast("Exception | None", exc))

    def _handshake(self) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return
        self._flush()
        self._established = True
        if self._deadline is not None:
            self._deadline.cancel()
        self._application.connection_made(self)

    def _decrypt(self) -> None:
        while self._reading and not self._input_ended and not self._closing:
            try:
                data = self._tls.read(_READ)
            except ssl.SSLWantReadError:
                break
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                data = b""
            if not data:
                self._end_input()
                break
            self._application.data_received(data)
        self._flush()  # answers of the protocol itself, such as key updates

    def _end_input(self) -> None:
        if self._input_ended or self._closing:
            return
        self._input_ended = True
        if not self._application.eof_received():
            self.close()

    def _flush(self) -> None:
        if self._raw is not None and (data := self._outgoing.read()):
            self._raw.write(data)

    # What the application calls

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypt and send."""
        if self._closing or not data:
            return
        view = memoryview(data)
        while view:
            view = view[self._tls.write(view) :]
        self._flush()

    def can_write_eof(self) -> bool:
        """The application never half-closes its own side."""
        return False

    def is_closing(self) -> bool:
        """Whether the connection is closed or about to be."""
        return self._closing or self._raw is None or self._raw.is_closing()

    def close(self) -> None:
        """Send what is buffered and close_notify, then close."""
        if self._closing or self._raw is None:
            return
        self._closing = True
        with contextlib.suppress(ssl.SSLError):  # SSLWantRead: the peer's own close_notify is not waited for
            self._tls.unwrap()
        self._flush()
        self._raw.close()

    def abort(self) -> None:
        """Close at once."""
        self._closing = True
        if self._raw is not None:
            self._raw.abort()

    def pause_reading(self) -> None:
        """Hand on no more for now."""
        self._reading = False
        if self._raw is not None:
            self._raw.pause_reading()

    def resume_reading(self) -> None:
        """Hand on again, also what waits decrypted."""
        if self._reading or self._raw is None:
            return
        self._reading = True
        self._raw.resume_reading()
        asyncio.get_running_loop().call_soon(self.data_received, b"")

    def is_reading(self) -> bool:
        """Whether data is handed on."""
        return self._reading

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Give the connection to another application protocol."""
        self._application = cast(asyncio.Protocol, protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Return the application's protocol."""
        return self._application

    def get_write_buffer_size(self) -> int:
        """Bytes that the client has not taken yet."""
        return self._raw.get_write_buffer_size() if self._raw is not None else 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set when `pause_writing` is called."""
        if self._raw is not None:
            self._raw.set_write_buffer_limits(high, low)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return what is known of the connection: TLS facts, and all that the raw transport knows."""
        if name == "ssl_object":
            return self._tls
        if name == "sslcontext":
            return self._tls.context
        if name == "peercert":
            return self._tls.getpeercert()
        return self._raw.get_extra_info(name, default) if self._raw is not None else default
