"""A tree for the tests of on-demand hydration: files of known content in a store that is as slow as is asked for.

Run as a program it is the process that the kill tests kill: it reads `start` lines and forks a worker for each, so that
a new worker costs no imports.
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from engine.spec.errors import EngineError, Unavailable
from engine.spec.storage import Stat, StorageCaps, Store
from engine.tree.attributes import Attributes
from engine.tree.hydration import Entry, Initializer, Local, Signature
from engine.tree.listing import version_of
from engine.tree.on_demand import OnDemandHydration
from engine_drivers.storage.file import DirectoryStore

MTIME = 1_600_000_000_123_456_789


class SlowStore(Store):
    """A store whose answers take `delay` seconds; while `down`, it cannot be reached."""

    def __init__(self, inner: Store, delay: float = 0.0) -> None:
        self.inner = inner
        self.caps: StorageCaps = inner.caps
        self.delay = delay
        self.down = False
        self.gets = 0

    def _wait(self) -> None:
        time.sleep(self.delay)
        if self.down:
            raise Unavailable("the store cannot be reached", why="the test says so")

    def head(self, key: str) -> Stat | None:
        self._wait()
        return self.inner.head(key)

    def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        self.gets += 1
        self._wait()
        return self.inner.get(key, start, end)

    def put(self, key: str, data: bytes, **more: object) -> Stat:
        return self.inner.put(key, data, **more)  # type: ignore[arg-type]

    def delete(self, key: str, *, if_match: str | None = None) -> None:
        self.inner.delete(key, if_match=if_match)

    def list(self, prefix: str = "", *, delimiter: Literal["", "/"] = "") -> Iterator[Stat]:
        return self.inner.list(prefix, delimiter=delimiter)


class TestSite:
    """What the tree would be: its journal is the store's listing, since the tests' evicted files never change."""

    __test__ = False

    def __init__(self, base: Path, delay: float = 0.0) -> None:
        self.base = base
        self.root = base / "data"
        self.staging = base / "staging"
        self.run = base / "run"
        for directory in (self.root, self.staging, self.run):
            directory.mkdir(parents=True, exist_ok=True)
        self.store = SlowStore(DirectoryStore(base / "store", fsync=False), delay)
        self.settled: list[tuple[str, Signature, Signature, bool]] = []
        self.renewals: list[tuple[str, Signature, Signature, str, str]] = []
        self.missing: list[str] = []

    def entries(self) -> list[Entry]:
        return [Entry(s.key, s.size, version_of(s), Attributes(mtime_ns=MTIME, mode=0o755)) for s in self.store.list()]

    def download(self, entry: Entry, descriptor: int) -> None:
        raise NotImplementedError

    def install(self, entry: Entry, staged: Path, *, hydrated: bool, handle: bytes = b"") -> bool:
        target = self.root / entry.path
        target.parent.mkdir(parents=True, exist_ok=True)
        staged.chmod(entry.attributes.mode)
        os.utime(staged, ns=(MTIME, entry.attributes.mtime_ns))
        staged.rename(target)
        return True

    def install_new(self, entries: Sequence[Entry], initialize: Initializer) -> Sequence[Entry]:
        return entries  # one by one

    def settle(self, path: str, before: Signature, after: Signature, *, hydrated: bool, handle: bytes = b"") -> bool:
        self.settled.append((path, before, after, hydrated))
        return True

    def keep_settled(self) -> None:
        pass

    def renewed(self, path: str, before: Signature, after: Signature, *, old: str, new: str) -> None:
        self.renewals.append((path, before, after, old, new))

    def gone(self, path: str) -> None:
        self.missing.append(path)

    def has(self, path: str) -> bool:
        return False

    def spoiled(self, path: str, error: EngineError) -> None:
        raise NotImplementedError

    def evictable(self) -> Iterator[Local]:
        for entry in self.entries():
            try:
                facts = (self.root / entry.path).lstat()
            except FileNotFoundError:
                continue
            found = Signature(facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)
            ours = facts.st_mtime_ns == MTIME or entry.path.startswith("c/")  # nobody writes into those
            if facts.st_blocks and facts.st_size == entry.size and ours:
                yield Local(entry.path, found, entry.version)

    def progressed(self, step: str, done: int, total: int) -> None:
        pass


def open_tree(site: TestSite, *, budget: int = 0, patience: float = 30.0) -> OnDemandHydration:
    """Start hydration; make placeholders of what is not there."""
    hydration = OnDemandHydration(site.run, site.base / "fills", budget=budget, patience=patience)
    hydration.start(site)
    hydration.prepare([e for e in site.entries() if not (site.root / e.path).exists()])
    return hydration


def fill_store(base: Path, files: dict[str, bytes]) -> dict[str, str]:
    """Put files into the store; return their digests."""
    (base / "store").mkdir(parents=True, exist_ok=True)
    store = DirectoryStore(base / "store", fsync=False)
    for name, data in files.items():
        store.put(name, data)
    return {name: hashlib.md5(data).hexdigest() for name, data in files.items()}


def content(size: int, seed: int) -> bytes:
    """Return bytes of which no block is zeroes."""
    return random.Random(seed).randbytes(size)


def _worker(base: Path, delay: float, evict: float) -> None:
    site = TestSite(base, delay)
    hydration = open_tree(site)
    os.write(1, b"ready\n")
    while True:
        time.sleep(evict or 3600)
        hydration._evictor.make_room(random.randrange(1, 20 << 20))


def main(arguments: Sequence[str]) -> None:
    """`BASE DELAY EVICT`: fork a worker for each line of stdin and say its pid; it says `ready`."""
    base, delay, evict = Path(arguments[0]), float(arguments[1]), float(arguments[2])
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    assert threading.active_count() == 1
    for _ in sys.stdin:
        pid = os.fork()
        if not pid:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            random.seed()
            _worker(base, delay, evict)
        os.write(1, f"{pid}\n".encode())


if __name__ == "__main__":
    main(sys.argv[1:])
