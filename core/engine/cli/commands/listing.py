"""ps, inspect, logs, top, port, diff, stats, events: what containers are and do."""

from __future__ import annotations

import json
import sys
import time
from typing import Annotated, Any

import typer

from engine.cli.base import argument, client_of, option
from engine.cli.client import Client
from engine.cli.errors import ApiError, Failure
from engine.cli.parse.amounts import integer, moment
from engine.cli.parse.pairs import filters
from engine.cli.render.table import Row, write_columns, write_objects, write_rows
from engine.cli.render.template import Template
from engine.cli.render.words import ago, bytes_decimal, ellipsis, local_time, ports_text, short_id, utc_time
from engine.cli.streams import copy_output

Format = Annotated[str, option("--format", metavar="TEMPLATE", help="json, table TEMPLATE, or a Go template")]
NoTrunc = Annotated[bool, option("--no-trunc", help="Do not cut long values")]
Filter = Annotated[list[str] | None, option("-f", "--filter", metavar="KEY=VALUE", help="Choose by a condition")]
Container = Annotated[str, argument("CONTAINER")]

_COLUMNS = {
    "ID": "CONTAINER ID", "Image": "IMAGE", "Command": "COMMAND", "RunningFor": "CREATED", "Status": "STATUS",
    "Ports": "PORTS", "Names": "NAMES",
}  # fmt: skip


def container_row(found: dict[str, Any], *, full: bool, now: float) -> Row:
    """Return the fields of `docker ps` for a container summary of the API."""
    command = str(found.get("Command") or "")
    labels, virtual = found.get("Labels") or {}, found.get("SizeRootFs") or 0
    return {
        "ID": found["Id"] if full else short_id(found["Id"]),
        "Image": found["Image"] if full or not found["Image"].startswith("sha256:") else short_id(found["Image"]),
        "Command": json.dumps(command if full else ellipsis(command, 20), ensure_ascii=False),
        "CreatedAt": local_time(found["Created"]),
        "RunningFor": ago(found["Created"], now),
        "Status": found["Status"],
        "State": found["State"],
        "Ports": ports_text(found.get("Ports") or []),
        "Names": ",".join(name.lstrip("/") for name in found.get("Names") or ()),
        "Labels": ",".join(f"{k}={v}" for k, v in sorted(labels.items())),
        "Networks": ",".join(sorted((found.get("NetworkSettings") or {}).get("Networks") or {})),
        "Mounts": ",".join(m.get("Name") or m.get("Source", "") for m in found.get("Mounts") or ()),
        "LocalVolumes": str(sum(m.get("Driver") == "local" for m in found.get("Mounts") or ())),
        "Size": f"{bytes_decimal(found.get('SizeRw') or 0, 3)} (virtual {bytes_decimal(virtual, 3)})",
    }


def ps(
    ctx: typer.Context,
    all: Annotated[bool, option("-a", "--all", help="Also those that do not run")] = False,
    quiet: Annotated[bool, option("-q", "--quiet", help="Only ids")] = False,
    last: Annotated[int, option("-n", "--last", metavar="NUMBER", help="The last N created, in any state")] = -1,
    latest: Annotated[bool, option("-l", "--latest", help="The last created, in any state")] = False,
    size: Annotated[bool, option("-s", "--size", help="Also show sizes")] = False,
    no_trunc: NoTrunc = False,
    filter: Filter = None,
    format: Format = "",
) -> None:
    """List containers."""
    limit = 1 if latest else last if last > 0 else None
    query = {"all": all, "limit": limit, "size": size or "Size" in format, "filters": filters(filter or ())}
    found = client_of(ctx).get("/containers/json", query)
    now = time.time()
    rows = [container_row(c, full=no_trunc, now=now) for c in found]
    columns = {**_COLUMNS, "Size": "SIZE"} if size else _COLUMNS
    write_rows(rows, columns, format=format, quiet=(lambda row: str(row["ID"])) if quiet else None)


_KINDS = {
    "secret": "/secrets/{}",
    "container": "/containers/{}/json", "image": "/images/{}/json", "network": "/networks/{}",
    "volume": "/volumes/{}",
}  # fmt: skip


def inspect(
    ctx: typer.Context,
    names: Annotated[list[str], argument("NAME...")],
    format: Annotated[str, option("-f", "--format", metavar="TEMPLATE", help="json, or a Go template")] = "",
    type: Annotated[str, option("--type", metavar="KIND", help="container, image, network or volume")] = "",
    size: Annotated[bool, option("-s", "--size", help="Also the sizes of containers")] = False,
) -> int:
    """Show everything about objects of any kind."""
    if type and type not in _KINDS:
        raise Failure(f"unknown kind {type!r}: use container, image, network or volume")
    return inspect_objects(client_of(ctx), names, [type] if type else list(_KINDS), format, {"size": size})


