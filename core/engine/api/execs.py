"""Execs: docker's `/containers/{id}/exec` and `/exec/...`."""

from __future__ import annotations

import logging
import socket
from concurrent.futures import Future

from aiohttp import web

from engine.api.attach import content_type
from engine.api.containers import terminal_size
from engine.api.detach import parse_keys
from engine.api.hijack import RawConnection, Taken
from engine.api.requests import acquire, call, json_body, reply, services, text
from engine.api.services.containers import ContainerManager
from engine.api.services.data import JsonObject
from engine.api.streams import STDOUT, Pump, discard, frame
from engine.spec.errors import Conflict, EngineError, InvalidParameter

log = logging.getLogger(__name__)


async def create(request: web.Request) -> web.Response:
    """Prepare an exec."""
    config = await json_body(request)
    if not config.get("Cmd"):
        raise InvalidParameter("No exec command specified")
    parse_keys(text(config, "DetachKeys"))
    id = await call(request, services(request).containers.exec_create, request.match_info["id"], config)
    return reply({"Id": id}, status=201)


async def start(request: web.Request) -> web.StreamResponse:
    """Run an exec; unless detached, the connection is taken over and connected to its streams.

    As docker's daemon does, the answer is sent before the command runs (docker-py loses output that comes together
    with it), and what the runtime says of a command that it cannot run is sent on the stream: the CLI shows it, and
    takes the exit code from the exec's inspection.
    """
    options = await json_body(request, optional=True)
    id = request.match_info["id"]
    manager = services(request).containers
    size = _console_size(options)
    if options.get("Detach"):
        await call(request, manager.exec_start, id, detach=True, console_size=size)
        return web.Response()
    found = await call(request, _startable, manager, id)
    tty = bool((found.get("ProcessConfig") or {}).get("tty"))
    keys = parse_keys(found.get("DetachKeys") or "")
    connection = RawConnection(request)
    connection.accept(request, content_type(request, tty))
    try:
        monitor = await acquire(request, _close, manager.exec_start, id, detach=False, console_size=size)
    except EngineError as err:
        text = f"{err}\r\n".encode()
        await connection.write(text if tty else frame(STDOUT, text))
        return Taken()
    assert monitor is not None  # an attached start gives one
    opening: Future[socket.socket] = Future()
    opening.set_result(monitor)
    try:
        await Pump(connection, tty=tty, stdin=bool(found.get("OpenStdin")), detach_keys=keys).run(opening)
    finally:
        discard(opening)
    return Taken()


def _startable(manager: ContainerManager, id: str) -> JsonObject:
    """Inspect an exec. Raises Conflict, while there is still a status to say it with, if it cannot be started."""
    found = manager.exec_inspect(id)
    if found.get("Running") or found.get("ExitCode") is not None:
        raise Conflict(f"Error: Exec command {id} is already running" if found["Running"] else f"exec {id} has ended")
    container = found["ContainerID"]
    state = manager.inspect(container)["State"]
    if state.get("Paused") or not state.get("Running"):
        raise Conflict(f"Container {container} is {'paused' if state.get('Paused') else 'not running'}")
    return found


def _close(monitor: socket.socket | None) -> None:
    if monitor is not None:
        monitor.close()


def _console_size(options: JsonObject) -> tuple[int, int] | None:
    size = options.get("ConsoleSize")
    if size is None:
        return None
    if not (isinstance(size, list) and len(size) == 2 and all(isinstance(n, int) and 0 <= n <= 65535 for n in size)):
        raise InvalidParameter(f"invalid ConsoleSize: {size!r}", hint="Write [HEIGHT, WIDTH]")
    return size[0], size[1]


async def resize(request: web.Request) -> web.Response:
    """Set the size of an exec's terminal."""
    height, width = terminal_size(request)
    await call(request, services(request).containers.exec_resize, request.match_info["id"], height, width)
    return web.Response()


async def inspect(request: web.Request) -> web.Response:
    """Inspect an exec."""
    return reply(await call(request, services(request).containers.exec_inspect, request.match_info["id"]))


ROUTES = [
    web.post("/containers/{id}/exec", create),
    web.post("/exec/{id}/start", start),
    web.post("/exec/{id}/resize", resize),
    web.get("/exec/{id}/json", inspect),
]
