"""The HTTP server: docker's Engine API and what is ours beside it, on unix and tcp sockets."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import ssl
import stat
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler

from engine.api import (
    containers,
    errors,
    execs,
    extensions,
    images,
    networks,
    nodes,
    ports,
    secrets,
    system,
    volume_keys,
    volume_work,
    volumes,
)
from engine.api.activity import ACTIVITY, Activity
from engine.api.browser import NAMES
from engine.api.requests import BODY_BYTES, SERVICES, WORKERS
from engine.api.services import Services
from engine.api.tls import HalfCloseTLS
from engine.api.versions import VersionPrefix
from engine.spec.errors import Conflict, InvalidParameter, Unavailable

log = logging.getLogger(__name__)

THREADS = 128
"""Worker threads at most; each is made when first needed. A `docker stop` holds one for its grace period."""
FIRST_REQUEST_SECONDS = 30.0
"""In which a new connection must have sent a whole request head."""
IDLE_SECONDS = 120.0
"""How long a connection is kept between requests."""
SHUTDOWN_SECONDS = 3.0
"""What running requests get to end when the server stops."""
_HEADER_BYTES = 1 << 16
_BACKLOG = 512

_SILENT = web.AppKey("silent", dict[asyncio.Protocol, asyncio.TimerHandle])
"""Connections that have not sent a request yet, with the timer that will cut them."""


def build_app(services: Services) -> web.Application:
    """Return the application: all routes, with and without version prefix."""
    app = web.Application(middlewares=[_note_connection, errors.middleware], client_max_size=BODY_BYTES)
    app[SERVICES] = services
    app[WORKERS] = ThreadPoolExecutor(THREADS, thread_name_prefix="api")
    app[_SILENT] = {}
    app[NAMES] = set()
    app[ACTIVITY] = Activity()
    ours = (extensions, nodes, ports, volume_work, volume_keys)
    for part in (system, containers, execs, images, networks, volumes, secrets, *ours):
        app.add_routes(part.ROUTES)
    app.router.register_resource(VersionPrefix(app.router))
    app.on_cleanup.append(_end_workers)
    return app


async def _end_workers(app: web.Application) -> None:
    app[WORKERS].shutdown(wait=False, cancel_futures=True)


@web.middleware
async def _note_connection(request: web.Request, handler: Handler) -> web.StreamResponse:
    timer = request.app[_SILENT].pop(request.protocol, None)
    if timer is not None:
        timer.cancel()
    return await request.app[ACTIVITY].counted(request, handler)


def _cut(connection: web.RequestHandler, silent: dict[asyncio.Protocol, asyncio.TimerHandle]) -> None:
    """Cut a connection that has not sent one whole request head in its time (aiohttp waits for the first for ever)."""
    if silent.pop(connection, None) is not None and connection.transport is not None:
        connection.transport.abort()


@asynccontextmanager
async def serve(
    app: web.Application, hosts: Sequence[str], tls: ssl.SSLContext | None = None
) -> AsyncIterator[list[str]]:
    """Serve the application while the block runs; gives the addresses, with the ports that `tcp://HOST:0` got.

    `hosts` are `unix://PATH` (mode 0660; a dead socket of that path is replaced) and `tcp://HOST:PORT`, on which `tls`
    is
    spoken if given. Raises Conflict when another daemon listens there, InvalidParameter, Unavailable.
    """
    runner = web.AppRunner(
        app,
        access_log=None,
        handler_cancellation=True,
        keepalive_timeout=IDLE_SECONDS,
        shutdown_timeout=SHUTDOWN_SECONDS,
        max_line_size=_HEADER_BYTES,
        max_field_size=_HEADER_BYTES,
    )
    await runner.setup()
    listeners: list[Listener] = []
    try:
        for host in hosts:
            listeners.append(await _listen(host, runner, tls))
        yield [listener.address for listener in listeners]
    finally:
        for listener in listeners:
            listener.close()
        await runner.cleanup()


class Listener:
    """One listening socket."""

    def __init__(self, address: str, server: asyncio.Server, path: Path | None = None) -> None:
        self.address = address
        self._server = server
        self._path = path
        self._inode = path.stat().st_ino if path else 0

    def close(self) -> None:
        """Accept no more, and remove the socket file if it is still ours."""
        self._server.close()
        if self._path is not None:
            with contextlib.suppress(FileNotFoundError):
                if self._path.stat().st_ino == self._inode:
                    self._path.unlink()


async def _listen(host: str, runner: web.AppRunner, tls: ssl.SSLContext | None) -> Listener:
    loop = asyncio.get_running_loop()
    server = runner.server
    assert server is not None
    silent = runner.app[_SILENT]

    def connection() -> asyncio.Protocol:
        handler = server()
        silent[handler] = loop.call_later(FIRST_REQUEST_SECONDS, _cut, handler, silent)
        return handler

    scheme, _, rest = host.partition("://")
    if scheme == "unix" and rest:
        path = Path(rest)
        listening = _bind_unix(path)
        return Listener(host, await loop.create_unix_server(connection, sock=listening, backlog=_BACKLOG), path)
    if scheme == "tcp" and rest:
        listening = _bind_tcp(host)
        address, port = listening.getsockname()[:2]
        runner.app[NAMES].add(urlsplit(host).hostname or "")
        if tls is None or tls.verify_mode != ssl.CERT_REQUIRED:
            log.warning("%s is served without client certificates: whoever reaches it is root on this host", host)
        factory = connection if tls is None else lambda: HalfCloseTLS(tls, connection())
        name = f"[{address}]" if ":" in address else address
        return Listener(f"tcp://{name}:{port}", await loop.create_server(factory, sock=listening, backlog=_BACKLOG))
    raise InvalidParameter(f"invalid host {host!r}", hint="Hosts are unix:///PATH and tcp://ADDRESS:PORT")


def _bind_unix(path: Path) -> socket.socket:
    if path.exists():
        if not stat.S_ISSOCK(path.stat().st_mode):
            raise Conflict(f"cannot listen on {path}", why="a file that is no socket is there")
        if _is_live(path):
            raise Conflict(f"cannot listen on {path}", why="socket is busy", hint="Another daemon serves it")
        path.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        listening.bind(str(path))
        path.chmod(0o660)  # before listen(2): nobody can have connected
    except OSError as err:
        listening.close()
        raise Unavailable(f"cannot listen on {path}", why=err.strerror or str(err)) from err
    return listening


def _is_live(path: Path) -> bool:
    """Whether somebody listens on a unix socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(2)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError as err:
            if err.errno in (errno.EAGAIN, errno.ETIMEDOUT):  # a full backlog
                return True
            raise Unavailable(f"cannot listen on {path}", why=err.strerror or str(err)) from err
        return True


def _bind_tcp(host: str) -> socket.socket:
    try:
        parts = urlsplit(host)
        port = parts.port
    except ValueError as err:
        raise InvalidParameter(f"invalid host {host!r}", why=str(err)) from err
    if not parts.hostname or port is None or parts.path not in ("", "/"):
        raise InvalidParameter(f"invalid host {host!r}", hint="Write tcp://ADDRESS:PORT")
    try:
        family, _, _, _, address = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=_BACKLOG)
    except OSError as err:
        error = Conflict if err.errno == errno.EADDRINUSE else Unavailable
        raise error(f"cannot listen on {host}", why=err.strerror or str(err)) from err
