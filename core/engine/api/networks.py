"""Networks: docker's `/networks/...`, and ours: the plan of a network and the default network of a driver."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from aiohttp import web
from pydantic import ValidationError

from engine.api.requests import call, filters, json_body, reply, required_text, services, strings, text
from engine.api.services import Services
from engine.api.services.data import Filters, JsonObject
from engine.api.services.networks import OwnerPlan
from engine.container.config import EndpointConfig
from engine.container.record import Endpoint
from engine.filters import parse_time
from engine.network.model import NetworkRecord
from engine.spec.errors import InvalidParameter, Unsupported

_NOT_HERE = ("Ingress", "ConfigOnly")
"""Flags of networks of a swarm."""


async def list_networks(request: web.Request) -> web.Response:
    """List."""
    return reply(await call(request, _list, services(request), filters(request)))


def _list(managers: Services, wanted: Filters) -> list[JsonObject]:
    return [{**managers.networks.inspect(record), "Containers": {}} for record in managers.networks.list(wanted)]


async def inspect(request: web.Request) -> web.Response:
    """Inspect."""
    return reply(await call(request, _inspect, services(request), request.match_info["id"]))


def _inspect(managers: Services, ref: str) -> JsonObject:
    return managers.networks.inspect(managers.networks.get(ref))


async def create(request: web.Request) -> web.Response:
    """Create."""
    body = await json_body(request)
    for name in _NOT_HERE:
        if body.get(name):
            raise Unsupported(f"networks with {name} are not supported")
    record = await call(request, _create, services(request), body)
    return reply({"Id": record.id, "Warning": ""}, status=201)


def _create(managers: Services, body: JsonObject) -> NetworkRecord:
    ipam = _object(body, "IPAM")
    pools = ipam.get("Config") or []
    if not isinstance(pools, list) or not all(isinstance(pool, dict) for pool in pools):
        raise InvalidParameter("invalid IPAM.Config: a list of objects is expected")
    return managers.networks.create(
        text(body, "Name"),
        text(body, "Driver"),
        options=strings(body, "Options"),
        ipam=pools,
        ipam_driver=text(ipam, "Driver"),
        ipam_options=strings(ipam, "Options"),
        labels=strings(body, "Labels"),
        internal=bool(body.get("Internal")),
        ipv4=body.get("EnableIPv4") is not False,
        ipv6=bool(body.get("EnableIPv6")),
        attachable=bool(body.get("Attachable")),
        scope=text(body, "Scope"),
    )


def _object(body: JsonObject, key: str) -> JsonObject:
    value = body.get(key) or {}
    if not isinstance(value, dict):
        raise InvalidParameter(f"invalid {key}: an object is expected")
    return value


async def remove(request: web.Request) -> web.Response:
    """Remove."""
    await call(request, services(request).networks.remove, request.match_info["id"])
    return web.Response(status=204)


async def prune(request: web.Request) -> web.Response:
    """Remove those that nobody uses."""
    wanted = filters(request)
    until = min((parse_time(value) for value in wanted.get("until", ())), default=None)
    names = await call(request, services(request).networks.prune, wanted, until)
    return reply({"NetworksDeleted": list(names)})


async def connect(request: web.Request) -> web.Response:
    """Attach a container."""
    body = await json_body(request)
    try:
        settings = EndpointConfig.model_validate(_object(body, "EndpointConfig"))
    except ValidationError as err:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in err.errors())
        raise InvalidParameter("invalid EndpointConfig", why=problems) from err
    manager, wish = services(request).containers, Endpoint(network="", settings=settings)
    await call(request, manager.connect, request.match_info["id"], required_text(body, "Container"), wish)
    return web.Response()


async def disconnect(request: web.Request) -> web.Response:
    """Detach a container."""
    body = await json_body(request)
    manager, network = services(request).containers, request.match_info["id"]
    await call(request, manager.disconnect, network, required_text(body, "Container"), force=bool(body.get("Force")))
    return web.Response()


async def plan(request: web.Request) -> web.Response:
    """Say what a network and its endpoints want on this host, and what is not so. Nothing is changed."""
    return reply(await call(request, _plan, services(request), request.match_info["id"]))


async def verify(request: web.Request) -> web.Response:
    """Ask all hosts whether a network that spans them is there as it should be."""
    return reply(await call(request, services(request).networks.verify, request.match_info["id"]))


def _plan(managers: Services, ref: str) -> JsonObject:
    record = managers.networks.get(ref)
    owners = managers.networks.plan(ref)
    return {"network": record.name, "resources": [row for owner in owners for row in _resources(owner)]}


def _resources(owner: OwnerPlan) -> list[JsonObject]:
    """One row a resource: its state is "ok", what is different, or "planned" while nobody uses the network."""
    different = {difference.key: difference for difference in owner.differences}
    definitions = json.loads(owner.plan.to_json())["resources"]
    rows = []
    for resource, definition in zip(owner.plan.resources, definitions, strict=True):
        row: JsonObject = {"owner": owner.title, "resource": "/".join(resource.key), "definition": definition}
        found = different.pop(resource.key, None)
        if found is not None:
            row |= {"state": found.state, "fields": _fields(found.fields)}
        else:
            row["state"] = "ok" if owner.in_use else "planned"
        rows.append(row)
    for key, left in different.items():  # what is there and not in the plan
        rows.append(
            {"owner": owner.title, "resource": "/".join(key), "state": left.state, "fields": _fields(left.fields)}
        )
    return rows


def _fields(fields: Mapping[str, tuple[object, object]]) -> dict[str, list[Any]]:
    return {name: [str(wanted), str(seen)] for name, (wanted, seen) in fields.items()}


async def default(request: web.Request) -> web.Response:
    """Return the network that `--net-driver` means, created on first use. Body: `{"Driver": ..., "Options": {...}}`."""
    body = await json_body(request)
    driver = text(body, "Driver")
    if not driver:
        raise InvalidParameter("missing Driver")
    return reply(await call(request, _default, services(request), driver, strings(body, "Options")))


def _default(managers: Services, driver: str, options: dict[str, str]) -> JsonObject:
    return managers.networks.inspect(managers.networks.default_network(driver, options))


ROUTES = [
    web.get("/networks", list_networks),
    web.post("/networks/create", create),
    web.post("/networks/prune", prune),
    web.get("/networks/{id}", inspect),
    web.delete("/networks/{id}", remove),
    web.post("/networks/{id}/connect", connect),
    web.post("/networks/{id}/disconnect", disconnect),
    web.get("/engine/networks/{id}/plan", plan),
    web.post("/engine/networks/{id}/verify", verify),
    web.post("/engine/network/default", default),
]
