"""Containers: docker's `/containers/...` and `/commit`; their streams are in `attach.py`."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

from aiohttp import web

from engine.api import attach, stats
from engine.api.requests import acquire, call, filters, flag, json_body, number, read_body, reply, required, services
from engine.api.services.data import JsonObject
from engine.api.transfer import RequestStream, begin, send_stream
from engine.container.waiters import ExitResult
from engine.spec.errors import EngineError, InvalidParameter

_CONDITIONS = ("not-running", "next-exit", "removed")
_STAT_HEADER = "X-Docker-Container-Path-Stat"


def _id(request: web.Request) -> str:
    return request.match_info["id"]


def _done(changed: bool = True) -> web.Response:
    """204, or 304 where the container was so already."""
    return web.Response(status=204 if changed else 304)


async def create(request: web.Request) -> web.Response:
    """Create a container."""
    config = await json_body(request)
    if not config:
        raise InvalidParameter("config cannot be empty in order to create a container")
    name = request.query.get("name", "").removeprefix("/")
    platform = request.query.get("platform", "")
    id, warnings = await call(request, services(request).containers.create, config, name, platform)
    return reply({"Id": id, "Warnings": warnings}, status=201)


async def list_containers(request: web.Request) -> web.Response:
    """List."""
    summaries = await call(
        request,
        services(request).containers.list,
        all=flag(request, "all"),
        limit=max(0, number(request, "limit") or 0),
        size=flag(request, "size"),
        filters=filters(request),
    )
    return reply(summaries)


async def inspect(request: web.Request) -> web.Response:
    """Inspect."""
    found = await call(request, services(request).containers.inspect, _id(request), size=flag(request, "size"))
    return reply(found)


async def start(request: web.Request) -> web.Response:
    """Start."""
    await read_body(request)  # clients of old send a HostConfig, which has no effect
    return _done(await call(request, services(request).containers.start, _id(request)))


async def stop(request: web.Request) -> web.Response:
    """Stop."""
    manager = services(request).containers
    return _done(await call(request, manager.stop, _id(request), timeout=number(request, "t"), signal=_signal(request)))


async def restart(request: web.Request) -> web.Response:
    """Restart."""
    manager = services(request).containers
    await call(request, manager.restart, _id(request), timeout=number(request, "t"), signal=_signal(request))
    return _done()


async def kill(request: web.Request) -> web.Response:
    """Send a signal."""
    await call(request, services(request).containers.kill, _id(request), _signal(request))
    return _done()


def _signal(request: web.Request) -> str:
    return request.query.get("signal", "")


async def pause(request: web.Request) -> web.Response:
    """Pause."""
    await call(request, services(request).containers.pause, _id(request))
    return _done()


async def unpause(request: web.Request) -> web.Response:
    """Go on after a pause."""
    await call(request, services(request).containers.unpause, _id(request))
    return _done()


async def rename(request: web.Request) -> web.Response:
    """Rename."""
    name = required(request, "name").removeprefix("/")
    await call(request, services(request).containers.rename, _id(request), name)
    return _done()


async def remove(request: web.Request) -> web.Response:
    """Remove."""
    if flag(request, "link"):
        raise InvalidParameter("links between containers do not exist here", hint="Use networks")
    manager = services(request).containers
    await call(request, manager.remove, _id(request), force=flag(request, "force"), volumes=flag(request, "v"))
    return _done()


async def update(request: web.Request) -> web.Response:
    """Change limits and the restart policy."""
    warnings = await call(request, services(request).containers.update, _id(request), await json_body(request))
    return reply({"Warnings": warnings})


async def resize(request: web.Request) -> web.Response:
    """Set the size of the terminal."""
    height, width = terminal_size(request)
    await call(request, services(request).containers.resize, _id(request), height, width)
    return web.Response()


def terminal_size(request: web.Request) -> tuple[int, int]:
    """Return the parameters `h` and `w`. Raises InvalidParameter."""
    height, width = number(request, "h"), number(request, "w")
    for name, value in (("h", height), ("w", width)):
        if value is None or not 0 <= value <= 65535:
            raise InvalidParameter(f"invalid terminal size: {name} must be a number from 0 to 65535")
    return height or 0, width or 0


async def wait(request: web.Request) -> web.StreamResponse:
    """Wait for the end. The headers are sent at once: docker's CLI starts the container only when it has them."""
    condition = request.query.get("condition") or "not-running"
    if condition not in _CONDITIONS:
        raise InvalidParameter(f"invalid condition: {condition!r}", hint=f"One of: {', '.join(_CONDITIONS)}")
    future = await acquire(
        request, lambda left: left.cancel(), services(request).containers.wait, _id(request), condition
    )
    try:
        response = await begin(request, "application/json")
        try:
            result = await asyncio.wrap_future(future)
        except EngineError as err:
            result = ExitResult(err.status, str(err))
    finally:
        future.cancel()
    answer: JsonObject = {"StatusCode": result.code}
    if result.error:
        answer["Error"] = {"Message": result.error}
    await response.write(json.dumps(answer).encode() + b"\n")
    await response.write_eof()
    return response


