"""Where the daemon is, and a byte stream to it: Unix socket, TCP, or TLS over TCP."""

from __future__ import annotations

import os
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from engine.cli.errors import BadValue, Failure, Unreachable

DEFAULT_HOST = "unix:///run/engine/engine.sock"
_TCP_PORT, _TLS_PORT = 2375, 2376


class Wire(Protocol):
    """A byte stream whose sending side can be closed alone."""

    def fileno(self) -> int:
        """Return the descriptor to poll."""

    def recv(self, size: int) -> bytes:
        """Return what is there, waiting for at least one byte; empty at the end."""

    def pending(self) -> bool:
        """Whether `recv` has something that polling the descriptor would not show."""

    def sendall(self, data: bytes) -> None:
        """Send all of it."""

    def end_sending(self) -> None:
        """Tell the peer that no more will come; receiving goes on."""

    def close(self) -> None:
        """Close both sides."""


class SocketWire:
    """A wire over a plain socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def fileno(self) -> int:
        """Return the descriptor to poll."""
        return self._sock.fileno()

    def recv(self, size: int) -> bytes:
        """Return what is there; empty at the end."""
        return self._sock.recv(size)

    def pending(self) -> bool:
        """Never: the kernel holds what was not received."""
        return False

    def sendall(self, data: bytes) -> None:
        """Send all of it."""
        self._sock.sendall(data)

    def end_sending(self) -> None:
        """Shut down the sending side."""
        self._sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close the socket."""
        self._sock.close()


class TlsWire:
    """A wire over TLS with a true half-close.

    `ssl.SSLSocket.unwrap` waits for the peer's close_notify and fails on data that comes before it; with memory buffers
    only our close_notify is sent, and reading goes on.
    """

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, name: str) -> None:
        self._sock = sock
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_hostname=name)
        while True:
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                self._flush()
                self._feed()
        self._flush()

    def _flush(self) -> None:
        if data := self._out.read():
            self._sock.sendall(data)

    def _feed(self) -> None:
        data = self._sock.recv(65536)
        if data:
            self._in.write(data)
        else:
            self._in.write_eof()

    def fileno(self) -> int:
        """Return the descriptor to poll."""
        return self._sock.fileno()

    def recv(self, size: int) -> bytes:
        """Return what is there; empty at the end."""
        while True:
            try:
                return self._tls.read(size)
            except ssl.SSLWantReadError:
                self._flush()
                self._feed()
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return b""

    def pending(self) -> bool:
        """Whether decrypted bytes wait."""
        return self._tls.pending() > 0 or self._in.pending > 0

    def sendall(self, data: bytes) -> None:
        """Encrypt and send all of it."""
        self._tls.write(data)
        self._flush()

    def end_sending(self) -> None:
        """Send close_notify."""
        try:
            self._tls.unwrap()
        except ssl.SSLError:
            pass  # the peer's own close_notify has not come yet, and need not
        self._flush()

    def close(self) -> None:
        """Close the socket."""
        self._sock.close()


@dataclass(frozen=True)
class Tls:
    """Files for a TLS connection, as docker's --tls* flags name them."""

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    verify: bool = True

    def context(self) -> ssl.SSLContext:
        """Return the client context. Raises Failure naming the file that cannot be used."""
        context = ssl.create_default_context()
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        try:
            if self.ca is not None:
                context.load_verify_locations(self.ca)
            if self.certificate is not None:
                context.load_cert_chain(self.certificate, self.key)
        except (OSError, ssl.SSLError) as err:
            files = ", ".join(str(f) for f in (self.ca, self.certificate, self.key) if f)
            raise Failure(f"cannot use the TLS files {files}: {err}") from err
        return context


@dataclass(frozen=True)
class Endpoint:
    """A parsed host: `unix:///path` or `tcp://name:port`."""

    host: str
    path: str = ""
    name: str = ""
    port: int = 0
    tls: Tls | None = None

    @classmethod
    def parse(cls, host: str, tls: Tls | None = None) -> Endpoint:
        """Parse a host. Raises BadValue."""
        scheme, separator, rest = host.partition("://")
        if not separator or not rest:
            raise BadValue("--host", host, "expected unix:///path or tcp://name:port")
        if scheme == "unix":
            if not rest.startswith("/"):
                raise BadValue("--host", host, "the path of a Unix socket must be absolute, e.g. unix:///run/x.sock")
            return cls(host, path=rest)
        if scheme not in ("tcp", "http", "https"):
            raise BadValue("--host", host, f"unknown scheme {scheme!r}; use unix:// or tcp://")
        if scheme == "https" and tls is None:
            tls = Tls()
        name, _, port = rest.rstrip("/").rpartition(":")
        if not name or port.endswith("]"):
            name, port = rest.rstrip("/"), str(_TLS_PORT if tls else _TCP_PORT)
        if not port.isdecimal() or not 0 < int(port) < 65536:
            raise BadValue("--host", host, f"{port!r} is no port")
        return cls(host, name=name.strip("[]"), port=int(port), tls=tls)

    def _socket(self, timeout: float | None) -> socket.socket:
        try:
            if self.path:
                sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                sock.settimeout(timeout)
                try:
                    sock.connect(self.path)
                except BaseException:
                    sock.close()
                    raise
                return sock
            sock = socket.create_connection((self.name, self.port), timeout or 30)
            sock.settimeout(timeout)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return sock
        except OSError as err:
            raise Unreachable(self._unreachable(err)) from err

    def _unreachable(self, err: OSError) -> str:
        if isinstance(err, PermissionError) and os.geteuid() != 0:
            return f"cannot connect to the daemon at {self.host}: permission denied. Run as root (sudo)"
        return (
            f"cannot connect to the daemon at {self.host}: {err.strerror or err}. "
            "Is it running? Start it with: engine daemon"
        )

    def connect(self, timeout: float | None = None) -> socket.socket:
        """Open a socket for HTTP. Raises Unreachable."""
        sock = self._socket(timeout)
        if self.tls is None:
            return sock
        try:
            return self.tls.context().wrap_socket(sock, server_hostname=self.name)
        except OSError as err:
            sock.close()
            raise Unreachable(f"cannot connect to the daemon at {self.host} by TLS: {err}") from err

    def wire(self) -> Wire:
        """Open a raw byte stream. Raises Unreachable."""
        sock = self._socket(None)
        if self.tls is None:
            return SocketWire(sock)
        try:
            return TlsWire(sock, self.tls.context(), self.name)
        except OSError as err:
            sock.close()
            raise Unreachable(f"cannot connect to the daemon at {self.host} by TLS: {err}") from err
