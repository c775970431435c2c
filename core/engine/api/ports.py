"""Published ports of running containers, below `/engine`: added, removed, moved to another container."""

from __future__ import annotations

from typing import Any

from aiohttp import web
from pydantic import ValidationError

from engine.api.requests import call, json_body, reply, services
from engine.network.model import PortSpan
from engine.spec.errors import InvalidParameter


async def add(request: web.Request) -> web.Response:
    """Publish. Body: `{"PortBindings": {"80/tcp": [{"HostIp": "", "HostPort": "8080"}]}}`; answers with all ports."""
    bindings = (await json_body(request)).get("PortBindings")
    if not isinstance(bindings, dict):
        raise InvalidParameter("invalid PortBindings: an object is expected")
    ports = await call(request, services(request).containers.ports.add, request.match_info["id"], bindings)
    return reply({"Ports": ports})


async def remove(request: web.Request) -> web.Response:
    """Publish no longer. Body: `{"Ports": [{"HostPort": 8080, "Count": 1, "HostIp": "", "Protocol": "tcp"}]}`."""
    found = (await json_body(request)).get("Ports")
    if not isinstance(found, list) or not found:
        raise InvalidParameter("invalid Ports: a list of objects is expected")
    which = [_span(item) for item in found]
    await call(request, services(request).containers.ports.remove, request.match_info["id"], which)
    return web.Response(status=204)


async def move(request: web.Request) -> web.Response:
    """Let a port lead to another container. Body: `{"To": "web2", "Port": {"HostPort": 8080}, "TargetPort": 0}`."""
    body = await json_body(request)
    to, target = body.get("To"), body.get("TargetPort") or 0
    if not isinstance(to, str) or not to:
        raise InvalidParameter("missing To")
    if not isinstance(target, int) or not 0 <= target <= 65535:
        raise InvalidParameter(f"invalid TargetPort {target!r}")
    span = _span(body.get("Port"))
    await call(request, services(request).containers.ports.move, request.match_info["id"], to, span, target)
    return web.Response(status=204)


def _span(item: Any) -> PortSpan:
    """Read which ports are meant. Raises InvalidParameter."""
    if not isinstance(item, dict):
        raise InvalidParameter("invalid port: an object is expected")
    try:
        span = PortSpan(
            protocol=item.get("Protocol") or "tcp",
            host_ip=item.get("HostIp") or "",
            host_port=item.get("HostPort") or 0,
            count=item.get("Count") or 1,
            target_port=item.get("ContainerPort") or 0,
        )
    except ValidationError as err:
        raise InvalidParameter("invalid port", why=err.errors()[0]["msg"]) from err
    if not (span.host_port >= 1 and span.count >= 1 and span.host_port + span.count <= 65536):
        raise InvalidParameter(f"the port {span.text} is outside 1-65535")
    return span


ROUTES = [
    web.post("/engine/containers/{id}/ports", add),
    web.post("/engine/containers/{id}/ports/remove", remove),
    web.post("/engine/containers/{id}/ports/move", move),
]
