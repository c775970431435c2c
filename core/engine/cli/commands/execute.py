"""exec: a further process in a running container."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer

from engine.cli.base import argument, client_of, option
from engine.cli.commands.run import start_failure
from engine.cli.errors import ApiError, Failure
from engine.cli.parse.pairs import environment
from engine.cli.streams import Conversation, Detached, terminal_session
from engine.cli.terminal import DETACH_KEYS, is_terminal, parse_detach_keys, window_size


def exec_(
    ctx: typer.Context,
    container: Annotated[str, argument("CONTAINER")],
    command: Annotated[list[str], argument("COMMAND [ARG]...")],
    detach: Annotated[bool, option("-d", "--detach", help="Do not wait for its end")] = False,
    interactive: Annotated[bool, option("-i", "--interactive", help="Give it our stdin")] = False,
    tty: Annotated[bool, option("-t", "--tty", help="Give it a terminal")] = False,
    env: Annotated[list[str] | None, option("-e", "--env", metavar="NAME[=VALUE]", help="Set a variable")] = None,
    env_file: Annotated[list[str] | None, option("--env-file", metavar="FILE", help="Variables from a file")] = None,
    user: Annotated[str, option("-u", "--user", metavar="USER[:GROUP]", help="User and group")] = "",
    workdir: Annotated[str, option("-w", "--workdir", metavar="DIR", help="Working directory")] = "",
    privileged: Annotated[bool, option("--privileged", help="Give it all rights of the host")] = False,
    detach_keys: Annotated[
        str, option("--detach-keys", metavar="KEYS", help="Keys that leave it running")
    ] = DETACH_KEYS,
) -> int:
    """Run a program in a running container. The exit code is the program's."""
    keys = parse_detach_keys(detach_keys)
    if tty and interactive and not detach and not is_terminal(0):
        raise Failure("the input is no terminal: leave -t away, or use -i alone")
    client = client_of(ctx)
    body: dict[str, Any] = {
        "AttachStdin": interactive and not detach,
        "AttachStdout": not detach,
        "AttachStderr": not detach,
        "Tty": tty,
        "Cmd": command,
        "Env": environment(env or (), env_file or (), os.environ),
        "User": user,
        "WorkingDir": workdir,
        "Privileged": privileged,
        "Detach": detach,
    }
    if tty and is_terminal(1):
        body["ConsoleSize"] = list(window_size(1))
    identifier = client.post(f"/containers/{container}/exec", body=body)["Id"]
    path = f"/exec/{identifier}"
    start: dict[str, Any] = {"Detach": detach, "Tty": tty}
    try:
        if detach:
            client.post(f"{path}/start", body=start)
            return 0
        connection = client.hijack(f"{path}/start", body=start)
    except ApiError as err:
        raise start_failure(err) if err.status != 404 else err from err

    def resize(rows: int, columns: int) -> None:
        client.post(f"{path}/resize", {"h": rows, "w": columns})

    with terminal_session(resize if tty and is_terminal(1) else None, raw=tty and interactive):
        try:
            Conversation(connection, tty=tty, stdin=interactive, detach_keys=keys).run()
        except Detached:
            print("read escape sequence", file=sys.stderr)
            return 0
    return int(client.get(f"{path}/json").get("ExitCode") or 0)
