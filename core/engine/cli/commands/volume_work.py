"""volume backup, restore, snapshot, clone, rollback, rename, export, import, usage, update, jobs."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Annotated, Any

import typer

from engine.cli.base import argument, client_of, option
from engine.cli.client import Client, Query
from engine.cli.commands.copy import write_stream
from engine.cli.errors import BadValue, Failure
from engine.cli.parse.pairs import labels, options
from engine.cli.render.progress import Progress
from engine.cli.render.table import write_rows
from engine.cli.render.words import bytes_decimal
from engine.cli.terminal import is_terminal

Many = list[str] | None
Volume = Annotated[str, argument("VOLUME")]
Url = Annotated[str, argument("URL")]
Opt = Annotated[Many, option("-o", "--opt", metavar="KEY=VALUE", help="Option of the URL's storage driver")]
Password = Annotated[
    str, option("--password-file", metavar="FILE", help="Password of the repository (the engine's own key)")
]
PasswordRef = Annotated[
    str, option("--password", metavar="REFERENCE", help="Where the password is: env:NAME, file:/PATH, secret:NAME")
]
Quiet = Annotated[bool, option("-q", "--quiet", help="No progress")]
Detach = Annotated[bool, option("-d", "--detach", help="Print the job's id, and do not wait")]
Consistency = Annotated[
    str, option("--consistency", metavar="WORD", help="The least that will do: fuzzy, crash, or paused (containers)")
]
Format = Annotated[str, option("--format", metavar="TEMPLATE", help="json, or a Go template")]
_CHUNK = 1 << 18


def _run(
    client: Client,
    path: str,
    body: Mapping[str, Any] | None,
    *,
    query: Query | None = None,
    quiet: bool = False,
    detach: bool = False,
) -> dict[str, Any]:
    """Begin a job and show its progress on stderr; return its result; if detached print its id, and return nothing."""
    if detach:
        print(client.post(path, {**(query or {}), "detach": True}, body=body or {})["ID"])
        return {}
    return _show(client.send("POST", path, query, body=body or {}).json_lines(), quiet)


def _show(messages: Iterator[dict[str, Any]], quiet: bool) -> dict[str, Any]:
    found = Progress(sys.stderr, quiet=quiet).show(messages)
    return dict(found[-1]) if found else {}


def _password(file: str, reference: str) -> str:
    if file and reference:
        raise Failure("--password-file and --password contradict each other")
    if not file:
        return reference
    if not Path(file).is_file():
        raise BadValue("--password-file", file, "there is no such file")
    return f"file:{Path(file).absolute()}"


def backup(
    ctx: typer.Context, volume: Volume, url: Url, opt: Opt = None, password_file: Password = "",
    password: PasswordRef = "", detach: Detach = False, quiet: Quiet = False,
) -> None:  # fmt: skip
    """Add a snapshot of a volume to a restic repository at URL, which is made if there is none; print its id.

    Only what is new is sent. Without a password the repository has the engine's own key: see `volume backup-key`.
    """
    where = _password(password_file, password)
    body = {"URL": url, "Options": options("--opt", opt or ()), "Password": where}
    done = _run(client_of(ctx), f"/engine/volumes/{volume}/backup", body, quiet=quiet, detach=detach)
    if not done:
        return
    if not quiet and "files" in done:
        all, new = bytes_decimal(done["bytes"], 3), bytes_decimal(done["added"], 3)
        print(f"{done['files']} files, {all}, of which {new} new", file=sys.stderr)
    for name in done.get("unread") or ():
        print(f"engine: could not be read, and is not in the backup: {name}", file=sys.stderr)
    if not where and not quiet:
        print("The key is the engine's. Keep a copy of it elsewhere: engine volume backup-key", file=sys.stderr)
    print(done["snapshot"])


def restore(
    ctx: typer.Context, volume: Volume, url: Url,
    snapshot: Annotated[str, option("--snapshot", metavar="ID", help="Snapshot (the newest of the volume)")] = "",
    of: Annotated[str, option("--of", metavar="VOLUME", help="Take a snapshot of another volume")] = "",
    force: Annotated[bool, option("-f", "--force", help="Replace the content of a volume that has some")] = False,
    opt: Opt = None, password_file: Password = "", password: PasswordRef = "", detach: Detach = False,
    quiet: Quiet = False,
) -> None:  # fmt: skip
    """Fill a volume, which is made if it does not exist, from a restic repository; print the snapshot's id."""
    body = {
        "URL": url, "Options": options("--opt", opt or ()), "Password": _password(password_file, password),
        "Snapshot": snapshot, "Of": of, "Force": force,
    }  # fmt: skip
    done = _run(client_of(ctx), f"/engine/volumes/{volume}/restore", body, quiet=quiet, detach=detach)
    if done:
        print(done["snapshot"])


