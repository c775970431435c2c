"""Volumes: docker's `/volumes/...`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aiohttp import web

from engine.alone import alone
from engine.api import versions
from engine.api.requests import call, filters, flag, json_body, number, reply, services, strings, text
from engine.api.secrets import decoded
from engine.api.services import Services
from engine.api.services.data import JsonObject
from engine.api.transfer import send_messages
from engine.spec.errors import Conflict, DeadlineExceeded, Unsupported
from engine.spec.trees import TreeStatus

_SYNC_SECONDS = 3600.0
"""A sync without `timeout` waits so long."""
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
        with alone(f"volume {record.name}"):
            size, users = managers.volumes.usage(record.name)
            found.append({**managers.volumes.describe(record), "UsageData": {"Size": size, "RefCount": users}})
    return found


async def create(request: web.Request) -> web.Response:
    """Make one, or find the one that is the same."""
    body = await json_body(request, optional=True)
    if body.get("ClusterVolumeSpec"):
        raise Unsupported("cluster volumes are not supported")
    name, driver = text(body, "Name") or None, text(body, "Driver")
    return reply(
        await call(
            request,
            _create,
            services(request),
            name,
            driver,
            strings(body, "DriverOpts"),
            strings(body, "Labels"),
            None if body.get("Key") is None else decoded(body["Key"], "Key"),
        ),
        status=201,
    )


def _create(
    managers: Services,
    name: str | None,
    driver: str,
    options: dict[str, str],
    labels: dict[str, str],
    key: bytes | None,
) -> JsonObject:
    return managers.volumes.describe(managers.volumes.create(name, driver, options, labels, key=key))


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


async def sync(request: web.Request) -> web.StreamResponse:
    """Wait until what is changed now is in the volume's store, at most `timeout` seconds; stream the progress."""
    volumes, name = services(request).volumes, request.match_info["name"]
    asked = number(request, "timeout")
    seconds = _SYNC_SECONDS if asked is None else float(asked)

    def run(put: Callable[[JsonObject], None]) -> None:
        def show(status: TreeStatus) -> None:
            detail = {"current": status.pending_files, "units": "changes to upload"}
            put({"status": "Uploading", "id": name, "progressDetail": detail})

        left = volumes.sync(name, seconds, show)
        unstorable, why = volumes.unstorable(name) if left else (0, "")
        if left and left == unstorable:
            raise Conflict(
                f"{left} files of volume {name} cannot be in its store, and are only here", why=why,
                hint="Rename or remove them",
            )  # fmt: skip
        if left:
            raise DeadlineExceeded(
                f"{left} changes of volume {name} are not in its store yet", why=f"not within {seconds:g} s",
                hint=f"The upload goes on. `engine volume inspect {name}` shows how far it is",
            )  # fmt: skip
        put({"status": "Uploaded", "id": name, "progressDetail": {}, "aux": {"Left": 0}})

    return await send_messages(request, run)


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
    web.post("/engine/volumes/{name}/sync", sync),
]
