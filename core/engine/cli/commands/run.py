"""run, create, start, attach: containers whose streams we may hold."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from engine.cli.base import argument, client_of, option, session, with_options
from engine.cli.client import Client, Pending
from engine.cli.commands.pull import pull_image
from engine.cli.create_body import Surroundings, create_body, streams
from engine.cli.create_options import CreateOptions
from engine.cli.errors import ApiError, Failure
from engine.cli.parse.pairs import require_file
from engine.cli.streams import ENDING, Conversation, Detached, announced, proxied_signals, terminal_session
from engine.cli.terminal import DETACH_KEYS, is_terminal, parse_detach_keys

_NOT_FOUND = ("executable file not found", "no such file or directory", "system cannot find")
_NOT_EXECUTABLE = ("permission denied", "is a directory", "exec format error")

Image = Annotated[str, argument("IMAGE")]
Arguments = Annotated[list[str] | None, argument("[COMMAND] [ARG]...")]
Keys = Annotated[str, option("--detach-keys", metavar="KEYS", help="Keys that leave the container running")]
SigProxy = Annotated[bool, option("--sig-proxy/--no-sig-proxy", help="Pass signals on to the process")]


def start_failure(err: ApiError) -> Failure:
    """Return the failure of a start with docker's exit code: 127 not found, 126 not executable, else 125."""
    text = str(err).lower()
    code = 125
    if any(cause in text for cause in _NOT_EXECUTABLE):
        code = 126
    if any(cause in text for cause in _NOT_FOUND):
        code = 127
    return Failure(str(err), code)


def _create(ctx: typer.Context, options: CreateOptions, image: str, arguments: list[str], *, detached: bool) -> str:
    """Create the container, pulling its image if need be; return its id."""
    around = Surroundings(os.environ, Path.cwd(), session(ctx).net_driver, session(ctx).net_opts)
    body = create_body(options, image, arguments, around, detached=detached)
    if options.cidfile:
        require_file("--cidfile", options.cidfile)
    client = client_of(ctx)
    query = {"name": options.name, "platform": options.platform}
    if options.pull == "always":
        pull_image(client, image, platform=options.platform, quiet=options.quiet, to_stderr=True)
    try:
        created = client.post("/containers/create", query, body=body)
    except ApiError as err:
        if err.status != 404 or options.pull != "missing" or not _lacks_image(err):
            raise Failure(str(err), 125) from err
        if not options.quiet:
            print(f"Image {image!r} is not here yet, pulling it", file=sys.stderr)
        pull_image(client, image, platform=options.platform, quiet=options.quiet, to_stderr=True)
        created = client.post("/containers/create", query, body=body)
    for warning in created.get("Warnings") or ():
        print(f"engine: warning: {warning}", file=sys.stderr)
    if options.cidfile:
        Path(options.cidfile).write_text(created["Id"], encoding="utf-8")
    return str(created["Id"])


def _lacks_image(err: ApiError) -> bool:
    return "image" in str(err).lower()


@contextmanager
def _exit_code(code: int) -> Iterator[None]:
    """Give failures inside the block an exit code, unless they have one of their own."""
    try:
        yield
    except Failure as err:
        raise Failure(str(err), code if err.code == 1 else err.code) from err


@with_options(CreateOptions)
def create(ctx: typer.Context, image: Image, arguments: Arguments = None, *, options: CreateOptions) -> None:
    """Make a container without starting it, and print its id."""
    with _exit_code(1):
        print(_create(ctx, options, image, arguments or [], detached=False))


@with_options(CreateOptions)
def run(
    ctx: typer.Context,
    image: Image,
    arguments: Arguments = None,
    detach: Annotated[
        bool, option("-d", "--detach", help="Print the id and leave it running", panel="Container")
    ] = False,
    detach_keys: Annotated[
        str,
        option("--detach-keys", metavar="KEYS", help="Keys that leave it running (ctrl-p,ctrl-q)", panel="Container"),
    ] = DETACH_KEYS,
    sig_proxy: Annotated[
        bool, option("--sig-proxy/--no-sig-proxy", help="Pass signals on to the process", panel="Container")
    ] = True,
    *,
    options: CreateOptions,
) -> int:
    """Make a container of an image, start it, and stay with it until it exits.

    The exit code is the container's; 125 if it could not be started, 126 if its program cannot be executed, 127 if
    there is no such program.
    """
    with _exit_code(125):
        keys = parse_detach_keys(detach_keys)
        attached = streams(options, detached=detach)
        if options.tty and "stdin" in attached and not is_terminal(0):
            raise Failure("the input is no terminal: leave -t away, or use -i alone")
        container = _create(ctx, options, image, arguments or [], detached=detach)
        client = client_of(ctx)
        if not attached:
            _start(client, container)
            print(container)
            return 0
        condition = "removed" if options.rm else "next-exit"
        return _start_attached(
            client, container, attached, tty=options.tty, keys=keys, sig_proxy=sig_proxy, condition=condition
        )


