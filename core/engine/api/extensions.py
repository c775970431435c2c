"""What is ours beside docker's API, below `/engine`: drivers, plans, the doctor, default networks."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from engine.api.requests import call, flag, reply, services
from engine.api.services import Services
from engine.api.services.data import JsonObject
from engine.plugins import SPECS, DriverInfo, describe
from engine.spec.errors import DriverFault, EngineError, NotFound

_KINDS = {group.removeprefix("engine."): group for group in SPECS}
"""network, ipam, volume, storage -> entry-point group."""


def _group(kind: str) -> str:
    if kind not in _KINDS:
        raise NotFound(f"there is no kind of driver {kind!r}", hint=f"Kinds: {', '.join(_KINDS)}")
    return _KINDS[kind]


def _row(info: DriverInfo) -> JsonObject:
    return {
        "Name": info.name,
        "Kind": info.group.removeprefix("engine."),
        "Group": info.group,
        "Distribution": info.distribution,
        "Version": info.version,
        "Status": info.status,
        "Reason": info.reason,
        "Spec": info.spec,
    }


async def list_drivers(request: web.Request) -> web.Response:
    """List installed drivers, of one `kind` or all."""
    kind = request.query.get("kind", "")
    groups = [_group(kind)] if kind else list(_KINDS.values())
    found = await call(request, services(request).plugins.info)
    return reply([_row(info) for info in found if info.group in groups])


async def show_driver(request: web.Request) -> web.Response:
    """Describe a driver; it is loaded for that. A broken one is shown with its reason."""
    return reply(await call(request, _show, services(request), *_named(request)))


def _named(request: web.Request) -> tuple[str, str]:
    return _group(request.match_info["kind"]), request.match_info["name"]


def _show(managers: Services, group: str, name: str) -> JsonObject:
    try:
        found = describe(managers.plugins, group, name)
    except DriverFault as err:
        return {**_state(managers, group, name, err), "Doc": "", "Capabilities": {}, "Options": {}}
    return {**_row(found.info), "Doc": found.summary, "Capabilities": found.caps, "Options": found.schema}


async def check_driver(request: web.Request) -> web.Response:
    """Load a driver, and say whether it can be used."""
    return reply(await call(request, _check, services(request), *_named(request)))


def _check(managers: Services, group: str, name: str) -> JsonObject:
    try:
        managers.plugins.get(group, name)
    except NotFound:
        raise
    except EngineError as err:
        return _state(managers, group, name, err)
    return _state(managers, group, name, None)


def _state(managers: Services, group: str, name: str, error: EngineError | None) -> JsonObject:
    """The row of a driver; where loading failed, its reason is there even if the list does not have it."""
    row = next(_row(info) for info in managers.plugins.info(group) if info.name == name)
    if error is not None:
        row["Reason"] = row["Reason"] or str(error)
        if row["Status"] in ("ok", "not loaded"):
            row["Status"] = "broken"
    return row


async def examine(request: web.Request) -> web.Response:
    """Say where the host is not as it should be."""
    found = await call(request, services(request).doctor.diff)
    return reply({"differences": [_with_detail(difference) for difference in found]})


async def repair(request: web.Request) -> web.Response:
    """Make the host as it should be, and say what was done and what is left."""
    report = await call(request, services(request).doctor.repair)
    return reply(
        {
            "repaired": [_with_detail(difference) for difference in report["repaired"]],
            "differences": [_with_detail(difference) for difference in report["left"]],
        }
    )


async def examine_or_repair(request: web.Request) -> web.Response:
    """`POST /engine/doctor`: examine, and with `repair=1` repair."""
    return await (repair(request) if flag(request, "repair") else examine(request))


def _with_detail(difference: JsonObject) -> JsonObject:
    """Add the difference in words."""
    fields: dict[str, Any] = difference.get("fields") or {}
    changes = ", ".join(f"{name} {seen!r} instead of {wanted!r}" for name, (wanted, seen) in fields.items())
    return {**difference, "detail": f"{difference['state']}: {changes}" if changes else difference["state"]}


ROUTES = [
    web.get("/engine/drivers", list_drivers),
    web.get("/engine/drivers/{kind}/{name}", show_driver),
    web.post("/engine/drivers/{kind}/{name}/check", check_driver),
    web.get("/engine/doctor", examine),
    web.post("/engine/doctor", examine_or_repair),
    web.post("/engine/doctor/repair", repair),
]
