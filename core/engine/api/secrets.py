"""The engine's own secrets: docker's `/secrets`. No answer has a secret's bytes."""

from __future__ import annotations

import base64
import binascii

from aiohttp import web

from engine.api.requests import call, filters, json_body, reply, services, strings
from engine.spec.errors import InvalidParameter, Unsupported


def decoded(value: object, name: str) -> bytes:
    """Return the bytes of a base64 text of a body. Raises InvalidParameter, which does not repeat it."""
    if not isinstance(value, str):
        raise InvalidParameter(f"invalid {name}: base64 is expected")
    try:
        return base64.b64decode(value.encode().translate(bytes.maketrans(b"-_", b"+/")), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidParameter(f"invalid {name}: base64 is expected") from None


async def list_secrets(request: web.Request) -> web.Response:
    """List."""
    found = await call(request, services(request).secrets.list, filters(request))
    return reply([secret.describe() for secret in found])


async def create(request: web.Request) -> web.Response:
    """Keep a new one."""
    body = await json_body(request)
    if body.get("Driver") or body.get("Templating"):
        raise Unsupported("secrets of drivers, and templates, are not supported")
    name = body.get("Name")
    if not isinstance(name, str):
        raise InvalidParameter("invalid Name: a string is expected")
    data = decoded(body.get("Data"), "Data")
    secret = await call(request, services(request).secrets.create, name, data, strings(body, "Labels"))
    return reply({"ID": secret.id}, status=201)


async def inspect(request: web.Request) -> web.Response:
    """Show all but the bytes."""
    return reply((await call(request, services(request).secrets.get, request.match_info["ref"])).describe())


async def remove(request: web.Request) -> web.Response:
    """Remove one that nothing uses."""
    await call(request, services(request).secrets.remove, request.match_info["ref"])
    return web.Response(status=204)


async def update(request: web.Request) -> web.Response:
    """Refused: docker changes labels only."""
    raise Unsupported("secrets are not changed", hint="Remove it and make it again")


ROUTES = [
    web.get("/secrets", list_secrets),
    web.post("/secrets/create", create),
    web.get("/secrets/{ref}", inspect),
    web.delete("/secrets/{ref}", remove),
    web.post("/secrets/{ref}/update", update),
]
