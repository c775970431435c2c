"""volume unlock, lock, keys, rekey: the keys of encrypted volumes."""

from __future__ import annotations

import base64
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from engine.cli.base import argument, client_of, option
from engine.cli.errors import BadValue, Failure
from engine.cli.render.table import write_rows
from engine.cli.terminal import ask, is_terminal

Volume = Annotated[str, argument("VOLUME")]
_LARGEST = 1 << 20


def unlock(
    ctx: typer.Context,
    volume: Volume,
    file: Annotated[str, option("--key-file", metavar="FILE", help="Read the key from a file; - is stdin")] = "",
) -> None:
    """Give a locked volume its passphrase, until the engine ends; containers that waited for it start."""
    key = _from_file(file) if file else asked(f"Passphrase of volume {volume}: ")
    answer = client_of(ctx).post(f"/engine/volumes/{volume}/unlock", body={"Key": text_of(key)})
    print(volume)
    for container in answer["Started"]:
        print(f"engine: starting {container}", file=sys.stderr)


def lock(ctx: typer.Context, volume: Volume) -> None:
    """Forget a passphrase that was given: the next mount of the volume asks again."""
    client_of(ctx).post(f"/engine/volumes/{volume}/lock")
    print(volume)


def keys(
    ctx: typer.Context,
    volume: Volume,
    password: Annotated[
        bool, option("--store-password", help="Print the password that rclone needs for the volume's store")
    ] = False,
    format: Annotated[str, option("--format", metavar="TEMPLATE", help="json, or a Go template")] = "",
) -> None:
    """List the key slots of a volume: where the keys are that open it."""
    client = client_of(ctx)
    if password:
        print(client.get(f"/engine/volumes/{volume}/store-password", {"reveal": True})["Password"])
        return
    write_rows(client.get(f"/engine/volumes/{volume}/keys"), {"Name": "SLOT", "Source": "KEY"}, format=format)


def rekey(
    ctx: typer.Context,
    volume: Volume,
    slot: Annotated[str, option("--slot", metavar="NAME", help="The slot that gets the key (main); new or not")] = "",
    passphrase_file: Annotated[str, option("--passphrase-file", metavar="FILE", help="New key: one line")] = "",
    key_file: Annotated[str, option("--key-file", metavar="FILE", help="New key: all bytes of a file")] = "",
    secret: Annotated[str, option("--secret", metavar="NAME", help="New key: a secret of the engine")] = "",
    command: Annotated[str, option("--command", metavar="ARGV", help="New key: what a program writes")] = "",
    prompt: Annotated[
        bool, option("--prompt", help="New key: a passphrase that is stored nowhere (asked for)")
    ] = False,
    remove: Annotated[str, option("--remove", metavar="SLOT", help="Remove a slot (afterwards)")] = "",
    old: Annotated[
        str, option("--old-key-file", metavar="FILE", help="A key that opens the volume now; - is stdin")
    ] = "",
) -> None:
    """Change the keys of a volume; no content is written. Without a new key or --remove it asks for a passphrase."""
    files = [f"file:{_absolute(file)}" for file in (passphrase_file, key_file) if file]
    sources = [*files, *([f"secret:{secret}"] if secret else []), *([f"command:{command}"] if command else [])]
    if len(sources) + prompt > 1:
        raise Failure("give one new key")
    body: dict[str, Any] = {"Slot": slot, "Remove": remove}
    if old:
        body["Old"] = text_of(_from_file(old))
    if sources:
        body |= {"Source": sources[0], "Form": "bytes" if key_file else "text"}
    elif prompt or not remove:
        body["Key"] = text_of(asked_twice(volume))
    found = client_of(ctx).post(f"/engine/volumes/{volume}/rekey", body=body)
    write_rows(found, {"Name": "SLOT", "Source": "KEY"})


def asked(question: str) -> bytes:
    """Ask for a passphrase without an echo. Raises Failure at the end of the input."""
    try:
        return ask(question, echo=False).encode(errors="surrogateescape")
    except EOFError:
        raise Failure("no passphrase was given") from None


def asked_twice(volume: str) -> bytes:
    """Ask for a new passphrase, on a terminal twice. Raises Failure when the two differ."""
    key = asked(f"New passphrase of volume {volume}: ")
    if is_terminal(sys.stdin.fileno()) and asked("The same again: ") != key:
        raise Failure("the two passphrases differ; nothing was changed")
    return key


def text_of(key: bytes) -> str:
    """Return how a key travels to the daemon."""
    return base64.b64encode(key).decode()


def _absolute(file: str) -> str:
    if not Path(file).is_file():
        raise BadValue("the new key", file, "there is no such file")
    return str(Path(file).absolute())


def _from_file(file: str) -> bytes:
    if file == "-":
        return sys.stdin.buffer.read(_LARGEST)
    try:
        return Path(file).read_bytes()[:_LARGEST]
    except OSError as err:
        raise BadValue("the key", file, err.strerror or str(err)) from err
