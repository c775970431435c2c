"""The HTTP server: docker's Engine API and what is ours beside it, on unix and tcp sockets."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

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
from engine.api.accepting import Acceptor
from engine.api.activity import ACTIVITY, Activity
from engine.api.browser import NAMES
from engine.api.listening import Listener
from engine.api.requests import BODY_BYTES, SERVICES, WORKERS
from engine.api.services import Services
from engine.api.tls import HalfCloseTLS
from engine.api.versions import VersionPrefix

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
    app: web.Application, listeners: Sequence[Listener], tls: ssl.SSLContext | None = None
) -> AsyncIterator[None]:
    """Serve the application on sockets that listen already, while the block runs; they are closed at its end.

    `tls` is spoken on TCP if given.
    """
    runner = web.AppRunner(
        app,
        access_log=None,
        handler_cancellation=True,
        logger=_http_log(),
        keepalive_timeout=IDLE_SECONDS,
        shutdown_timeout=SHUTDOWN_SECONDS,
        max_line_size=_HEADER_BYTES,
        max_field_size=_HEADER_BYTES,
    )
    await runner.setup()
    acceptor = Acceptor()
    try:
        for listener in listeners:
            _serve_on(listener, runner, acceptor, tls)
        yield
    finally:
        await acceptor.close()
        for listener in listeners:
            listener.close()
        await runner.cleanup()


def _http_log() -> logging.Logger:
    found = logging.getLogger(f"{__name__}.http")
    if not found.filters:
        found.addFilter(errors.ClientFaults())
    return found


def _serve_on(listener: Listener, runner: web.AppRunner, acceptor: Acceptor, tls: ssl.SSLContext | None) -> None:
    loop = asyncio.get_running_loop()
    server = runner.server
    assert server is not None
    silent = runner.app[_SILENT]

    def connection() -> asyncio.Protocol:
        handler = server()
        silent[handler] = loop.call_later(FIRST_REQUEST_SECONDS, _cut, handler, silent)
        return handler

    if listener.path is not None:
        acceptor.serve(listener.socket, connection)
        return
    runner.app[NAMES].add(listener.hostname)
    if tls is None or tls.verify_mode != ssl.CERT_REQUIRED:
        log.warning("%s is served without client certificates: whoever reaches it is root on this host", listener.host)
    acceptor.serve(listener.socket, connection if tls is None else lambda: HalfCloseTLS(tls, connection()))