def backup_key(ctx: typer.Context) -> None:
    """Print the engine's own key, which opens the repositories that were made without a password."""
    print(client_of(ctx).get("/engine/volume-backup-key")["Key"])


def export(
    ctx: typer.Context, volume: Volume,
    output: Annotated[str, option("-o", "--output", metavar="FILE", help="Write to a file, not to stdout (-)")] = "",
) -> None:  # fmt: skip
    """Write a volume as a tar archive: owners, attributes, hard links and holes are kept."""
    path = "" if output == "-" else output
    if not path and is_terminal(1):
        raise Failure("a tar archive does not go to a terminal: use -o FILE or redirect the output")
    response = client_of(ctx).send("POST", f"/engine/volumes/{volume}/export")
    chunks = response.chunks()
    write_stream(_counted(chunks) if path and is_terminal(2) else chunks, path, "a tar archive")


def _counted(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Pass chunks on, and show on the terminal how much it was."""
    total = 0
    for chunk in chunks:
        total += len(chunk)
        print(f"\r\x1b[2K{bytes_decimal(total, 3)}", end="", file=sys.stderr, flush=True)
        yield chunk
    print(file=sys.stderr)


def import_(ctx: typer.Context, volume: Volume, file: Annotated[str, argument("FILE|-")] = "-") -> None:
    """Fill a new or empty volume from a tar archive, also compressed; print its name."""
    if file == "-":
        _upload(client_of(ctx), volume, sys.stdin.buffer)
    else:
        try:
            with Path(file).open("rb") as stream:
                _upload(client_of(ctx), volume, stream)
        except OSError as err:
            raise Failure(f"cannot read {file}: {err.strerror}") from err
    print(volume)


def _upload(client: Client, volume: str, stream: IO[bytes]) -> None:
    chunks = iter(lambda: stream.read(_CHUNK), b"")
    data = _counted(chunks) if is_terminal(2) else chunks
    headers = {"Content-Type": "application/x-tar"}
    client.send("POST", f"/engine/volumes/{volume}/import", data=data, headers=headers).read()


def snapshot(
    ctx: typer.Context, volume: Volume, tag: Annotated[str, argument("[TAG]")] = "",
    consistency: Consistency = "",
    list: Annotated[bool, option("-l", "--list", help="List the snapshots instead")] = False,
    remove: Annotated[str, option("--rm", metavar="SNAPSHOT", help="Remove a snapshot instead")] = "",
    format: Format = "", detach: Detach = False, quiet: Quiet = False,
) -> None:  # fmt: skip
    """Keep a volume as it is now, on the same disk, and print the snapshot's id; or list snapshots, or remove one."""
    client, path = client_of(ctx), f"/engine/volumes/{volume}"
    if list:
        columns = {name: name.upper() for name in ("Tag", "Created", "Consistency", "Size")}
        columns = {"ID": "SNAPSHOT ID", **columns}
        rows = [{**row, "Size": bytes_decimal(row["Size"])} for row in client.get(f"{path}/snapshots")]
        write_rows(rows, columns, format=format, quiet=(lambda row: str(row["ID"])) if quiet else None)
    elif remove:
        client.delete(f"{path}/snapshots/{remove}")
        print(remove)
    else:
        body = {"Tag": tag, "Consistency": consistency}
        done = _run(client, f"{path}/snapshot", body, quiet=quiet, detach=detach)
        if done:
            _say_consistency(done["Consistency"], quiet)
            print(done["ID"])


_MEANING = {
    "fuzzy": "each file as it was at some moment, while containers went on writing",
    "crash": "one point in time, as after a power cut",
    "paused": "one point in time, while containers were paused",
}


def _say_consistency(word: str, quiet: bool) -> None:
    if not quiet:
        print(f"Consistency: {word} ({_MEANING[word]})", file=sys.stderr)


def rollback(
    ctx: typer.Context, volume: Volume, snapshot: Annotated[str, argument("SNAPSHOT")], detach: Detach = False,
    quiet: Quiet = False,
) -> None:  # fmt: skip
    """Go back to a snapshot; what the volume held is kept as another one, whose id is printed."""
    body = {"Snapshot": snapshot}
    done = _run(client_of(ctx), f"/engine/volumes/{volume}/rollback", body, quiet=quiet, detach=detach)
    if done:
        print(done["kept"])


def clone(
    ctx: typer.Context, volume: Volume, new: Annotated[str, argument("NEW")], consistency: Consistency = "",
    detach: Detach = False, quiet: Quiet = False,
) -> None:  # fmt: skip
    """Make a new volume with a copy of another one's data; print its name."""
    body = {"Name": new, "Consistency": consistency}
    done = _run(client_of(ctx), f"/engine/volumes/{volume}/clone", body, quiet=quiet, detach=detach)
    if done:
        _say_consistency(done["consistency"], quiet)
        print(done["name"])


def rename(ctx: typer.Context, volume: Volume, new: Annotated[str, argument("NEW")]) -> None:
    """Give a volume that no container knows another name."""
    client_of(ctx).post(f"/engine/volumes/{volume}/rename", {"name": new})


def update(
    ctx: typer.Context, volume: Volume,
    add: Annotated[Many, option("--label-add", metavar="KEY[=VALUE]", help="Set a label")] = None,
    remove: Annotated[Many, option("--label-rm", metavar="KEY", help="Remove a label")] = None,
) -> None:  # fmt: skip
    """Change the labels of a volume."""
    body = {"Labels": labels(add or ()), "RemoveLabels": remove or []}
    client_of(ctx).post(f"/engine/volumes/{volume}/update", body=body)
    print(volume)


def usage(ctx: typer.Context, volume: Volume, format: Format = "", quiet: Quiet = False) -> None:
    """Show what a volume holds: bytes, its limit, and files where they were counted."""
    done = _run(client_of(ctx), f"/engine/volumes/{volume}/usage", None, quiet=quiet or not is_terminal(2))
    row = {
        "Volume": volume, "Bytes": done["bytes"], "Used": bytes_decimal(done["bytes"]),
        "Limit": bytes_decimal(done["limit"]) if done["limit"] else "-",
        "Files": "-" if done["files"] is None else str(done["files"]),
    }  # fmt: skip
    columns = {"Volume": "VOLUME", "Used": "USED", "Limit": "LIMIT", "Files": "FILES"}
    write_rows([row], columns, format=format)


def scrub(
    ctx: typer.Context, volume: Volume,
    accept: Annotated[bool, option("--accept", help="What is there counts as what should be there")] = False,
    format: Format = "", detach: Detach = False, quiet: Quiet = False,
) -> int:  # fmt: skip
    """Read all of a volume, and show what is damaged, cut, exchanged, old or missing: then the exit code is 1."""
    path, query = f"/engine/volumes/{volume}/scrub", {"accept": accept}
    done = _run(client_of(ctx), path, None, query=query, quiet=quiet or not is_terminal(2), detach=detach)
    if not done:
        return 0
    rows = [{"Problem": p["problem"], "Name": p["key"], "Detail": p["detail"]} for p in done["problems"]]
    write_rows(rows, {"Problem": "PROBLEM", "Name": "NAME", "Detail": "DETAIL"}, format=format)
    if not quiet:
        bad = sum(done["counts"].values())
        read = f"{done['files']} objects, {bytes_decimal(done['bytes'], 3)}"
        print(f"{read}, {bad} with a problem, {done['foreign']} not noted before", file=sys.stderr)
    return int(bool(done["counts"]))


def jobs(
    ctx: typer.Context, volume: Annotated[str, argument("[VOLUME]")] = "",
    cancel: Annotated[str, option("--cancel", metavar="JOB", help="Ask a job to give up")] = "",
    follow: Annotated[str, option("--follow", metavar="JOB", help="Show the progress of a job until it ends")] = "",
    format: Format = "", quiet: Quiet = False,
) -> None:  # fmt: skip
    """List the jobs of a volume or of all; cancel or follow one."""
    client = client_of(ctx)
    if cancel:
        print(client.delete(f"/engine/volume-jobs/{cancel}")["ID"])
        return
    if follow:
        _show(client.send("GET", f"/engine/volume-jobs/{follow}").json_lines(), quiet)
        return
    rows = client.get(f"/engine/volumes/{volume}/jobs" if volume else "/engine/volume-jobs")
    columns = {name: name.upper() for name in ("Volume", "Kind", "State", "Step", "Created")}
    columns = {"ID": "JOB ID", **columns}
    shown = [
        {**row, "Step": row["Error"] or (_step(row["Progress"]) if row["State"] == "running" else "")} for row in rows
    ]
    write_rows(shown, columns, format=format, quiet=(lambda row: str(row["ID"])) if quiet else None)


def _step(progress: Mapping[str, Any]) -> str:
    step = str(progress.get("step", ""))
    if progress.get("total"):
        step += f" {100 * progress['done'] // progress['total']}%"
    return step
