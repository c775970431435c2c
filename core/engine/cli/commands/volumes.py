"""volume create, ls, inspect, sync, rm, prune."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from engine.cli.base import argument, client_of, option
from engine.cli.commands.lifecycle import Force, for_each, report_pruned
from engine.cli.commands.listing import inspect_objects
from engine.cli.commands.volume_keys import asked_twice, text_of
from engine.cli.errors import Failure
from engine.cli.parse.pairs import filters, labels, options
from engine.cli.render.progress import Progress
from engine.cli.render.table import write_rows
from engine.cli.terminal import confirm

_COLUMNS = {"Driver": "DRIVER", "Name": "VOLUME NAME"}
Many = list[str] | None


def create(
    ctx: typer.Context,
    name: Annotated[str | None, argument("[NAME]")] = None,
    driver: Annotated[str, option("-d", "--driver", metavar="DRIVER", help="Volume driver (local)")] = "local",
    opt: Annotated[Many, option("-o", "--opt", metavar="KEY=VALUE", help="Option of the driver")] = None,
    label: Annotated[Many, option("--label", metavar="KEY[=VALUE]", help="Label")] = None,
) -> None:
    """Make a volume. With `-o prompt=true` its passphrase is asked for."""
    given = options("--opt", opt or ())
    body: dict[str, Any] = {"Name": name or "", "Driver": driver, "DriverOpts": given, "Labels": labels(label or ())}
    if given.get("prompt", "").lower() in ("true", "1", "yes", "on"):
        body["Key"] = text_of(asked_twice(name or ""))
    print(client_of(ctx).post("/volumes/create", body=body)["Name"])


def ls(
    ctx: typer.Context,
    quiet: Annotated[bool, option("-q", "--quiet", help="Only names")] = False,
    filter: Annotated[Many, option("-f", "--filter", metavar="KEY=VALUE", help="Condition")] = None,
    format: Annotated[str, option("--format", metavar="TEMPLATE", help="json, or a Go template")] = "",
) -> None:
    """List volumes."""
    found = client_of(ctx).get("/volumes", {"filters": filters(filter or ())}).get("Volumes") or []
    rows = [
        {
            "Driver": v["Driver"],
            "Name": v["Name"],
            "Mountpoint": v.get("Mountpoint", ""),
            "Scope": v.get("Scope", ""),
            "Labels": ",".join(f"{k}={w}" for k, w in sorted((v.get("Labels") or {}).items())),
            "Status": v.get("Status") or {},
        }
        for v in sorted(found, key=lambda v: v["Name"])
    ]
    write_rows(rows, _COLUMNS, format=format, quiet=(lambda row: str(row["Name"])) if quiet else None)


def inspect(
    ctx: typer.Context,
    names: Annotated[list[str], argument("VOLUME...")],
    format: Annotated[str, option("-f", "--format", metavar="TEMPLATE", help="json, or a Go template")] = "",
) -> int:
    """Show everything about volumes."""
    return inspect_objects(client_of(ctx), names, ["volume"], format)


def sync(
    ctx: typer.Context,
    volumes: Annotated[list[str], argument("VOLUME...")],
    timeout: Annotated[int, option("-t", "--timeout", metavar="SECONDS", help="Wait at most so long")] = 3600,
    quiet: Annotated[bool, option("-q", "--quiet", help="No progress")] = False,
) -> int:
    """Wait until what is changed now is in the volumes' stores."""
    client = client_of(ctx)

    def wait(name: str) -> None:
        response = client.send("POST", f"/engine/volumes/{name}/sync", {"timeout": timeout})
        Progress(sys.stderr, quiet=quiet).show(response.json_lines())

    return for_each(volumes, wait)


def rm(
    ctx: typer.Context,
    volumes: Annotated[list[str], argument("VOLUME...")],
    force: Annotated[
        bool, option("-f", "--force", help="Also with changes that are not uploaded; one that is gone is no error")
    ] = False,
) -> int:
    """Remove volumes and their data."""
    client = client_of(ctx)

    def remove(name: str) -> None:
        try:
            client.delete(f"/volumes/{name}", {"force": force})
        except Failure as err:
            if not (force and getattr(err, "status", 0) == 404):
                raise

    return for_each(volumes, remove)


def prune(
    ctx: typer.Context,
    all: Annotated[bool, option("-a", "--all", help="Also named volumes, not only anonymous ones")] = False,
    force: Force = False,
    filter: Annotated[Many, option("--filter", metavar="KEY=VALUE", help="Condition")] = None,
) -> None:
    """Remove volumes that no container uses, and their data."""
    which = "all volumes" if all else "all anonymous volumes"
    if not force and not confirm(f"This removes {which} that no container uses. Go on?"):
        return
    chosen = filters(filter or ()) or {}
    if all:
        chosen["all"] = ["true"]
    answer = client_of(ctx).post("/volumes/prune", {"filters": chosen or None}) or {}
    report_pruned("Deleted Volumes:", answer.get("VolumesDeleted"), answer.get("SpaceReclaimed"))
