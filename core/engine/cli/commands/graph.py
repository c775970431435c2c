"""`engine network graph`: a picture of the host's networks."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from engine.cli.base import argument, client_of, option
from engine.cli.errors import BadValue, Failure
from engine.cli.picture.graphviz import dot, draw
from engine.cli.picture.model import Picture, picture
from engine.cli.picture.svg import svg
from engine.cli.picture.tree import tree

_DRAWN = ("png", "pdf", "jpg", "ps")
"""Formats that Graphviz draws."""


def graph(
    ctx: typer.Context,
    networks: Annotated[list[str] | None, argument("[NETWORK]...", help="These alone")] = None,
    output: Annotated[
        str, option("-o", "--output", metavar="FILE", help="Write a picture: .svg, .dot, or with Graphviz .png, .pdf")
    ] = "",
) -> None:
    """Show the host's networks, the containers on them, their addresses and published ports."""
    client = client_of(ctx)
    names = [client.get(f"/networks/{ref}")["Name"] for ref in networks or ()]
    everything = client.get("/networks")
    shown = {driver: client.get(f"/engine/drivers/network/{driver}") for driver in {n["Driver"] for n in everything}}
    routed = [driver for driver, about in shown.items() if (about.get("Capabilities") or {}).get("host_gateway")]
    found = picture(client.get("/info")["Name"], everything, client.get("/containers/json"), routed, names)
    if output:
        _write(found, output)
        return
    plain = "utf" not in (sys.stdout.encoding or "").lower()
    for line in tree(found, plain=plain):
        print(line)


def _write(found: Picture, output: str) -> None:
    kind = Path(output).suffix.lower().removeprefix(".")
    if kind == "svg":
        content = svg(found).encode()
    elif kind in ("dot", "gv"):
        content = dot(found).encode()
    elif kind in _DRAWN:
        content = draw(found, kind)
    else:
        raise BadValue("-o", output, f"known endings: .svg, .dot, .{', .'.join(_DRAWN)}")
    try:
        Path(output).write_bytes(content)
    except OSError as err:
        raise Failure(f"cannot write {output}: {err.strerror}") from err
