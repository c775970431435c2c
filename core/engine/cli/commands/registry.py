"""login and logout: credentials of registries."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from engine.cli import credentials
from engine.cli.base import argument, client_of, option
from engine.cli.errors import Failure
from engine.cli.terminal import ask, is_terminal

Server = Annotated[str | None, argument("[REGISTRY]")]


def login(
    ctx: typer.Context,
    server: Server = None,
    username: Annotated[str, option("-u", "--username", metavar="NAME", help="User name")] = "",
    password: Annotated[str, option("-p", "--password", metavar="PASSWORD", help="Password; others may see it")] = "",
    password_stdin: Annotated[bool, option("--password-stdin", help="Read the password from stdin")] = False,
) -> None:
    """Prove who you are to a registry, and remember it in ~/.config/engine/auth.json."""
    registry = (server or "docker.io").removeprefix("https://").removeprefix("http://").rstrip("/")
    if password_stdin:
        if password:
            raise Failure("--password and --password-stdin contradict each other")
        if not username:
            raise Failure("--password-stdin needs --username")
        password = sys.stdin.read().rstrip("\r\n")
    elif password:
        print("engine: warning: --password shows in the process list; use --password-stdin", file=sys.stderr)
    if not (username and password) and not is_terminal(0):
        raise Failure("no credentials: use --username and --password-stdin, the input is no terminal")
    try:
        username = username or ask("Username: ")
        password = password or ask("Password: ", echo=False)
    except EOFError:
        raise Failure("no credentials were given") from None
    if not username or not password:
        raise Failure("the user name and the password must not be empty")
    given = {"username": username, "password": password, "serveraddress": registry}
    answer = client_of(ctx).post("/auth", body=given) or {}
    if answer.get("IdentityToken"):
        given = {"identitytoken": answer["IdentityToken"]}
    path = credentials.store(registry, given)
    print(f"{answer.get('Status') or 'Login Succeeded'} (kept in {path})")


def logout(ctx: typer.Context, server: Server = None) -> None:
    """Forget the credentials of a registry."""
    registry = (server or "docker.io").removeprefix("https://").removeprefix("http://").rstrip("/")
    if credentials.forget(registry):
        print(f"Removing login credentials for {registry}")
    else:
        print(f"Not logged in to {registry}")
