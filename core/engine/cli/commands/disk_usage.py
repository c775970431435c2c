"""system df: what takes how much disk."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from engine.cli.base import client_of, option
from engine.cli.commands.images import image_rows
from engine.cli.commands.listing import container_row
from engine.cli.commands.system import write_objects_one
from engine.cli.render.table import Row, write_rows
from engine.cli.render.words import bytes_decimal

_DETAILS = {
    "Images": {
        "Repository": "REPOSITORY", "Tag": "TAG", "ID": "IMAGE ID", "CreatedSince": "CREATED", "Size": "SIZE",
        "Containers": "CONTAINERS",
    },
    "Containers": {
        "ID": "CONTAINER ID", "Image": "IMAGE", "Command": "COMMAND", "Size": "SIZE", "RunningFor": "CREATED",
        "Status": "STATUS", "Names": "NAMES",
    },
    "Local Volumes": {"Name": "VOLUME NAME", "Driver": "DRIVER", "Links": "LINKS", "Size": "SIZE"},
}  # fmt: skip
"""Columns of each table of `--verbose`."""


def df(
    ctx: typer.Context,
    verbose: Annotated[bool, option("-v", "--verbose", help="Each object")] = False,
    format: Annotated[str, option("--format", metavar="TEMPLATE", help="json, or a Go template")] = "",
) -> None:
    """Show how much disk images, containers and volumes take."""
    found = client_of(ctx).get("/system/df")
    if verbose:
        _verbose(found, format)
        return
    images, containers = found.get("Images") or [], found.get("Containers") or []
    volumes, cache = found.get("Volumes") or [], found.get("BuildCache") or []
    used_images = [i for i in images if i.get("Containers", 0) > 0]
    used_volumes = [v for v in volumes if (v.get("UsageData") or {}).get("RefCount", 0) > 0]
    running = [c for c in containers if c.get("State") in ("running", "paused", "restarting")]
    layers = found.get("LayersSize") or 0
    shared = sum(max(i["Size"] - max(i.get("SharedSize", 0), 0), 0) for i in used_images)

    def written(of: list[dict[str, Any]], key: str = "SizeRw") -> int:
        return sum(c.get(key) or 0 for c in of)

    def volume_size(of: list[dict[str, Any]]) -> int:
        return sum(max((v.get("UsageData") or {}).get("Size", 0), 0) for v in of)

    idle = [c for c in containers if c not in running]
    unused = volume_size(volumes) - volume_size(used_volumes)
    rows = [
        _df_row("Images", images, used_images, layers, max(layers - shared, 0)),
        _df_row("Containers", containers, running, written(containers), written(idle)),
        _df_row("Local Volumes", volumes, used_volumes, volume_size(volumes), unused),
        _df_row("Build Cache", cache, [], written(cache, "Size"), written(cache, "Size")),
    ]
    columns = {
        "Type": "TYPE", "TotalCount": "TOTAL", "Active": "ACTIVE", "Size": "SIZE", "Reclaimable": "RECLAIMABLE",
    }  # fmt: skip
    write_rows(rows, columns, format=format)


def _df_row(kind: str, all: list[Any], active: list[Any], size: int, free: int) -> dict[str, str]:
    share = f" ({100 * free // size}%)" if size else ""
    return {
        "Type": kind,
        "TotalCount": str(len(all)),
        "Active": str(len(active)),
        "Size": bytes_decimal(size, 4),
        "Reclaimable": bytes_decimal(free, 4) + share,
    }


def _verbose(found: dict[str, Any], format: str) -> None:
    if format:
        write_objects_one(found, format)
        return
    now = time.time()
    images = [image_rows(i, full=False, digests=False, now=now) for i in found.get("Images") or ()]
    rows: dict[str, list[Row]] = {
        "Images": [row for of_one in images for row in of_one],
        "Containers": [container_row(c, full=False, now=now) for c in found.get("Containers") or ()],
        "Local Volumes": [_volume_row(v) for v in found.get("Volumes") or ()],
    }
    for number, (title, columns) in enumerate(_DETAILS.items()):
        print(*([""] if number else []), f"{title} space usage:", "", sep="\n")
        write_rows(rows[title], columns)


def _volume_row(found: dict[str, Any]) -> dict[str, str]:
    usage = found.get("UsageData") or {}
    size = usage.get("Size", -1)
    return {
        "Name": found["Name"],
        "Driver": found["Driver"],
        "Links": str(max(usage.get("RefCount", 0), 0)),
        "Size": bytes_decimal(size, 4) if size >= 0 else "N/A",
    }