async def top(request: web.Request) -> web.Response:
    """List processes."""
    found = await call(request, services(request).containers.top, _id(request), request.query.get("ps_args", ""))
    return reply(found)


async def changes(request: web.Request) -> web.Response:
    """List what differs from the image."""
    return reply(await call(request, services(request).containers.changes, _id(request)))


async def export(request: web.Request) -> web.StreamResponse:
    """Send the root file system as a tar."""
    archive = await acquire(request, lambda left: left.close(), services(request).containers.export, _id(request))
    return await send_stream(request, archive, "application/x-tar")


async def archive_stat(request: web.Request) -> web.Response:
    """Say what a path is, in a header."""
    found = await call(request, services(request).containers.archive_stat, _id(request), required(request, "path"))
    return web.Response(headers=_stat_header(found))


async def archive_get(request: web.Request) -> web.StreamResponse:
    """Send a path as a tar."""
    manager = services(request).containers
    path = required(request, "path")
    found, archive = await acquire(request, lambda left: left[1].close(), manager.archive_get, _id(request), path)
    return await send_stream(request, archive, "application/x-tar", _stat_header(found))


def _stat_header(found: JsonObject) -> dict[str, str]:
    return {_STAT_HEADER: base64.b64encode(json.dumps(found).encode()).decode()}


async def archive_put(request: web.Request) -> web.Response:
    """Unpack a tar."""
    await call(
        request,
        services(request).containers.archive_put,
        _id(request),
        required(request, "path"),
        RequestStream(request),
        no_overwrite_dir_non_dir=flag(request, "noOverwriteDirNonDir"),
        copy_uid_gid=flag(request, "copyUIDGID"),
    )
    return web.Response()


async def prune(request: web.Request) -> web.Response:
    """Remove those that do not run."""
    return reply(await call(request, services(request).containers.prune, filters(request)))


async def commit(request: web.Request) -> web.Response:
    """Make an image of a container."""
    query = request.query
    options: dict[str, Any] = {key: query.get(key, "") for key in ("repo", "tag", "comment", "author")}
    options["pause"] = flag(request, "pause", True)
    options["changes"] = query.getall("changes", [])
    options["config"] = await json_body(request, optional=True)
    id = await call(request, services(request).containers.commit, required(request, "container"), options)
    return reply({"Id": id}, status=201)


ROUTES = [
    web.get("/containers/json", list_containers),
    web.post("/containers/create", create),
    web.post("/containers/prune", prune),
    web.get("/containers/{id}/json", inspect),
    web.post("/containers/{id}/start", start),
    web.post("/containers/{id}/stop", stop),
    web.post("/containers/{id}/restart", restart),
    web.post("/containers/{id}/kill", kill),
    web.post("/containers/{id}/pause", pause),
    web.post("/containers/{id}/unpause", unpause),
    web.post("/containers/{id}/rename", rename),
    web.post("/containers/{id}/update", update),
    web.post("/containers/{id}/resize", resize),
    web.post("/containers/{id}/wait", wait),
    web.get("/containers/{id}/top", top),
    web.get("/containers/{id}/changes", changes),
    web.get("/containers/{id}/export", export),
    web.get("/containers/{id}/stats", stats.stats),
    web.get("/containers/{id}/logs", attach.logs),
    web.post("/containers/{id}/attach", attach.attach),
    web.get("/containers/{id}/attach/ws", attach.attach_websocket),
    web.head("/containers/{id}/archive", archive_stat),
    web.get("/containers/{id}/archive", archive_get, allow_head=False),
    web.put("/containers/{id}/archive", archive_put),
    web.delete("/containers/{id}", remove),
    web.post("/commit", commit),
]
