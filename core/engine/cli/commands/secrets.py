"""secret create, ls, inspect, rm."""

from __future__ import annotations

import base64
import sys
from pathlib import Path
from typing import Annotated

import typer

from engine.cli.base import argument, client_of, option
from engine.cli.commands.lifecycle import for_each
from engine.cli.commands.listing import inspect_objects
from engine.cli.errors import BadValue
from engine.cli.parse.pairs import filters, labels
from engine.cli.render.table import write_rows
from engine.cli.render.words import ago, parse_time

Many = list[str] | None
_COLUMNS = {"ID": "ID", "Name": "NAME", "CreatedAt": "CREATED"}
_LARGEST = 500 << 10


def create(
    ctx: typer.Context,
    name: Annotated[str, argument("NAME")],
    file: Annotated[str, argument("[FILE|-]", help="Where its bytes are read; - is standard input")] = "-",
    label: Annotated[Many, option("-l", "--label", metavar="KEY[=VALUE]", help="Label")] = None,
) -> None:
    """Keep a secret in the engine, from a file or from standard input."""
    body = {"Name": name, "Data": base64.b64encode(_bytes(file)).decode(), "Labels": labels(label or ())}
    print(client_of(ctx).post("/secrets/create", body=body)["ID"])


def _bytes(file: str) -> bytes:
    if file == "-":
        return sys.stdin.buffer.read(_LARGEST + 1)
    try:
        with Path(file).open("rb") as source:
            return source.read(_LARGEST + 1)
    except OSError as err:
        raise BadValue("FILE", file, err.strerror or str(err)) from err


def ls(
    ctx: typer.Context,
    quiet: Annotated[bool, option("-q", "--quiet", help="Only ids")] = False,
    filter: Annotated[Many, option("-f", "--filter", metavar="KEY=VALUE", help="Condition")] = None,
    format: Annotated[str, option("--format", metavar="TEMPLATE", help="json, or a Go template")] = "",
) -> None:
    """List secrets; their bytes are never shown."""
    found = client_of(ctx).get("/secrets", {"filters": filters(filter or ())}) or []
    rows = [
        {
            "ID": secret["ID"],
            "Name": secret["Spec"]["Name"],
            "CreatedAt": ago(parse_time(secret["CreatedAt"]) or 0.0),
            "Labels": ",".join(f"{k}={v}" for k, v in sorted((secret["Spec"].get("Labels") or {}).items())),
        }
        for secret in found
    ]
    write_rows(rows, _COLUMNS, format=format, quiet=(lambda row: str(row["ID"])) if quiet else None)


def inspect(
    ctx: typer.Context,
    names: Annotated[list[str], argument("SECRET...")],
    format: Annotated[str, option("-f", "--format", metavar="TEMPLATE", help="json, or a Go template")] = "",
) -> int:
    """Show everything about secrets but their bytes."""
    return inspect_objects(client_of(ctx), names, ["secret"], format)


def rm(ctx: typer.Context, names: Annotated[list[str], argument("SECRET...")]) -> int:
    """Remove secrets that nothing uses."""
    client = client_of(ctx)
    return for_each(names, lambda name: client.delete(f"/secrets/{name}"))
