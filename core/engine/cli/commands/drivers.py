"""driver ls, show, check, new: the drivers that are installed, and making another one."""

from __future__ import annotations

import importlib
import json
import os
import sys
import textwrap
from pathlib import Path
from typing import Annotated, Any

import typer

from engine.cli.base import Command, argument, client_of, option, session
from engine.cli.client import Client
from engine.cli.errors import Failure, did_you_mean
from engine.cli.render.table import write_columns, write_rows
from engine.cli.terminal import columns, is_terminal

KINDS = ("network", "ipam", "volume", "storage")
_COLUMNS = {
    "Name": "NAME", "Kind": "KIND", "Distribution": "PACKAGE", "Version": "VERSION", "Spec": "SPEC", "Status": "STATUS",
    "Reason": "REASON",
}  # fmt: skip
_NARROWEST = 40
"""Columns for which text is laid out at least."""
Kind = Annotated[str, option("-k", "--kind", metavar="KIND", help="network, ipam, volume or storage")]


def _check_kind(kind: str) -> None:
    if kind and kind not in KINDS:
        raise Failure(f"unknown kind of driver {kind!r}{did_you_mean(kind, KINDS)}: use {', '.join(KINDS)}")


def ls(
    ctx: typer.Context,
    kind: Kind = "",
    quiet: Annotated[bool, option("-q", "--quiet", help="Only names")] = False,
    format: Annotated[str, option("--format", metavar="TEMPLATE", help="json, or a Go template")] = "",
) -> None:
    """List the drivers that are installed, the broken ones with their reason."""
    _check_kind(kind)
    found = client_of(ctx).get("/engine/drivers", {"kind": kind})
    rows = [{field: d.get(field, "") for field in (*_COLUMNS, "Group")} for d in found]
    write_rows(rows, _COLUMNS, format=format, quiet=(lambda row: str(row["Name"])) if quiet else None)


def find(client: Client, name: str, kind: str = "") -> list[dict[str, Any]]:
    """Return the drivers of a name, one of each kind at most. Raises Failure with a suggestion."""
    _check_kind(kind)
    listed = [d for d in client.get("/engine/drivers", {"kind": kind}) if not kind or d["Kind"] == kind]
    found = [d for d in listed if d["Name"] == name]
    if not found:
        hint = did_you_mean(name, {d["Name"] for d in listed}) or ". See: engine driver ls"
        raise Failure(f"there is no {kind + ' ' if kind else ''}driver {name!r}{hint}")
    return [client.get(f"/engine/drivers/{d['Kind']}/{d['Name']}") for d in found]


def show(
    ctx: typer.Context,
    name: Annotated[str, argument("DRIVER")],
    kind: Kind = "",
    format: Annotated[str, option("--format", metavar="FORMAT", help="json: with the options' JSON schema")] = "",
) -> None:
    """Show what a driver does, what it can, and its options."""
    found = find(client_of(ctx), name, kind)
    if format == "json":
        print(json.dumps(found, indent=2, ensure_ascii=False))
        return
    print("\n".join(driver_text(driver) for driver in found))


def driver_text(driver: dict[str, Any]) -> str:
    """Return a driver's description and options for people."""
    width = min(columns(), 120) if is_terminal(1) else 100
    lines = [f"{driver['Name']} ({driver['Kind']} driver, {driver['Distribution']} {driver['Version']})"]
    if driver.get("Status") not in (None, "", "ok", "not loaded"):
        lines.append(f"  {driver['Status']}: {driver.get('Reason', '')}")
    if driver.get("Doc"):
        lines += ["", *_wrapped(driver["Doc"].strip(), width)]
    if driver.get("Capabilities"):
        lines += ["", "Capabilities:"]
        for key, value in sorted(driver["Capabilities"].items()):
            lines += _wrapped(f"{key}: {_text(value)}", width)
    lines += ["", "Options:"]
    lines += option_lines(driver.get("Options") or {}, width) or ["  none"]
    return "\n".join(lines) + "\n"


