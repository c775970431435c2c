"""On-demand volumes beside the local disk and `rclone mount --vfs-cache-mode full`, on one S3 server (SeaweedFS).

    python benchmarks/on_demand.py [--mebibytes 256] [--files 300] [--rounds 3]

As root, alone on the machine: page caches are dropped. Medians. "cold" is the first access: the disk for native, the
store for the others. The last rows are through a proxy with 20 ms round trips.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.kernel.storage.servers import Place, seaweed

from engine.plugins import Plugins
from engine.spec.storage import Store
from engine.spec.trees import StoreSpec, SyncedTree
from engine.storage.secrets import Secrets
from engine.storage.stores import Stores
from engine.tree import holder

ROUND_TRIP = 0.02
SMALL = 4096
RCLONE = [
    "--vfs-cache-mode", "full", "--dir-cache-time", "1h", "--attr-timeout", "1h", "--s3-no-check-bucket",
    "--vfs-read-chunk-size", "32M", "--buffer-size", "32M",
]  # fmt: skip


def open_store(place: Place) -> Store:
    stores = Stores(Plugins())
    return stores.open(stores.plan(place.url, place.options), Secrets())


def serve(config: str) -> None:
    """The helper's part, in a process of its own: until stdin ends."""
    from engine.tree.tree import Tree

    resource = SyncedTree.model_validate_json(config)
    tree = Tree(resource, open_store(Place(resource.store.url, dict(resource.store.options))), host="bench")
    tree.open()
    print("ready", flush=True)
    sys.stdin.read()
    tree.close(60)
    os._exit(0)


async def _proxy(port: int, target: int) -> None:
    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        while data := await reader.read(1 << 18):
            loop.call_later(ROUND_TRIP / 2, writer.write, data)
        await asyncio.sleep(ROUND_TRIP)
        writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        theirs, ours = await asyncio.open_connection("127.0.0.1", target)
        await asyncio.gather(pump(reader, ours), pump(theirs, writer))

    async with await asyncio.start_server(accept, "127.0.0.1", port) as server:
        await server.serve_forever()


@contextlib.contextmanager
def far(place: Place) -> Iterator[Place]:
    """The same server, 20 ms away."""
    target = int(place.options["endpoint-url"].rpartition(":")[2])
    port = target + 1000 if target < 60000 else target - 1000
    process = subprocess.Popen([sys.executable, __file__, "--proxy", str(port), str(target)])
    time.sleep(1)
    try:
        yield place._replace(options={**place.options, "endpoint-url": f"http://127.0.0.1:{port}"})
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def ours(base: Path, place: Place) -> Iterator[Path]:
    for name in ("data", "run"):
        (base / name).mkdir(parents=True)
    tree = SyncedTree(
        path=str(base / "data"), journal=str(base / "journal"), run=str(base / "run"), mode="on-demand",
        store=StoreSpec(url=place.url, options=place.options),
    )  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, __file__, "--serve", tree.model_dump_json()], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    try:
        yield base / "data"
    finally:
        process.communicate(timeout=90)
        holder.end(base / "run")


