"""node ls, inspect, rm, token, join, leave: the hosts of the cluster."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from engine.cli.base import argument, client_of, option
from engine.cli.commands.lifecycle import for_each
from engine.cli.render.table import write_rows

_COLUMNS = {"Name": "NAME", "Address": "ADDRESS", "Status": "STATUS", "Engine": "ENGINE", "Self": "SELF"}


def ls(
    ctx: typer.Context,
    quiet: Annotated[bool, option("-q", "--quiet", help="Only names")] = False,
    format: Annotated[str, option("--format", metavar="TEMPLATE", help="json, or a Go template")] = "",
) -> None:
    """List the nodes of the cluster."""
    rows = [{**node, "Self": "*" if node["Self"] else ""} for node in client_of(ctx).get("/engine/nodes")]
    write_rows(rows, _COLUMNS, format=format, quiet=(lambda row: str(row["Name"])) if quiet else None)


def inspect(ctx: typer.Context, names: Annotated[list[str], argument("NODE...")]) -> None:
    """Show everything about nodes, with the endpoints that they have on the cluster's networks."""
    client = client_of(ctx)
    print(json.dumps([client.get(f"/engine/nodes/{name}") for name in names], indent=2))


def rm(ctx: typer.Context, names: Annotated[list[str], argument("NODE...")]) -> int:
    """Make nodes that are down disappear at once, with their endpoints."""
    client = client_of(ctx)
    return for_each(names, lambda name: client.delete(f"/engine/nodes/{name}"))


def token(ctx: typer.Context) -> None:
    """Print what `engine node join` takes on another host. It may hold a password: keep it as one."""
    print(client_of(ctx).get("/engine/cluster/token")["Token"])


def join(
    ctx: typer.Context,
    token: Annotated[str, argument("TOKEN")],
    advertise: Annotated[
        str, option("--advertise", metavar="IP", help="Address at which the other hosts reach this one")
    ] = "",
    node_name: Annotated[str, option("--node-name", metavar="NAME", help="Name of this node (the host's)")] = "",
) -> None:
    """Enter the cluster of a token, now and whenever the daemon starts. `-` reads the token from standard input."""
    text = sys.stdin.read() if token == "-" else token
    body = {"Token": text.strip(), "Advertise": advertise, "Name": node_name}
    node = client_of(ctx).post("/engine/cluster/join", body=body)
    print(f"node {node['Name']} at {node['Address']} is in the cluster")


def leave(ctx: typer.Context) -> None:
    """Leave the cluster. Containers on its networks must be stopped before."""
    client_of(ctx).post("/engine/cluster/leave")