def inspect_objects(
    client: Client, names: list[str], kinds: list[str], format: str, query: dict[str, Any] | None = None
) -> int:
    """Print objects, looked for in the kinds given; the exit code is 1 if any was not found."""
    found, errors = [], []
    for name in names:
        for kind in kinds:
            try:
                found.append(client.get(_KINDS[kind].format(name), query if kind == "container" else None))
                break
            except ApiError as err:
                if err.status not in (404, 400):
                    raise
                reason = str(err)
        else:
            errors.append(reason if len(kinds) == 1 else f"no such object: {name}")
    write_objects(found, format)
    for error in errors:
        print(f"engine: {error}", file=sys.stderr)
    return int(bool(errors))


def logs(
    ctx: typer.Context,
    container: Container,
    follow: Annotated[bool, option("-f", "--follow", help="Go on as it writes")] = False,
    tail: Annotated[str, option("-n", "--tail", metavar="LINES", help="Only the last lines (all)")] = "all",
    since: Annotated[str, option("--since", metavar="TIME", help="From a time, or 10m ago")] = "",
    until: Annotated[str, option("--until", metavar="TIME", help="Up to a time, or 10m ago")] = "",
    timestamps: Annotated[bool, option("-t", "--timestamps", help="Show the time of each line")] = False,
    details: Annotated[bool, option("--details", help="Show further attributes")] = False,
) -> None:
    """Show what a container wrote."""
    if tail != "all":
        tail = str(integer("--tail", tail, -1, 2**31))
    query = {
        "stdout": True, "stderr": True, "follow": follow, "tail": tail, "timestamps": timestamps, "details": details,
        "since": moment("--since", since) if since else "", "until": moment("--until", until) if until else "",
    }  # fmt: skip
    client = client_of(ctx)
    found = client.get(f"/containers/{container}/json")
    response = client.send("GET", f"/containers/{found['Id']}/logs", query)
    copy_output(response.chunks(), raw=bool(found["Config"].get("Tty")))


def top(
    ctx: typer.Context,
    container: Container,
    arguments: Annotated[list[str] | None, argument("[PS_ARGUMENTS]...")] = None,
) -> None:
    """List the processes of a container."""
    found = client_of(ctx).get(f"/containers/{container}/top", {"ps_args": " ".join(arguments or ())})
    write_columns(found["Titles"], found["Processes"], least=20)


def port(
    ctx: typer.Context,
    container: Container,
    private: Annotated[str | None, argument("[PORT[/PROTO]]")] = None,
) -> None:
    """List published ports."""
    settings = client_of(ctx).get(f"/containers/{container}/json")["NetworkSettings"]
    ports: dict[str, list[dict[str, str]] | None] = settings.get("Ports") or {}
    wanted = None if private is None else private if "/" in private else f"{private}/tcp"
    if wanted is not None and not ports.get(wanted):
        raise Failure(f"port {wanted} of container {container} is not published")
    for name, bindings in sorted(ports.items(), key=lambda item: int(item[0].split("/")[0])):
        for binding in bindings or ():
            address = binding["HostIp"]
            side = f"{f'[{address}]' if ':' in address else address}:{binding['HostPort']}"
            if wanted is None:
                print(f"{name} -> {side}")
            elif name == wanted:
                print(side)


def diff(ctx: typer.Context, container: Container) -> None:
    """List what changed in a container's file system: A added, C changed, D deleted."""
    for change in client_of(ctx).get(f"/containers/{container}/changes") or ():
        print("CAD"[change["Kind"]], change["Path"])


def events(
    ctx: typer.Context,
    since: Annotated[str, option("--since", metavar="TIME", help="From a time, or 10m ago")] = "",
    until: Annotated[str, option("--until", metavar="TIME", help="Up to a time")] = "",
    filter: Filter = None,
    format: Format = "",
) -> None:
    """Show what happens, as it happens."""
    query = {
        "since": moment("--since", since) if since else "", "until": moment("--until", until) if until else "",
        "filters": filters(filter or ()),
    }  # fmt: skip
    template = Template(format) if format and format != "json" else None
    for event in client_of(ctx).send("GET", "/events", query).json_lines():
        if format == "json":
            print(json.dumps(event, ensure_ascii=False), flush=True)
        elif template is not None:
            print(template.render(event), flush=True)
        else:
            print(event_line(event), flush=True)


def event_line(event: dict[str, Any]) -> str:
    """Return an event as docker prints it."""
    actor = event.get("Actor") or {}
    attributes = ", ".join(f"{k}={v}" for k, v in sorted((actor.get("Attributes") or {}).items()))
    nanoseconds = int(event.get("timeNano") or int(event.get("time", 0)) * 1_000_000_000)
    moment_text = utc_time(nanoseconds // 1_000_000_000).removesuffix("Z") + f".{nanoseconds % 1_000_000_000:09d}Z"
    text = f"{moment_text} {event.get('Type', '')} {event.get('Action', '')} {actor.get('ID', '')}"
    return f"{text} ({attributes})" if attributes else text
