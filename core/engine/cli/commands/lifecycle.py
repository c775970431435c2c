"""stop, kill, restart, rm, pause …: one request for each container named; the exit code is 1 if any of them failed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from engine.cli.base import argument, client_of, option, with_options
from engine.cli.create_body import resources
from engine.cli.errors import Failure, Unreachable
from engine.cli.parse.amounts import integer
from engine.cli.parse.pairs import filters, restart_policy, signal_name
from engine.cli.render.words import bytes_decimal
from engine.cli.terminal import confirm

Containers = Annotated[list[str], argument("CONTAINER...")]
Seconds = Annotated[str, option("-t", "--time", "--timeout", metavar="SECONDS", help="Patience before it is killed")]
Signal = Annotated[str, option("-s", "--signal", metavar="SIGNAL", help="Signal to send")]
Force = Annotated[bool, option("-f", "--force", help="Do not ask")]
Filter = Annotated[list[str] | None, option("--filter", metavar="KEY=VALUE", help="Choose by a condition")]


def for_each(names: Iterable[str], act: Callable[[str], Any]) -> int:
    """Do something to each; print the names it worked for, and the errors; return the exit code."""
    failed = False
    for name in names:
        try:
            act(name)
            print(name, flush=True)
        except Unreachable:
            raise
        except Failure as err:
            failed = True
            print(f"engine: {err}", file=sys.stderr)
    return int(failed)


def _timeout(text: str) -> int | None:
    return integer("--time", text, -1, 2**31 - 1) if text else None


def stop(ctx: typer.Context, containers: Containers, time: Seconds = "", signal: Signal = "") -> int:
    """Stop containers: their stop signal, and SIGKILL after the patience (10 s)."""
    client, seconds = client_of(ctx), _timeout(time)
    name = signal_name("--signal", signal) if signal else None
    return for_each(containers, lambda c: client.post(f"/containers/{c}/stop", {"t": seconds, "signal": name}))


def restart(ctx: typer.Context, containers: Containers, time: Seconds = "", signal: Signal = "") -> int:
    """Stop containers and start them again."""
    client, seconds = client_of(ctx), _timeout(time)
    name = signal_name("--signal", signal) if signal else None
    return for_each(containers, lambda c: client.post(f"/containers/{c}/restart", {"t": seconds, "signal": name}))


def kill(ctx: typer.Context, containers: Containers, signal: Signal = "KILL") -> int:
    """Send a signal to containers (SIGKILL)."""
    client, name = client_of(ctx), signal_name("--signal", signal)
    return for_each(containers, lambda c: client.post(f"/containers/{c}/kill", {"signal": name}))


def pause(ctx: typer.Context, containers: Containers) -> int:
    """Freeze all processes of containers."""
    client = client_of(ctx)
    return for_each(containers, lambda c: client.post(f"/containers/{c}/pause"))


def unpause(ctx: typer.Context, containers: Containers) -> int:
    """Let frozen containers go on."""
    client = client_of(ctx)
    return for_each(containers, lambda c: client.post(f"/containers/{c}/unpause"))


def rm(
    ctx: typer.Context,
    containers: Containers,
    force: Annotated[
        bool, option("-f", "--force", help="Kill it first if it runs; one that is gone is no error")
    ] = False,
    volumes: Annotated[bool, option("-v", "--volumes", help="Also remove its anonymous volumes")] = False,
    link: Annotated[bool, option("-l", "--link", help="Remove the link, not the container")] = False,
) -> int:
    """Remove containers."""
    client = client_of(ctx)
    query = {"force": force, "v": volumes, "link": link}

    def remove(name: str) -> None:
        try:
            client.delete(f"/containers/{name}", query)
        except Failure as err:
            if not (force and getattr(err, "status", 0) == 404):
                raise

    return for_each(containers, remove)


def rename(
    ctx: typer.Context,
    container: Annotated[str, argument("CONTAINER")],
    name: Annotated[str, argument("NEW_NAME")],
) -> None:
    """Give a container another name."""
    client_of(ctx).post(f"/containers/{container}/rename", {"name": name})


def wait(ctx: typer.Context, containers: Containers) -> int:
    """Wait until containers stop, and print their exit codes."""
    client = client_of(ctx)
    failed = False
    pending = [client.begin("POST", f"/containers/{name}/wait") for name in containers]
    for request in pending:
        try:
            print(request.response().json()["StatusCode"], flush=True)
        except Failure as err:
            failed = True
            print(f"engine: {err}", file=sys.stderr)
    return int(failed)


@dataclass
class UpdateOptions:
    """The flags of `update`."""

    memory: Annotated[str, option("-m", "--memory", metavar="SIZE", help="Memory limit")] = ""
    memory_swap: Annotated[str, option("--memory-swap", metavar="SIZE", help="Memory plus swap; -1: no limit")] = ""
    memory_reservation: Annotated[str, option("--memory-reservation", metavar="SIZE", help="Soft limit")] = ""
    cpus: Annotated[str, option("--cpus", metavar="NUMBER", help="Number of CPUs")] = ""
    cpu_shares: Annotated[str, option("-c", "--cpu-shares", metavar="NUMBER", help="Relative weight")] = ""
    cpu_period: Annotated[str, option("--cpu-period", metavar="US", help="CFS period in µs")] = ""
    cpu_quota: Annotated[str, option("--cpu-quota", metavar="US", help="CFS quota in µs")] = ""
    cpuset_cpus: Annotated[str, option("--cpuset-cpus", metavar="CPUS", help="CPUs to run on")] = ""
    cpuset_mems: Annotated[str, option("--cpuset-mems", metavar="NODES", help="Memory nodes to use")] = ""
    pids_limit: Annotated[str, option("--pids-limit", metavar="NUMBER", help="Most processes")] = ""
    restart: Annotated[str, option("--restart", metavar="POLICY", help="Restart policy")] = ""


@with_options(UpdateOptions)
def update(ctx: typer.Context, containers: Containers, *, options: UpdateOptions) -> int:
    """Change limits and the restart policy of containers."""
    body = resources(options)
    if options.restart:
        body["RestartPolicy"] = restart_policy("--restart", options.restart)
    if not body:
        raise Failure("nothing to change: give at least one flag. See 'engine update --help'", 125)
    client = client_of(ctx)
    return for_each(containers, lambda c: client.post(f"/containers/{c}/update", body=body))


def prune(ctx: typer.Context, force: Force = False, filter: Filter = None) -> None:
    """Remove all stopped containers."""
    if not force and not confirm("This removes all stopped containers. Go on?"):
        return
    answer = client_of(ctx).post("/containers/prune", {"filters": filters(filter or ())}) or {}
    report_pruned("Deleted Containers:", answer.get("ContainersDeleted"), answer.get("SpaceReclaimed"))


def report_pruned(title: str, names: Iterable[str] | None, space: int | None) -> None:
    """Print what a prune removed, as docker does."""
    gone = list(names or ())
    if gone:
        print("\n".join([title, *gone, ""]))
    print(f"Total reclaimed space: {bytes_decimal(space or 0)}")
