"""Published ports: listed, added, removed and moved while the container runs."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from engine.cli.base import Group, argument, client_of
from engine.cli.commands import listing
from engine.cli.parse.ports import published, span

Container = Annotated[str, argument("CONTAINER")]


class PortGroup(Group):
    """`engine port CONTAINER` as docker has it, and our commands; `engine container port` is docker's alone."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Take a first word that is no command for a container."""
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            args = ["ls", *args]
        return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the usage line's parts."""
        return ["CONTAINER [PORT[/PROTO]]", "|", "COMMAND [ARG]..."]


def add(
    ctx: typer.Context,
    container: Container,
    ports: Annotated[list[str], argument("[[HOSTIP:]HOST:]PORT[/PROTO]...", help="As of `run -p`; ranges too")],
) -> None:
    """Publish further ports of a container, at once if it runs; they stay over its restarts."""
    bindings = published("PORT", ports)
    client_of(ctx).post(f"/engine/containers/{container}/ports", body={"PortBindings": bindings})


def rm(
    ctx: typer.Context,
    container: Container,
    ports: Annotated[list[str], argument("[HOSTIP:]HOST[:PORT][/PROTO]...", help="Host ports; ranges too")],
) -> None:
    """Publish ports of a container no longer."""
    client_of(ctx).post(
        f"/engine/containers/{container}/ports/remove", body={"Ports": [span("PORT", p) for p in ports]}
    )


def move(
    ctx: typer.Context,
    container: Container,
    to: Annotated[str, argument("TO")],
    port: Annotated[str, argument("[HOSTIP:]HOST[:PORT][/PROTO]", help="PORT is that of TO, if it is another")],
) -> None:
    """Let published ports lead to another container, in one step: new connections go there, old ones stay."""
    found = span("PORT", port)
    target = found.pop("ContainerPort", 0)
    body = {"To": to, "Port": found, "TargetPort": target}
    client_of(ctx).post(f"/engine/containers/{container}/ports/move", body=body)


COMMANDS = (("ls", listing.port), ("add", add), ("rm", rm), ("move", move))