def _start_attached(
    client: Client,
    container: str,
    attached: set[str],
    *,
    tty: bool,
    keys: bytes,
    sig_proxy: bool,
    condition: str,
) -> int:
    path = f"/containers/{container}"
    query = {"stream": True, **dict.fromkeys(attached, True), "detachKeys": ""}
    connection = client.hijack(f"{path}/attach", query)
    exited = client.begin("POST", f"{path}/wait", {"condition": condition})

    def resize(rows: int, columns: int) -> None:
        client.post(f"{path}/resize", {"h": rows, "w": columns})

    def kill(name: str) -> None:
        client.post(f"{path}/kill", {"signal": name})

    with proxied_signals(kill if sig_proxy and not tty else None):
        try:
            _start(client, container)
            with terminal_session(resize if tty and is_terminal(1) else None, raw=tty and "stdin" in attached):
                Conversation(connection, tty=tty, stdin="stdin" in attached, detach_keys=keys).run()
        except Detached:
            return _detached()
        finally:
            connection.wire.close()
        return exit_code(exited)


def _start(client: Client, container: str) -> None:
    """Start a container; what ends us meanwhile gives the start up. Says so where a mount or a lease takes long."""
    path = f"/containers/{container}"

    def give_up(name: str) -> None:
        try:
            client.post(f"{path}/kill", {"signal": name})
        except Failure:
            pass  # it has ended, or its start has failed already: either way we need not stay
        if name in ENDING:
            raise KeyboardInterrupt

    with proxied_signals(give_up), announced(f"container {container[:12]} is still starting (Ctrl-C gives it up)"):
        try:
            client.post(f"{path}/start")
        except ApiError as err:
            raise start_failure(err) from err


def _detached() -> int:
    """End as docker does when the detach keys were typed."""
    print("read escape sequence", file=sys.stderr)
    return 0


def exit_code(exited: Pending) -> int:
    """Wait for a container's end and return its exit code."""
    answer = exited.response().json() or {}
    error = (answer.get("Error") or {}).get("Message")
    if error:
        raise Failure(str(error), 125)
    return int(answer.get("StatusCode", 125))


def start(
    ctx: typer.Context,
    containers: Annotated[list[str], argument("CONTAINER...")],
    attach: Annotated[bool, option("-a", "--attach", help="Stay with it: show its output, pass signals on")] = False,
    interactive: Annotated[bool, option("-i", "--interactive", help="Also give it our stdin")] = False,
    detach_keys: Keys = DETACH_KEYS,
    sig_proxy: SigProxy = True,
) -> int:
    """Start containers that are stopped."""
    keys = parse_detach_keys(detach_keys)
    client = client_of(ctx)
    if not attach and not interactive:
        failed = False
        for name in containers:
            try:
                client.post(f"/containers/{name}/start")
                print(name)
            except ApiError as err:
                failed = True
                print(f"engine: {err}", file=sys.stderr)
        return int(failed)
    if len(containers) > 1:
        raise Failure("you cannot stay with more than one container at once")
    found = client.get(f"/containers/{containers[0]}/json")
    config: dict[str, Any] = found["Config"]
    attached = {"stdout", "stderr"} | ({"stdin"} if interactive and config.get("OpenStdin") else set())
    removed = bool(found["HostConfig"].get("AutoRemove"))
    if config.get("Tty") and "stdin" in attached and not is_terminal(0):
        raise Failure("the input is no terminal, but the container has one")
    return _start_attached(
        client, found["Id"], attached, tty=bool(config.get("Tty")), keys=keys, sig_proxy=sig_proxy,
        condition="removed" if removed else "next-exit",
    )  # fmt: skip


def attach(
    ctx: typer.Context,
    container: Annotated[str, argument("CONTAINER")],
    no_stdin: Annotated[bool, option("--no-stdin", help="Do not give it our stdin")] = False,
    detach_keys: Keys = DETACH_KEYS,
    sig_proxy: SigProxy = True,
) -> int:
    """Join the streams of a running container."""
    keys = parse_detach_keys(detach_keys)
    client = client_of(ctx)
    found = client.get(f"/containers/{container}/json")
    if not found["State"]["Running"]:
        raise Failure(f"container {container} is not running: start it with engine start -a")
    if found["State"].get("Paused"):
        raise Failure(f"container {container} is paused: engine unpause {container}")
    tty = bool(found["Config"].get("Tty"))
    stdin = bool(found["Config"].get("OpenStdin")) and not no_stdin
    if tty and stdin and not is_terminal(0):
        raise Failure("the input is no terminal, but the container has one")
    path = f"/containers/{found['Id']}"
    exited = client.begin("POST", f"{path}/wait", {"condition": ""})
    connection = client.hijack(f"{path}/attach", {"stream": True, "stdin": stdin, "stdout": True, "stderr": True})

    def resize(rows: int, columns: int) -> None:
        client.post(f"{path}/resize", {"h": rows, "w": columns})

    def kill(name: str) -> None:
        client.post(f"{path}/kill", {"signal": name})

    with (
        proxied_signals(kill if sig_proxy and not tty else None),
        terminal_session(resize if tty and is_terminal(1) else None, raw=tty and stdin),
    ):
        try:
            Conversation(connection, tty=tty, stdin=stdin, detach_keys=keys).run()
        except Detached:
            return _detached()
        return exit_code(exited)