def _wrapped(text: str, width: int) -> list[str]:
    """Return lines, indented, and each that is too long for the terminal as several."""
    return [
        part
        for line in text.splitlines()
        for part in textwrap.wrap(
            line, max(_NARROWEST, width), initial_indent="  ", subsequent_indent="  ", break_long_words=False
        )
        or [""]
    ]


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def option_lines(schema: dict[str, Any], width: int) -> list[str]:
    """Return a line or more for each option of a JSON schema of an object."""
    rows = []
    required = set(schema.get("required") or ())
    for name, option_schema in (schema.get("properties") or {}).items():
        text = option_schema.get("description", "").strip()
        extra = []
        if name in required:
            extra.append("required")
        elif option_schema.get("default") not in (None, "", [], {}):
            extra.append(f"default: {_text(option_schema['default'])}")
        rows.append(
            (
                f"{name.replace('_', '-')}={_type(option_schema, schema)}",
                f"{text} ({'; '.join(extra)})" if extra else text,
            )
        )
    width = max(_NARROWEST, width)
    left = min(34, width // 3, max((len(first) for first, _ in rows), default=0))
    lines = []
    for first, text in rows:
        wrapped = textwrap.wrap(text, width - left - 4, break_long_words=False) or [""]
        if len(first) > left:
            lines.append(f"  {first}")
        else:
            lines.append(f"  {first:<{left}}  {wrapped.pop(0)}".rstrip())
        lines += [f"  {'':<{left}}  {line}" for line in wrapped]
    return lines


def _type(option_schema: dict[str, Any], root: dict[str, Any]) -> str:
    """Return what to write for an option's value: a|b for choices, else its type."""
    if "$ref" in option_schema:
        return _type((root.get("$defs") or {}).get(option_schema["$ref"].rsplit("/", 1)[-1], {}), root)
    if "enum" in option_schema:
        return "|".join(map(str, option_schema["enum"]))
    if "const" in option_schema:
        return str(option_schema["const"])
    for key in ("anyOf", "oneOf", "allOf"):
        if key in option_schema:
            parts = [_type(part, root) for part in option_schema[key] if part.get("type") != "null"]
            return "|".join(dict.fromkeys(parts))
    names = {"integer": "NUMBER", "number": "NUMBER", "boolean": "true|false", "array": "LIST", "object": "KEY=VALUE"}
    return names.get(str(option_schema.get("type")), "TEXT")


def check(
    ctx: typer.Context,
    name: Annotated[str | None, argument("[DRIVER]")] = None,
    kind: Kind = "",
) -> int:
    """Load drivers and say whether they are usable; the exit code is 1 if one is not."""
    client = client_of(ctx)
    _check_kind(kind)
    names = [(d["Kind"], d["Name"]) for d in client.get("/engine/drivers", {"kind": kind})]
    if name is not None:
        names = [(d["Kind"], d["Name"]) for d in find(client, name, kind)]
    rows = [client.post(f"/engine/drivers/{k}/{n}/check") for k, n in names if not kind or k == kind]
    write_columns(
        ["NAME", "KIND", "STATUS", "REASON"],
        [(r["Name"], r["Kind"], r["Status"], r.get("Reason", "")) for r in rows],
    )
    return int(any(r["Status"] != "ok" for r in rows))


def new(
    kind: Annotated[str, argument("KIND")],
    name: Annotated[str, argument("NAME")],
    directory: Annotated[str | None, argument("[DIRECTORY]")] = None,
) -> None:
    """Make a new package with a driver, its tests and how to install it.

    KIND is network, ipam, volume or storage; DIRECTORY is ./engine-net-NAME (and so on) if not given.
    """
    _check_kind(kind)
    scaffold = importlib.import_module("engine_sdk.scaffold")
    try:
        files: list[Path] = scaffold.create(kind, name, Path(directory) if directory else None)
    except OSError as err:
        raise Failure(f"cannot make the driver {name!r}: {err}") from err
    print("\n".join(str(file) for file in files))
    root = os.path.commonpath([file.parent for file in files])
    print(f"Next: pip install -e {root} && engine driver show {name}", file=sys.stderr)


class DriverHelp(Command):
    """A command whose `--net-driver X --help` also shows the options of driver X."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse, and keep the words for the help."""
        ctx.meta["engine.words"] = list(args)
        return super().parse_args(ctx, args)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the driver's options, if a driver was named; no daemon is started for that."""
        name = _named_driver(ctx)
        if not name:
            return
        formatter.write_paragraph()
        try:
            found = find(Client(session(ctx).endpoint), name, "network")
        except Failure as err:
            formatter.write(f"Options of driver {name}: {err}\n")
            return
        formatter.write(f"Options of driver {name} (--net-opt KEY=VALUE):\n")
        lines = option_lines(found[0].get("Options") or {}, formatter.width) or ["  none"]
        formatter.write("\n".join(lines) + "\n")


def _named_driver(ctx: Any) -> str:
    words = ctx.meta.get("engine.words", [])
    for at, word in enumerate(words):
        if word == "--net-driver" and at + 1 < len(words):
            return str(words[at + 1])
        if word.startswith("--net-driver="):
            return str(word.partition("=")[2])
    return session(ctx).net_driver
