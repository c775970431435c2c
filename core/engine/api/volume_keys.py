"""The keys of encrypted volumes, below `/engine/volumes/NAME`. Keys travel as base64.

No answer has one but `store-password`: what other programs need to open the volume's store.
"""

from __future__ import annotations

from typing import Literal, cast

from aiohttp import web

from engine.api.requests import call, flag, json_body, reply, services, text
from engine.api.secrets import decoded
from engine.api.services import Services
from engine.api.services.data import JsonObject
from engine.spec.errors import InvalidParameter
from engine.volume.encryption import NewKey


def _name(request: web.Request) -> str:
    return request.match_info["name"]


async def unlock(request: web.Request) -> web.Response:
    """Take the volume's key (`Key`) until the engine ends; containers that waited for it start."""
    body = await json_body(request)
    return reply(await call(request, _unlock, services(request), _name(request), decoded(body.get("Key"), "Key")))


def _unlock(managers: Services, name: str, key: bytes) -> JsonObject:
    slot = managers.volumes.encryption.unlock(name, key)
    return {"Slot": slot, "Started": list(managers.containers.start_waiting(managers.volumes.users(name)))}


async def lock(request: web.Request) -> web.Response:
    """Forget the key that was given."""
    await call(request, services(request).volumes.encryption.lock, _name(request))
    return web.Response(status=204)


async def slots(request: web.Request) -> web.Response:
    """List the key slots: names and where their keys are."""
    return reply(await call(request, services(request).volumes.encryption.slots, _name(request)))


async def rekey(request: web.Request) -> web.Response:
    """Add or change a key slot (`Slot`, and `Source` or `Key`, `Form`), remove one (`Remove`); `Old` opens it now."""
    body = await json_body(request)
    old = None if body.get("Old") is None else decoded(body["Old"], "Old")
    found = await call(
        request, services(request).volumes.encryption.rekey, _name(request), _new_key(body),
        text(body, "Remove"), old,
    )  # fmt: skip
    return reply(found)


def _new_key(body: JsonObject) -> NewKey | None:
    given = None if body.get("Key") is None else decoded(body["Key"], "Key")
    source, form = text(body, "Source"), text(body, "Form") or "text"
    if given is None and not source:
        return None
    if form not in ("text", "bytes"):
        raise InvalidParameter("invalid Form: text or bytes")
    slot = text(body, "Slot") or "main"
    return NewKey(slot, source or "prompt", given, cast(Literal["text", "bytes"], form))


async def store_password(request: web.Request) -> web.Response:
    """Return the password of the volume's store, plain; it must be asked for with `reveal=1`."""
    if not flag(request, "reveal"):
        raise InvalidParameter("the answer has a password in plain text", hint="Ask with reveal=1")
    password = await call(request, services(request).volumes.encryption.password, _name(request))
    return reply({"Password": password.decode()}, headers={"Cache-Control": "no-store"})


ROUTES = [
    web.post("/engine/volumes/{name}/unlock", unlock),
    web.post("/engine/volumes/{name}/lock", lock),
    web.get("/engine/volumes/{name}/keys", slots),
    web.post("/engine/volumes/{name}/rekey", rekey),
    web.get("/engine/volumes/{name}/store-password", store_password),
]
