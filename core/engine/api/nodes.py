"""The nodes of the cluster, and entering and leaving it: ours, below `/engine`."""

from __future__ import annotations

from aiohttp import web

from engine.api.requests import call, json_body, reply, required_text, services, text


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
    node = await call(
        request, services(request).nodes.join, required_text(body, "Token"), advertise=text(body, "Advertise"),
        node=text(body, "Name"),
    )  # fmt: skip
    return reply(node)


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
