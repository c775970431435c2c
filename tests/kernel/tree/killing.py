"""Kills a tree at random moments, many times, and reads every byte back. Run as a program: `killing.py JSON`.

One process imports everything, and forks a child for each round: the child opens the tree, and a writer in it works on
the files and says on a pipe what it is about to do and what it has done (written, fsynced). Then the child is killed.
What was acknowledged must be in the directory; at checkpoints a tree is opened, synced, and the
store is read by another one.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import select
import shutil
import signal
import sys
import time
from pathlib import Path

from tests.kernel.tree.grounds import SECONDS, Place, keys, picture, store_of

from engine.tree import transfers

NAMES = [f"{d}{n}" for d in ("", "one/", "two/deep/") for n in range(8)]
LARGE = 3 << 20


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Writer:
    """Changes files, one at a time, each change announced and acknowledged."""

    def __init__(self, root: Path, pipe: int, seed: int) -> None:
        self._root, self._pipe, self._random = root, pipe, random.Random(seed)

    def run(self) -> None:
        while True:
            random.choice([self._write, self._write, self._replace, self._append, self._remove, self._rename])(
                self._random.choice(NAMES)
            )
            time.sleep(self._random.choice([0, 0, 0.001, 0.005]))

    def _say(self, what: str, **facts: str | None) -> None:
        os.write(self._pipe, json.dumps({"what": what, **facts}).encode() + b"\n")

    def _content(self) -> bytes:
        size = self._random.choice([0, 1, 100, 4096, 70_000, LARGE] if self._random.random() < 0.1 else [1, 100, 4096])
        return self._random.randbytes(size)

    def _save(self, path: Path, data: bytes, flags: int = os.O_TRUNC) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | flags, 0o644)
        try:
            os.write(fd, data)
            os.fsync(fd)
        finally:
            os.close(fd)

    def _write(self, name: str) -> None:
        data = self._content()
        self._say("begin", path=name)
        self._save(self._root / name, data)
        self._say("done", path=name, digest=digest(data))

    def _replace(self, name: str) -> None:
        data, path = self._content(), self._root / name
        self._say("begin", path=name)
        self._save(path.with_name(f"{path.name}.tmp"), data)
        path.with_name(f"{path.name}.tmp").rename(path)
        self._say("done", path=name, digest=digest(data))

    def _append(self, name: str) -> None:
        path = self._root / name
        data = path.read_bytes() if path.exists() else b""
        self._say("begin", path=name)
        self._save(path, b"more", os.O_APPEND)
        self._say("done", path=name, digest=digest(data + b"more"))

    def _remove(self, name: str) -> None:
        self._say("begin", path=name)
        (self._root / name).unlink(missing_ok=True)
        self._say("done", path=name, digest=None)

    def _rename(self, name: str) -> None:
        source, target = self._root / name, self._random.choice(NAMES)
        if not source.exists() or target == name:
            return
        data = source.read_bytes()
        self._say("begin", path=name)
        self._say("begin", path=target)
        (self._root / target).parent.mkdir(parents=True, exist_ok=True)
        source.rename(self._root / target)
        self._say("done", path=name, digest=None)
        self._say("done", path=target, digest=digest(data))


class Ledger:
    """What the writer acknowledged."""

    def __init__(self) -> None:
        self.known: dict[str, str | None] = {}
        self.operations = 0

    def check(self, root: Path, lines: list[bytes]) -> list[str]:
        """Take over what was said in a round, and return the paths that are not what they were acknowledged to be."""
        open_paths: set[str] = set()
        for line in lines:
            if not line.endswith(b"}"):
                continue  # cut off by the kill
            said = json.loads(line)
            if said["what"] == "begin":
                open_paths.add(said["path"])
            else:
                open_paths.discard(said["path"])
                self.known[said["path"]] = said["digest"]
                self.operations += 1
        wrong = []
        for path, wanted in self.known.items():
            if path not in open_paths and self._is(root / path) != wanted:
                wrong.append(path)
        for path in open_paths:
            self.known[path] = self._is(root / path)
        return wrong

    @staticmethod
    def _is(path: Path) -> str | None:
        return digest(path.read_bytes()) if path.exists() else None


def round_of(base: Path, url: str, options: dict[str, str], seed: int, seconds: float) -> list[bytes]:
    """Fork, let it work, kill it; return what it said."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(read)
            transfers.THREADS = 2 if seed % 2 else 24  # with few, small files are uploaded together
            place = Place(base, store_of(url, options))
            place.tree.open()
            Writer(place.path, write, seed).run()
        finally:
            os._exit(1)
    os.close(write)
    os.set_blocking(read, False)
    if seed % 3:  # the others are killed while they open
        select.select([read], [], [], SECONDS)
    said, end = b"", time.monotonic() + seconds
    while time.monotonic() < end:
        said += _read(read)
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while part := _read(read):
        said += part
    os.close(read)
    return said.split(b"\n")


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, 1 << 16)
    except BlockingIOError:
        return b""


def checkpoint(base: Path, url: str, options: dict[str, str]) -> list[str]:
    """Sync in a child, and compare with what another host sees; return what differs."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        try:
            os.write(write, json.dumps(_compare(base, url, options)).encode())
        except Exception as err:  # noqa: BLE001  # it is the answer
            os.write(write, json.dumps([repr(err)]).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as answers:
        answer = answers.read()
    os.waitpid(child, 0)
    found: list[str] = json.loads(answer)
    return found


def _compare(base: Path, url: str, options: dict[str, str]) -> list[str]:
    problems: list[str] = []
    with Place(base, store_of(url, options)) as place:
        left = place.tree.barrier(SECONDS)
        status = place.tree.status()
        if left or status.conflicts or status.pending_files:
            rows, removals = place.tree._parts.journal.pending(), place.tree._parts.journal.removals()
            problems.append(f"left {left}, {status}, {rows}, {removals}")
        local = picture(place.path)
    shutil.rmtree(base / "other", ignore_errors=True)
    with Place(base, store_of(url, options), "other") as other:
        remote = picture(other.path)
    differing = [path for path in {**local, **remote} if local.get(path) != remote.get(path)]
    files = sorted(str(p.relative_to(place.path)) for p in place.path.rglob("*") if p.is_file())
    if files != keys(store_of(url, options)):
        problems.append(f"objects: {set(files) ^ set(keys(store_of(url, options)))}")
    return problems + [
        f"differs: {path}: {str(local.get(path))[-150:]} / {str(remote.get(path))[-150:]}" for path in differing
    ]


def main() -> None:
    given = json.loads(sys.argv[1])
    base, chance, ledger = Path(given["base"]), random.Random(given["seed"]), Ledger()
    store = (given["url"], given["options"])
    wrong: list[str] = []
    for number in range(given["kills"]):
        seconds = chance.choice([0.03, 0.06, 0.1, 0.15, 0.3]) * given.get("slower", 1)
        said = round_of(base, *store, seed=given["seed"] * 1000 + number, seconds=seconds * chance.uniform(0.3, 1.5))
        wrong += [f"round {number}: {p} is not what was acknowledged" for p in ledger.check(base / "a" / "data", said)]
        if number % given["every"] == given["every"] - 1:
            wrong += [f"round {number}: {problem}" for problem in checkpoint(base, *store)]
            wrong += [f"round {number} after: {p}" for p in ledger.check(base / "a" / "data", [])]
        if wrong:
            break
    print(json.dumps({"wrong": wrong, "operations": ledger.operations, "kills": number + 1}))


if __name__ == "__main__":
    main()