@contextlib.contextmanager
def rclone(base: Path, place: Place) -> Iterator[Path]:
    mount = base / "mount"
    mount.mkdir(parents=True)
    url = place.url.removeprefix("s3://")
    keys = {
        "RCLONE_S3_PROVIDER": "Other", "RCLONE_S3_ENDPOINT": place.options["endpoint-url"],
        "RCLONE_S3_ACCESS_KEY_ID": _secret(place, "access-key"),
        "RCLONE_S3_SECRET_ACCESS_KEY": _secret(place, "secret-key"),
    }  # fmt: skip
    environment = {k: v for k, v in os.environ.items() if k != "AWS_CA_BUNDLE"} | keys
    argv = ["rclone", "mount", f":s3:{url}", str(mount), "--cache-dir", str(base / "cache"), *RCLONE]
    process = subprocess.Popen(argv, env=environment, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 20
    while not os.path.ismount(mount):
        assert time.monotonic() < end
        time.sleep(0.05)
    try:
        yield mount
    finally:
        subprocess.run(["umount", mount], check=True, timeout=30)
        process.terminate()  # unmounted, it may still look after its cache
        process.wait(60)


def _secret(place: Place, name: str) -> str:
    return Path(place.options[name].removeprefix("file:")).read_text()


def drop_caches() -> None:
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


def timed(act: Callable[[], object]) -> float:
    begin = time.perf_counter()
    act()
    return time.perf_counter() - begin


def read(path: Path) -> None:
    buffer = bytearray(1 << 20)
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def read_all(directory: Path) -> None:
    for path in sorted(directory.iterdir()):
        path.read_bytes()


def commits(directory: Path, number: int = 200) -> None:
    with contextlib.closing(sqlite3.connect(directory / "bench.db", isolation_level=None)) as database:
        database.execute("PRAGMA synchronous=FULL")
        database.execute("CREATE TABLE IF NOT EXISTS t (n)")
        for n in range(number):
            database.execute("INSERT INTO t VALUES (?)", (n,))
    (directory / "bench.db").unlink()


class Table:
    """What was measured, by row and column; higher is better."""

    def __init__(self) -> None:
        self.values: dict[str, dict[str, list[float]]] = {}

    def add(self, row: str, column: str, value: float) -> None:
        self.values.setdefault(row, {}).setdefault(column, []).append(value)

    def show(self) -> None:
        print(f"{'':38}{'native':>12}{'on demand':>12}{'rclone':>12}   to native  to rclone")
        for row, columns in self.values.items():
            found = {c: statistics.median(v) for c, v in columns.items()}
            cells = "".join(f"{found[c]:12.0f}" if c in found else f"{'-':>12}" for c in ("native", "ours", "rclone"))
            ratios = "".join(
                f"{found['ours'] / found[c]:11.2f}" if c in found else f"{'-':>11}" for c in ("native", "rclone")
            )
            print(f"{row:38}{cells} {ratios}")


def measure(table: Table, column: str, directory: Path, options: argparse.Namespace, *, cold: bool) -> None:
    size = options.mebibytes
    for n in range(options.rounds):
        if cold:
            drop_caches()
            table.add("sequential read, cold, MiB/s", column, size / timed(lambda n=n: read(directory / f"big{n}")))
    small = directory / "small"
    if cold:
        drop_caches()
        table.add("small reads, cold, per s", column, options.files / timed(lambda: read_all(small)))
    for _ in range(options.rounds):
        table.add("sequential read, warm, MiB/s", column, size / timed(lambda: read(directory / "big0")))
        table.add("small reads, warm, per s", column, options.files / timed(lambda: read_all(small)))
        stats = timed(lambda: [p.stat() for p in small.iterdir()])
        table.add("stat, per s", column, options.files / stats)
        table.add("sqlite, transactions with fsync per s", column, 200 / timed(lambda: commits(directory)))


def main(options: argparse.Namespace) -> None:
    base = Path(tempfile.mkdtemp(prefix="on-demand-", dir=options.directory))
    table = Table()
    try:
        (base / "weed").mkdir()
        with seaweed(base / "weed") as place:
            native = base / "native"
            (native / "small").mkdir(parents=True)
            store = open_store(place)
            files = {f"big{n}": options.mebibytes << 20 for n in range(options.rounds)}
            files |= {f"small/{n}": SMALL for n in range(options.files)}
            for name, size in files.items():
                data = os.urandom(size)
                (native / name).write_bytes(data)
                store.put(name, data)
            measure(table, "native", native, options, cold=True)
            for column, mount in (("ours", ours), ("rclone", rclone)):
                with mount(base / column, place) as directory:
                    measure(table, column, directory, options, cold=True)
                with far(place) as distant, mount(base / f"{column}-far", distant) as directory:
                    row = "small reads, cold, 20 ms away, per s"
                    table.add(row, column, options.files / timed(lambda d=directory: read_all(d / "small")))
                    row = "sequential read, cold, 20 ms, MiB/s"
                    table.add(row, column, options.mebibytes / timed(lambda d=directory: read(d / "big0")))
        table.show()
    finally:
        shutil.rmtree(base)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2])
    if sys.argv[1:2] == ["--proxy"]:
        asyncio.run(_proxy(int(sys.argv[2]), int(sys.argv[3])))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mebibytes", type=int, default=256)
    parser.add_argument("--files", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--directory", help="where files lie: on ext4, xfs or btrfs", default=None)
    main(parser.parse_args())
