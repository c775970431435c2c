"""images, tag, rmi, history, load, save, import, commit, prune."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import IO, Annotated, Any

import typer

from engine.cli.base import argument, client_of, option
from engine.cli.commands.copy import write_stream
from engine.cli.commands.lifecycle import Force, report_pruned
from engine.cli.commands.listing import inspect_objects
from engine.cli.commands.pull import split_reference
from engine.cli.errors import Failure, Unreachable
from engine.cli.parse.pairs import filters
from engine.cli.render.progress import stdout_progress
from engine.cli.render.table import Row, write_rows
from engine.cli.render.words import ago, bytes_decimal, ellipsis, local_time, short_id
from engine.cli.terminal import confirm, is_terminal

_NONE = "<none>"
_COLUMNS = {"Repository": "REPOSITORY", "Tag": "TAG", "ID": "IMAGE ID", "CreatedSince": "CREATED", "Size": "SIZE"}


def image_rows(found: dict[str, Any], *, full: bool, digests: bool, now: float) -> list[Row]:
    """Return the fields of `docker images`: a row for each tag of an image summary of the API."""
    identifier = found["Id"] if full else short_id(found["Id"])
    by_name = {d.partition("@")[0]: d.partition("@")[2] for d in found.get("RepoDigests") or ()}
    tags = [split_reference(t) for t in found.get("RepoTags") or () if not t.startswith(_NONE)]
    untagged = [(name, _NONE) for name in by_name if name != _NONE and name not in {n for n, _ in tags}]
    names = [*tags, *untagged] or [(_NONE, _NONE)]
    return [
        {
            "Repository": name,
            "Tag": tag,
            "Digest": by_name.get(name, _NONE),
            "ID": identifier,
            "CreatedSince": ago(found["Created"], now),
            "CreatedAt": local_time(found["Created"]),
            "Size": bytes_decimal(found["Size"], 3),
            "VirtualSize": bytes_decimal(found.get("VirtualSize") or found["Size"], 3),
            "SharedSize": "N/A",
            "UniqueSize": "N/A",
            "Containers": str(found["Containers"]) if found.get("Containers", -1) >= 0 else "N/A",
        }
        for name, tag in names
    ]


def images(
    ctx: typer.Context,
    reference: Annotated[str | None, argument("[NAME[:TAG]]")] = None,
    all: Annotated[bool, option("-a", "--all", help="Also intermediate images")] = False,
    quiet: Annotated[bool, option("-q", "--quiet", help="Only ids")] = False,
    digests: Annotated[bool, option("--digests", help="Also digests")] = False,
    no_trunc: Annotated[bool, option("--no-trunc", help="Do not cut long values")] = False,
    filter: Annotated[list[str] | None, option("-f", "--filter", metavar="KEY=VALUE", help="Condition")] = None,
    format: Annotated[str, option("--format", metavar="TEMPLATE", help="json, or a Go template")] = "",
) -> None:
    """List images."""
    chosen = filters(filter or ()) or {}
    if reference:
        chosen.setdefault("reference", []).append(reference)
    found = client_of(ctx).get("/images/json", {"all": all, "digests": digests, "filters": chosen or None})
    now = time.time()
    rows = [
        row
        for image in sorted(found, key=lambda i: -i["Created"])
        for row in image_rows(image, full=no_trunc, digests=digests, now=now)
    ]
    columns = dict(_COLUMNS)
    if digests:
        columns = {"Repository": "REPOSITORY", "Tag": "TAG", "Digest": "DIGEST", **columns}
    if quiet and not format:
        print("\n".join(dict.fromkeys(str(row["ID"]) for row in rows)), end="\n" if rows else "")
        return
    write_rows(rows, columns, format=format)


def image_inspect(
    ctx: typer.Context,
    names: Annotated[list[str], argument("IMAGE...")],
    format: Annotated[str, option("-f", "--format", metavar="TEMPLATE", help="json, or a Go template")] = "",
) -> int:
    """Show everything about images."""
    return inspect_objects(client_of(ctx), names, ["image"], format)


def tag(
    ctx: typer.Context,
    source: Annotated[str, argument("IMAGE[:TAG]")],
    target: Annotated[str, argument("NEW_NAME[:TAG]")],
) -> None:
    """Give an image a further name."""
    name, found = split_reference(target)
    if "@" in target:
        raise Failure(f"a new name has no digest: {target}")
    client_of(ctx).post(f"/images/{source}/tag", {"repo": name, "tag": found})


def rmi(
    ctx: typer.Context,
    images: Annotated[list[str], argument("IMAGE...")],
    force: Annotated[bool, option("-f", "--force", help="Also if stopped containers use it")] = False,
    no_prune: Annotated[bool, option("--no-prune", help="Keep untagged parents")] = False,
) -> int:
    """Remove names of images, and images that have none left."""
    client, failed = client_of(ctx), False
    for image in images:
        try:
            for change in client.delete(f"/images/{image}", {"force": force, "noprune": no_prune}) or ():
                for key, value in change.items():
                    print(f"{key}: {value}", flush=True)
        except Unreachable:
            raise
        except Failure as err:
            if not (force and getattr(err, "status", 0) == 404):
                failed = True
            print(f"engine: {err}", file=sys.stderr)
    return int(failed)


def history(
    ctx: typer.Context,
    image: Annotated[str, argument("IMAGE")],
    quiet: Annotated[bool, option("-q", "--quiet", help="Only ids")] = False,
    human: Annotated[bool, option("-H", "--human/--no-human", help="Sizes and times in words")] = True,
    no_trunc: Annotated[bool, option("--no-trunc", help="Do not cut long values")] = False,
    format: Annotated[str, option("--format", metavar="TEMPLATE", help="json, or a Go template")] = "",
) -> None:
    """Show how an image was made."""
    columns = {
        "ID": "IMAGE", "CreatedSince": "CREATED" if human else "CREATED AT", "CreatedBy": "CREATED BY",
        "Size": "SIZE", "Comment": "COMMENT",
    }  # fmt: skip
    now = time.time()
    rows = []
    for layer in client_of(ctx).get(f"/images/{image}/history"):
        command = layer["CreatedBy"].replace("\t", " ")
        rows.append({
            "ID": layer["Id"] if no_trunc or layer["Id"].startswith("<") else short_id(layer["Id"]),
            "CreatedSince": ago(layer["Created"], now) if human else local_time(layer["Created"]),
            "CreatedAt": local_time(layer["Created"]),
            "CreatedBy": command if no_trunc else ellipsis(command, 45),
            "Size": bytes_decimal(layer["Size"], 3) if human else str(layer["Size"]),
            "Comment": layer.get("Comment") or "",
        })  # fmt: skip
    write_rows(rows, columns, format=format, quiet=(lambda row: str(row["ID"])) if quiet else None)


def _open(path: str) -> IO[bytes]:
    try:
        return Path(path).open("rb")
    except OSError as err:
        raise Failure(f"cannot read {path}: {err.strerror}") from err


def load(
    ctx: typer.Context,
    input: Annotated[str, option("-i", "--input", metavar="FILE", help="Read a file, not stdin")] = "",
    quiet: Annotated[bool, option("-q", "--quiet", help="Do not show progress")] = False,
) -> None:
    """Load images from an archive of docker or OCI."""
    if not input and is_terminal(0):
        raise Failure("no archive given: use -i FILE, or redirect the input")
    response = client_of(ctx).send(
        "POST", "/images/load", {"quiet": quiet or not is_terminal(1)},
        data=_open(input) if input else sys.stdin.buffer, headers={"Content-Type": "application/x-tar"},
    )  # fmt: skip
    if "json" in response.headers.get("Content-Type", ""):
        stdout_progress().show(response.json_lines())
    else:
        write_stream(response.chunks(), "", "the answer")


def save(
    ctx: typer.Context,
    images: Annotated[list[str], argument("IMAGE...")],
    output: Annotated[str, option("-o", "--output", metavar="FILE", help="Write to a file, not to stdout")] = "",
) -> None:
    """Write images as an archive that `load` reads."""
    if not output and is_terminal(1):
        raise Failure("an archive does not go to a terminal: use -o FILE or redirect the output")
    response = client_of(ctx).send("GET", "/images/get", {"names": images})
    write_stream(response.chunks(), output, "an archive")


def import_(
    ctx: typer.Context,
    file: Annotated[str, argument("FILE|URL|-")],
    reference: Annotated[str | None, argument("[NAME[:TAG]]")] = None,
    change: Annotated[
        list[str] | None, option("-c", "--change", metavar="LINE", help="Dockerfile line, e.g. 'CMD sh'")
    ] = None,
    message: Annotated[str, option("-m", "--message", metavar="TEXT", help="Comment")] = "",
    platform: Annotated[str, option("--platform", metavar="OS/ARCH", help="Platform of the content")] = "",
) -> None:
    """Make an image of a tar archive of a root file system."""
    name, found = split_reference(reference) if reference else ("", "")
    query: dict[str, Any] = {
        "repo": name, "tag": found, "message": message, "changes": change or None, "platform": platform,
    }  # fmt: skip
    client = client_of(ctx)
    if file.startswith(("http://", "https://")):
        response = client.send("POST", "/images/create", {**query, "fromSrc": file})
    else:
        data = sys.stdin.buffer if file == "-" else _open(file)
        response = client.send("POST", "/images/create", {**query, "fromSrc": "-"}, data=data)
    stdout_progress().show(response.json_lines())


def commit(
    ctx: typer.Context,
    container: Annotated[str, argument("CONTAINER")],
    reference: Annotated[str | None, argument("[NAME[:TAG]]")] = None,
    author: Annotated[str, option("-a", "--author", metavar="TEXT", help="Author")] = "",
    change: Annotated[
        list[str] | None, option("-c", "--change", metavar="LINE", help="Dockerfile line, e.g. 'CMD sh'")
    ] = None,
    message: Annotated[str, option("-m", "--message", metavar="TEXT", help="Comment")] = "",
    pause: Annotated[bool, option("-p", "--pause/--no-pause", help="Freeze the container meanwhile")] = True,
) -> None:
    """Make an image of a container's changes."""
    name, found = split_reference(reference) if reference else ("", "")
    query = {
        "container": container, "repo": name, "tag": found, "author": author, "comment": message,
        "changes": change or None, "pause": "1" if pause else "0",
    }  # fmt: skip
    print(client_of(ctx).post("/commit", query, body={})["Id"])


def image_prune(
    ctx: typer.Context,
    all: Annotated[bool, option("-a", "--all", help="All that no container uses, not only nameless ones")] = False,
    force: Force = False,
    filter: Annotated[list[str] | None, option("--filter", metavar="KEY=VALUE", help="Condition")] = None,
) -> None:
    """Remove images that are not used."""
    which = "all images that no container uses" if all else "all nameless images that no container uses"
    if not force and not confirm(f"This removes {which}. Go on?"):
        return
    chosen = {**(filters(filter or ()) or {}), "dangling": ["false" if all else "true"]}
    answer = client_of(ctx).post("/images/prune", {"filters": chosen}) or {}
    gone = [f"{k.lower()}: {v}" for change in answer.get("ImagesDeleted") or () for k, v in change.items()]
    report_pruned("Deleted Images:", gone, answer.get("SpaceReclaimed"))
