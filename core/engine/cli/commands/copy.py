"""cp and export: files out of and into containers, as tar streams."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import stat
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Annotated, Any

import typer

from engine.cli.base import argument, client_of, option
from engine.cli.client import Client
from engine.cli.errors import ApiError, Failure
from engine.cli.render.words import bytes_decimal
from engine.cli.terminal import is_terminal


class Readable(io.RawIOBase):
    """A file object over chunks, for tarfile."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks, self._rest = chunks, b""

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill from the next chunk."""
        if not self._rest:
            self._rest = next(self._chunks, b"")
        part, self._rest = self._rest[: len(buffer)], self._rest[len(buffer) :]
        buffer[: len(part)] = part
        return len(part)


def split_place(text: str) -> tuple[str, str]:
    """Split `CONTAINER:PATH`; a local path (also one with a colon after a slash) has no container."""
    if text.startswith(("/", ".")) or ":" not in text or "/" in text.partition(":")[0]:
        return "", text
    container, _, path = text.partition(":")
    return container, path


def cp(
    ctx: typer.Context,
    source: Annotated[str, argument("SOURCE")],
    target: Annotated[str, argument("TARGET")],
    archive: Annotated[bool, option("-a", "--archive", help="Keep user and group")] = False,
    follow: Annotated[bool, option("-L", "--follow-link", help="Follow a symbolic link in SOURCE")] = False,
    quiet: Annotated[bool, option("-q", "--quiet", help="Do not say what was copied")] = False,
) -> None:
    """Copy files between a container and here: CONTAINER:PATH or a local path; `-` is a tar stream."""
    from_container, source_path = split_place(source)
    to_container, target_path = split_place(target)
    if bool(from_container) == bool(to_container):
        raise Failure("one side must be CONTAINER:PATH, the other a local path")
    client = client_of(ctx)
    if from_container:
        count = _from_container(client, from_container, source_path, target_path, follow=follow, archive=archive)
        place = target_path
    else:
        count = _to_container(client, to_container, source_path, target_path, follow=follow, archive=archive)
        place = f"{to_container}:{target_path}"
    if not quiet and target_path != "-":
        print(f"Successfully copied {bytes_decimal(count, 3)} to {place}", file=sys.stderr)


def _stat(client: Client, container: str, path: str) -> dict[str, Any] | None:
    """Return what is at a path of a container, or None."""
    try:
        response = client.send("HEAD", f"/containers/{container}/archive", {"path": path})
    except ApiError as err:
        if err.status != 404:
            raise
        return None
    text = response.headers.get("X-Docker-Container-Path-Stat", "")
    response.close()
    found: dict[str, Any] = json.loads(base64.b64decode(text))
    return found


def _is_directory(found: dict[str, Any]) -> bool:
    return bool(found["mode"] & (1 << 31))  # Go's os.ModeDir


def _from_container(client: Client, container: str, source: str, target: str, *, follow: bool, archive: bool) -> int:
    found = _stat(client, container, source)
    if found is None:
        client.get(f"/containers/{container}/json")  # says so if it is the container that is missing
        raise Failure(f"there is no {source} in container {container}")
    if follow and found.get("linkTarget"):
        source = str(PurePosixPath(source).parent / found["linkTarget"])
    response = client.send("GET", f"/containers/{container}/archive", {"path": source})
    if target == "-":
        if is_terminal(1):
            raise Failure("a tar stream does not go to a terminal: redirect the output")
        shutil.copyfileobj(Readable(response.chunks()), sys.stdout.buffer)
        return 0
    contents_only = source.endswith(("/.", "/./"))
    destination = Path(target)
    name = PurePosixPath(source).name or "/"
    if destination.is_dir():
        base, rename = destination, None
    elif _is_directory(found):
        if destination.exists():
            raise Failure(f"{target} is no directory, but {source} is one")
        if not destination.parent.is_dir():
            raise Failure(f"there is no directory {destination.parent}")
        base, rename = destination.parent, destination.name
    else:
        if target.endswith("/") or not destination.parent.is_dir():
            raise Failure(f"there is no directory {destination if target.endswith('/') else destination.parent}")
        base, rename = destination.parent, destination.name
    if contents_only and rename is None:
        rename = "."
    return _unpack(response.chunks(), base, name, rename, archive=archive)


def _unpack(chunks: Iterator[bytes], base: Path, name: str, rename: str | None, *, archive: bool) -> int:
    """Unpack a tar whose members begin with one name, under another one; nothing may leave `base`."""
    count = 0
    with tarfile.open(fileobj=io.BufferedReader(Readable(chunks)), mode="r|") as tar:
        tar.extraction_filter = _as_it_is  # an argument of `extract` only since Python 3.11.4
        for member in tar:
            member.name = member.name.lstrip("/")
            first, slash, rest = member.name.partition("/")
            if rename is not None:
                member.name = f"{rename}{slash}{rest}" if rest else rename
                if member.islnk():
                    member.linkname = member.linkname.replace(first, rename, 1)
            if not archive:
                member.uid, member.gid = os.geteuid(), os.getegid()
            if not _is_inside(base, member.name):
                raise Failure(f"the archive is refused: {member.name!r} would be written outside of {base}")
            tar.extract(member, base, numeric_owner=True)
            count += member.size
    return count


def _as_it_is(member: tarfile.TarInfo, _: str) -> tarfile.TarInfo:
    return member


def _is_inside(base: Path, name: str) -> bool:
    return (base / name).resolve().is_relative_to(base.resolve())


def _to_container(client: Client, container: str, source: str, target: str, *, follow: bool, archive: bool) -> int:
    if source == "-":
        _upload(client, container, target, sys.stdin.buffer, archive=archive)
        return 0
    path = Path(source)
    if not os.path.lexists(source):
        raise Failure(f"there is no {source} here")
    real = path.resolve() if follow or (source.endswith("/") and path.is_symlink()) else path
    is_directory = real.is_dir() and not (real.is_symlink() and not follow)
    found = _stat(client, container, target)
    if found is not None and found.get("linkTarget") and not _is_directory(found):
        linked = str(PurePosixPath(target).parent / found["linkTarget"])
        found, target = _stat(client, container, linked), linked
    if found is not None and _is_directory(found):
        base, name = target, "." if source.endswith(("/.", "/./")) or source == "." else real.absolute().name
    elif found is not None and is_directory:
        raise Failure(f"{target} in container {container} is no directory, but {source} is one")
    elif found is None and target.endswith("/") and not is_directory:
        client.get(f"/containers/{container}/json")
        raise Failure(f"there is no directory {target} in container {container}")
    else:
        pure = PurePosixPath("/") / target
        base, name = str(pure.parent), pure.name
    with tempfile.TemporaryFile() as spool:
        count = _pack(spool, real, name)
        spool.seek(0)
        _upload(client, container, base, spool, archive=archive)
    return count


def _pack(file: IO[bytes], path: Path, name: str) -> int:
    count = 0

    def counted(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        nonlocal count
        if stat.S_ISSOCK(member.mode):
            return None
        count += member.size
        return member

    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        tar.add(path, arcname=name, filter=counted)
    return count


def _upload(client: Client, container: str, target: str, data: IO[bytes], *, archive: bool) -> None:
    query = {"path": target, "noOverwriteDirNonDir": "true", "copyUIDGID": archive}
    client.send(
        "PUT", f"/containers/{container}/archive", query, data=data, headers={"Content-Type": "application/x-tar"}
    ).read()


def write_stream(chunks: Iterator[bytes], path: str, what: str) -> None:
    """Write a stream to a file, which appears only when it is whole, or to stdout."""
    if not path:
        if is_terminal(1):
            raise Failure(f"{what} does not go to a terminal: use -o FILE or redirect the output")
        for chunk in chunks:
            sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()
        return
    target = Path(path)
    temporary = target.with_name(f".{target.name}.part")
    try:
        with temporary.open("wb") as file:
            for chunk in chunks:
                file.write(chunk)
        temporary.replace(target)
    except OSError as err:
        raise Failure(f"cannot write {path}: {err.strerror}") from err
    finally:
        temporary.unlink(missing_ok=True)


def export(
    ctx: typer.Context,
    container: Annotated[str, argument("CONTAINER")],
    output: Annotated[str, option("-o", "--output", metavar="FILE", help="Write to a file, not to stdout")] = "",
) -> None:
    """Write a container's file system as a tar archive."""
    if not output and is_terminal(1):
        raise Failure("a tar archive does not go to a terminal: use -o FILE or redirect the output")
    response = client_of(ctx).send("GET", f"/containers/{container}/export")
    write_stream(response.chunks(), output, "a tar archive")
