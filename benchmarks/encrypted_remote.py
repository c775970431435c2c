"""Writes to an encrypted remote volume beside the same without encryption, on one S3 server (SeaweedFS).

    python benchmarks/encrypted_remote.py [--mebibytes 128] [--files 500] [--rounds 3]

As root, alone on the machine. Medians. "returned" is until the writer has its data on the local disk, "flushed" until
`volume sync` says that all of it is in the store. The exit code is 1 if a ratio is below 0.7.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.kernel.storage.servers import seaweed
from tests.kernel.volume.world import World

WANTED = 0.7
_SYNC_SECONDS = 300.0
_SMALL = 4096


def measure(world: World, name: str, *, mebibytes: int, files: int) -> dict[str, float]:
    """Return MiB/s and files/s, returned and flushed, of one volume."""
    path = world.volumes.mount(name, "bench")
    block = os.urandom(1 << 20)
    found: dict[str, float] = {}
    begin = time.monotonic()
    with (path / "big").open("wb") as file:
        for _ in range(mebibytes):
            file.write(block)
        os.fsync(file.fileno())
    found["large returned MiB/s"] = mebibytes / (time.monotonic() - begin)
    _sync(world, name)
    found["large flushed MiB/s"] = mebibytes / (time.monotonic() - begin)
    begin = time.monotonic()
    for number in range(files):
        (path / f"small{number}").write_bytes(block[:_SMALL])
    found["small returned /s"] = files / (time.monotonic() - begin)
    _sync(world, name)
    found["small flushed /s"] = files / (time.monotonic() - begin)
    world.volumes.unmount(name, "bench")
    return found


def _sync(world: World, name: str) -> None:
    left = world.volumes.sync(name, _SYNC_SECONDS)
    if left:
        raise SystemExit(f"{left} changes of {name} were not uploaded within {_SYNC_SECONDS:g} s")


def main() -> int:
    """Measure both kinds in turn, and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mebibytes", type=int, default=128)
    parser.add_argument("--files", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    base = Path(tempfile.mkdtemp(prefix="engine-bench-", dir="/var/tmp"))
    key = base / "key"
    key.write_text("a passphrase for a benchmark\n")
    rows: dict[str, dict[str, list[float]]] = {}
    (base / "s3").mkdir()
    world = World(base / "world")
    try:
        with seaweed(base / "s3") as place:
            for number in range(asked.rounds):
                for driver in ("remote", "encrypted"):
                    options = {**place.options, "url": f"{place.url}/{driver}{number}"}
                    more = {"passphrase-file": str(key)} if driver == "encrypted" else {}
                    name = f"{driver}{number}"
                    world.volumes.create(name, driver, {**options, **more})
                    for what, value in measure(world, name, mebibytes=asked.mebibytes, files=asked.files).items():
                        rows.setdefault(what, {}).setdefault(driver, []).append(value)
                    world.volumes.remove(name)
    finally:
        world.close()
        shutil.rmtree(base, ignore_errors=True)
    below = 0
    print(f"{'':24}{'plain':>10}{'encrypted':>12}{'ratio':>8}")
    for what, values in rows.items():
        plain, encrypted = (statistics.median(values[driver]) for driver in ("remote", "encrypted"))
        below += encrypted / plain < WANTED
        print(f"{what:24}{plain:10.0f}{encrypted:12.0f}{encrypted / plain:8.2f}")
    return int(below > 0)


if __name__ == "__main__":
    sys.exit(main())
