"""Long work on volumes, below `/engine/volumes`: backups, archives, snapshots, copies, and the jobs that do them.

Progress is streamed as docker's JSON messages; the last one carries the result as `aux`. A client that goes away does
not end the job; with `detach=1` it does not wait at all. Only import and export end with their client.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from aiohttp import web

from engine.api.requests import call, flag, json_body, reply, required, required_text, services, strings, text
from engine.api.services.data import JsonObject
from engine.api.services.volumes import VolumeWork
from engine.api.transfer import RequestStream, send_messages, send_stream
from engine.spec.errors import InvalidParameter
from engine.volume.jobs.record import JobRecord

Begin = Callable[[VolumeWork], JobRecord]


def _message(record: JobRecord, progress: Mapping[str, Any]) -> JsonObject:
    """Return docker's JSON message of a step."""
    if not progress:
        return {"status": "Starting", "id": record.name, "progressDetail": {}, "job": record.id}
    detail = {"current": progress["done"]} if progress["done"] else {}
    if progress["done"] and progress["total"]:
        detail["total"] = progress["total"]
    if progress["unit"] != "bytes":
        detail["units"] = progress["unit"]
    return {"status": progress["step"], "id": record.name, "progressDetail": detail}


async def _run(request: web.Request, begin: Begin) -> web.StreamResponse:
    """Begin a job; stream its progress and its result, or with `detach=1` answer with its id."""
    work = services(request).volume_work
    if flag(request, "detach"):
        record = await call(request, begin, work)
        return reply({"ID": record.id}, status=202)

    def run(put: Callable[[JsonObject], None]) -> None:
        record = begin(work)
        put(_message(record, {}))
        ended = work.jobs.follow(record.id, lambda progress: put(_message(record, progress)))
        put({"aux": dict(ended.result)})

    return await send_messages(request, run)


def _name(request: web.Request) -> str:
    return request.match_info["name"]


def _repository(body: JsonObject) -> tuple[str, dict[str, str], str]:
    return required_text(body, "URL"), strings(body, "Options"), text(body, "Password")


async def backup(request: web.Request) -> web.StreamResponse:
    """Add a snapshot to a repository: `URL`, `Options`, `Password` (where it is)."""
    body = await json_body(request)
    name, (url, options, password) = _name(request), _repository(body)
    return await _run(request, lambda work: work.backup(name, url, options, password))


async def restore(request: web.Request) -> web.StreamResponse:
    """Fill a volume from a repository: `URL`, `Options`, `Password`, `Snapshot`, `Of`, `Force`."""
    body = await json_body(request)
    name, (url, options, password) = _name(request), _repository(body)
    snapshot, of, force = text(body, "Snapshot"), text(body, "Of"), bool(body.get("Force"))
    return await _run(
        request, lambda work: work.restore(name, url, options, password, snapshot=snapshot, of=of, force=force)
    )


async def export(request: web.Request) -> web.StreamResponse:
    """Send the content as a tar. A failure in the middle cuts the connection."""
    stream = await call(request, services(request).volume_work.export, _name(request))
    return await send_stream(request, stream, "application/x-tar")


async def import_(request: web.Request) -> web.Response:
    """Fill a volume from a tar in the body, also compressed."""
    work = services(request).volume_work
    record = await call(request, work.import_, _name(request), RequestStream(request))
    return reply(dict(record.result))


async def snapshot(request: web.Request) -> web.StreamResponse:
    """Take a snapshot: `Tag`, `Consistency`."""
    body, name = await json_body(request, optional=True), _name(request)
    tag, consistency = text(body, "Tag"), text(body, "Consistency")
    return await _run(request, lambda work: work.snapshot(name, tag, consistency))


async def list_snapshots(request: web.Request) -> web.Response:
    """List snapshots."""
    found = await call(request, services(request).volume_work.snapshots, _name(request))
    return reply([one.describe() for one in found])


