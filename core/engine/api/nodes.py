"""The nodes of the cluster, and entering and leaving it: ours, below `/engine`."""

from __future__ import annotations

from aiohttp import web

from engine.api.requests import call, json_body, reply, services
from engine.api.services.data import JsonObject
from engine.spec.errors import InvalidParameter


async def list_nodes(request: web.Request) -> web.Response:
    """List."""
    return reply(await call(request, services(request).nodes.list))


async def inspect(request: web.Request) -> web.Response:
    """Inspect."""
    return reply(await call(request, services(request).nodes.inspect, request.match_info["name"]))


async def remove(request: web.Request) -> web.Response:
    """Make a node that is down disappear at once."""
    await call(request, services(request).nodes.remove, request.match_info["name"])
    return web.Response(status=204)


async def token(request: web.Request) -> web.Response:
    """Return what another host joins with. It may hold a password."""
    return reply({"Token": await call(request, services(request).nodes.token)})


async def join(request: web.Request) -> web.Response:
    """Enter a cluster. Body: `{"Token": ..., "Advertise": ..., "Name": ...}`."""
    body = await json_body(request)
    if not _text(body, "Token"):
        raise InvalidParameter("missing Token")
    node = await call(
        request, services(request).nodes.join, _text(body, "Token"), advertise=_text(body, "Advertise"),
        node=_text(body, "Name"),
    )  # fmt: skip
    return reply(node)


def _text(body: JsonObject, key: str) -> str:
    value = body.get(key) or ""
    if not isinstance(value, str):
        raise InvalidParameter(f"invalid {key}: a string is expected")
    return value


async def leave(request: web.Request) -> web.Response:
    """Leave the cluster."""
    await call(request, services(request).nodes.leave)
    return web.Response(status=204)


ROUTES = [
    web.get("/engine/nodes", list_nodes),
    web.get("/engine/nodes/{name}", inspect),
    web.delete("/engine/nodes/{name}", remove),
    web.get("/engine/cluster/token", token),
    web.post("/engine/cluster/join", join),
    web.post("/engine/cluster/leave", leave),
]
