"""Volumes: docker's `/volumes/...`."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from engine.api import versions
from engine.api.requests import call, filters, flag, json_body, reply, services, strings
from engine.api.services import JsonObject, Services
from engine.spec.errors import InvalidParameter, Unsupported

_ONLY_ANONYMOUS_SINCE = (1, 42)
"""Before, a prune took named volumes too."""


async def list_volumes(request: web.Request) -> web.Response:
    """List."""
    return reply({"Volumes": await call(request, _list, services(request), filters(request)), "Warnings": None})


def _list(managers: Services, wanted: Any) -> list[JsonObject]:
    return [managers.volumes.describe(record) for record in managers.volumes.list(wanted)]


def with_usage(managers: Services) -> list[JsonObject]:
    """Return all volumes, with their size and number of users."""
    found = []
    for record in managers.volumes.list():
        size, users = managers.volumes.usage(record.name)
        found.append({**managers.volumes.describe(record), "UsageData": {"Size": size, "RefCount": users}})
    return found


async def create(request: web.Request) -> web.Response:
    """Make one, or find the one that is the same."""
    body = await json_body(request, optional=True)
    if body.get("ClusterVolumeSpec"):
        raise Unsupported("cluster volumes are not supported")
    name, driver = body.get("Name") or None, body.get("Driver") or ""
    if not isinstance(driver, str) or not (name is None or isinstance(name, str)):
        raise InvalidParameter("invalid volume: Name and Driver are strings")
    return reply(
        await call(
            request, _create, services(request), name, driver, strings(body, "DriverOpts"), strings(body, "Labels")
        ),
        status=201,
    )


def _create(
    managers: Services, name: str | None, driver: str, options: dict[str, str], labels: dict[str, str]
) -> JsonObject:
    return managers.volumes.describe(managers.volumes.create(name, driver, options, labels))


async def inspect(request: web.Request) -> web.Response:
    """Inspect."""
    return reply(await call(request, services(request).volumes.inspect, request.match_info["name"]))


async def update(request: web.Request) -> web.Response:
    """Refused: docker has it for cluster volumes alone."""
    raise Unsupported("volumes cannot be changed", why="only cluster volumes can, and there are none")


async def remove(request: web.Request) -> web.Response:
    """Remove."""
    await call(request, services(request).volumes.remove, request.match_info["name"], flag(request, "force"))
    return web.Response(status=204)


async def prune(request: web.Request) -> web.Response:
    """Remove those that nobody uses."""
    wanted = dict(filters(request))
    if versions.of(request) < _ONLY_ANONYMOUS_SINCE:
        wanted.setdefault("all", ["true"])
    names, space = await call(request, services(request).volumes.prune, wanted)
    return reply({"VolumesDeleted": list(names), "SpaceReclaimed": space})


ROUTES = [
    web.get("/volumes", list_volumes),
    web.post("/volumes/create", create),
    web.post("/volumes/prune", prune),
    web.get("/volumes/{name}", inspect),
    web.put("/volumes/{name}", update),
    web.delete("/volumes/{name}", remove),
]