async def remove_snapshot(request: web.Request) -> web.Response:
    """Remove a snapshot."""
    work = services(request).volume_work
    await call(request, work.remove_snapshot, _name(request), request.match_info["snapshot"])
    return web.Response(status=204)


async def rollback(request: web.Request) -> web.StreamResponse:
    """Go back to a snapshot: `Snapshot`."""
    body, name = await json_body(request), _name(request)
    ref = required_text(body, "Snapshot")
    return await _run(request, lambda work: work.rollback(name, ref))


async def clone(request: web.Request) -> web.StreamResponse:
    """Make a new volume with a copy of the data: `Name`, `Consistency`."""
    body, name = await json_body(request), _name(request)
    new, consistency = required_text(body, "Name"), text(body, "Consistency")
    return await _run(request, lambda work: work.clone(name, new, consistency))


async def usage(request: web.Request) -> web.StreamResponse:
    """Measure what a volume holds."""
    name = _name(request)
    return await _run(request, lambda work: work.usage(name))


async def scrub(request: web.Request) -> web.StreamResponse:
    """Read everything, and say what is not as it should be; with `accept=1` it counts as what should be from now on."""
    name, accept = _name(request), flag(request, "accept")
    return await _run(request, lambda work: work.scrub(name, accept=accept))


async def rename(request: web.Request) -> web.Response:
    """Give another name: the parameter `name`, as for containers."""
    await call(request, services(request).volume_work.rename, _name(request), required(request, "name"))
    return web.Response(status=204)


async def update(request: web.Request) -> web.Response:
    """Change labels: `Labels` are added, those named in `RemoveLabels` removed."""
    body = await json_body(request)
    remove = body.get("RemoveLabels") or []
    if not isinstance(remove, list) or not all(isinstance(label, str) for label in remove):
        raise InvalidParameter("invalid RemoveLabels: a list of strings is expected")
    record = await call(request, services(request).volume_work.relabel, _name(request), strings(body, "Labels"), remove)
    return reply({"Labels": dict(record.labels)})


async def jobs(request: web.Request) -> web.Response:
    """List jobs, of one volume or all."""
    found = await call(request, services(request).volume_work.jobs.list, request.match_info.get("name", ""))
    return reply([record.describe() for record in found])


async def follow(request: web.Request) -> web.StreamResponse:
    """Stream the progress of a job that was begun before."""
    id = request.match_info["id"]
    record = await call(request, services(request).volume_work.jobs.get, id)
    return await _run(request, lambda work: record)


async def cancel(request: web.Request) -> web.Response:
    """Ask a job to give up."""
    record = await call(request, services(request).volume_work.jobs.cancel, request.match_info["id"])
    return reply(record.describe())


async def backup_key(request: web.Request) -> web.Response:
    """Return the engine's own key of repositories, for a stock restic."""
    return reply({"Key": await call(request, services(request).volume_work.jobs.show_backup_key)})


_ONE = "/engine/volumes/{name}"
ROUTES = [
    web.get("/engine/volume-jobs", jobs),
    web.get("/engine/volume-jobs/{id}", follow),
    web.delete("/engine/volume-jobs/{id}", cancel),
    web.get("/engine/volume-backup-key", backup_key),
    web.get(f"{_ONE}/jobs", jobs),
    web.get(f"{_ONE}/snapshots", list_snapshots),
    web.delete(f"{_ONE}/snapshots/{{snapshot}}", remove_snapshot),
    web.post(f"{_ONE}/backup", backup),
    web.post(f"{_ONE}/restore", restore),
    web.post(f"{_ONE}/export", export),
    web.post(f"{_ONE}/import", import_),
    web.post(f"{_ONE}/snapshot", snapshot),
    web.post(f"{_ONE}/rollback", rollback),
    web.post(f"{_ONE}/clone", clone),
    web.post(f"{_ONE}/usage", usage),
    web.post(f"{_ONE}/scrub", scrub),
    web.post(f"{_ONE}/rename", rename),
    web.post(f"{_ONE}/update", update),
]
