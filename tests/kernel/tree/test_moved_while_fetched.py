"""Files are moved while they are being fetched, after a fetch that failed, and during each look at the tree.

Their content is in objects under old names, and nowhere else.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.kernel.tree.fault_store import FaultStore
from tests.kernel.tree.grounds import Place, need_on_demand, store_of

from engine.spec.errors import Unavailable
from engine.spec.storage import Store
from engine.tree import holder
from engine.tree.scan import Scanner


@pytest.fixture(params=["memory", "file"])
def store(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Store]:
    need_on_demand(tmp_path)
    if request.param == "memory":
        yield store_of(f"memory://moved{tmp_path.name}{os.getpid()}")
    else:
        yield store_of(f"file://{tmp_path}/store", {"fsync": "false"})
    assert holder.end(tmp_path / "a/run")


def read(path: Path) -> bytes:
    """A file as another process reads it: this one's own accesses would wait for themselves."""
    code = "import sys; sys.stdout.buffer.write(open(sys.argv[1], 'rb').read())"
    argv = [sys.executable, "-I", "-S", "-c", code, str(path)]
    return subprocess.run(argv, check=True, capture_output=True, timeout=60).stdout


def objects(store: Store) -> dict[str, bytes]:
    return {s.key: store.get(s.key) for s in store.list() if not s.key.endswith(".json")}


class Gate:
    """A store that gives nothing before it is opened, but for one key, or what is asked for first."""

    def __init__(self, first: int = 0, free: str = "") -> None:
        self.asked = threading.Event()
        self.opened = threading.Event()
        self._left = first
        self._free = free
        self._lock = threading.Lock()

    def __call__(self, operation: str, key: str, call: Callable[[], Any]) -> Any:
        if operation == "get" and key != self._free and not key.endswith(".json"):
            with self._lock:
                self._left -= 1
                held = self._left < 0
            if held:
                self.asked.set()
                assert self.opened.wait(60)
        return call()


def refused(operation: str, key: str, call: Callable[[], Any]) -> Any:
    if operation == "get" and not key.endswith(".json"):
        raise Unavailable(f"{operation} {key!r}", why="503")
    return call()


def test_a_directory_is_moved_while_its_files_are_fetched_ahead(tmp_path: Path, store: Store) -> None:
    wanted = {f"{n}.txt": b"content %d" % n for n in range(20)}
    for name, content in wanted.items():
        store.put(f"old/{name}", content)
    gate = Gate(free="old/0.txt")
    with Place(tmp_path, FaultStore(store, gate), mode="on-demand") as place:
        assert read(place.path / "old" / "0.txt") == wanted["0.txt"]
        assert gate.asked.wait(60)  # the others are on their way
        (place.path / "old").rename(place.path / "new")
        for _ in range(3):
            place.tree._scan(deep=True)
        gate.opened.set()
        place.sync()
        assert objects(store) == {f"new/{name}": content for name, content in wanted.items()}
        assert {name: read(place.path / "new" / name) for name in wanted} == wanted
        assert place.tree.status().conflicts == ()


def test_a_file_is_moved_during_its_first_read(tmp_path: Path, store: Store) -> None:
    content = os.urandom(20 << 20)
    store.put("here/large", content)
    gate = Gate(first=1)
    with Place(tmp_path, FaultStore(store, gate), mode="on-demand") as place, ThreadPoolExecutor(2) as others:
        reader = others.submit(read, place.path / "here" / "large")
        assert gate.asked.wait(60)
        (place.path / "there").mkdir()
        (place.path / "here" / "large").rename(place.path / "there" / "moved")
        for _ in range(3):
            place.tree._scan(deep=True)
        (place.path / "there" / "moved").chmod(0o640)
        place.tree._scan(deep=True)
        barrier = others.submit(place.sync)
        gate.opened.set()
        barrier.result(120)
        assert reader.result(60) == content
        assert objects(store) == {"there/moved": content}
        assert read(place.path / "there" / "moved") == content
    with Place(tmp_path, store, "b") as other:
        assert (other.path / "there" / "moved").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("again", [False, True], ids=["at once", "after a restart"])
def test_a_file_is_moved_whose_fetch_has_failed(tmp_path: Path, store: Store, again: bool) -> None:
    store.put("here/file", b"content")
    broken = FaultStore(store)
    fields: dict[str, Any] = {"mode": "on-demand", "patience": 1.0}
    place = Place(tmp_path, broken, **fields)
    with place:
        broken.fault = refused
        with pytest.raises(subprocess.CalledProcessError):
            read(place.path / "here" / "file")
        (place.path / "here" / "file").rename(place.path / "moved")
        if not again:
            _stays(place, store, broken)
    if again:
        (place.path / "moved").rename(place.path / "moved again")
        with place.reopened() as second:
            _stays(second, store, broken)


def _stays(place: Place, store: Store, broken: FaultStore) -> None:
    for _ in range(3):
        place.tree._scan(deep=True)
    broken.fault = None
    place.sync()
    (name,) = [p.name for p in place.path.iterdir() if p.is_file()]
    assert objects(store) == {name: b"content"}
    assert read(place.path / name) == b"content"


def test_a_file_is_moved_over_another_while_it_is_fetched(tmp_path: Path, store: Store) -> None:
    store.put("new", b"content of new" * (1 << 20))
    store.put("old", b"content of old")
    gate = Gate()
    with Place(tmp_path, FaultStore(store, gate), mode="on-demand") as place, ThreadPoolExecutor(1) as other:
        reader = other.submit(read, place.path / "new")
        assert gate.asked.wait(60)
        (place.path / "new").rename(place.path / "old")
        place.tree._scan(deep=True)
        place.tree._scan(deep=True)
        gate.opened.set()
        place.sync()
        assert reader.result(60) == b"content of new" * (1 << 20)
        assert objects(store) == {"old": b"content of new" * (1 << 20)}


class Hopper:
    """An unread file that is always where the scan was already."""

    def __init__(self, root: Path, directories: list[str]) -> None:
        self.root = root
        self.directories = directories
        self.hops = 0
        self.on = True

    def around(self, look: Callable[..., None]) -> Callable[..., None]:
        def hopping(scanner: Scanner, directory: str, *rest: Any) -> None:
            here = self.root / directory / "file"
            if self.on and directory in self.directories and here.exists():
                self.hops += 1
                done = self.directories[self.directories.index(directory) - 1]
                here.rename(self.root / done / "file")
            look(scanner, directory, *rest)

        return hopping


@pytest.mark.parametrize("reopened", [False, True], ids=["while it is open", "at a start"])
def test_a_file_that_no_scan_sees(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch, reopened: bool
) -> None:
    names = ["a", "b"]
    for name in names:
        store.put(f"{name}/beside", b"beside")
    store.put("b/file", b"the only copy")
    place = Place(tmp_path, store, mode="on-demand")
    hopper = Hopper(place.path, names)
    with place:
        if not reopened:
            monkeypatch.setattr(Scanner, "_look", hopper.around(Scanner._look))
            _never_gone(place, store, hopper)
    if reopened:
        monkeypatch.setattr(Scanner, "_look", hopper.around(Scanner._look))
        with place.reopened() as again:
            _never_gone(again, store, hopper)


def _never_gone(place: Place, store: Store, hopper: Hopper) -> None:
    for _ in range(6):
        place.tree._scan(deep=True)
        place.tree.barrier(0.3)
        assert b"the only copy" in objects(store).values()
    assert hopper.hops > 3
    hopper.on = False
    place.sync()
    (path,) = place.path.rglob("file")
    assert objects(store)[str(path.relative_to(place.path))] == b"the only copy"
    assert read(path) == b"the only copy"
    assert len(objects(store)) == 3


def test_the_file_of_a_removed_object_is_really_gone(tmp_path: Path, store: Store) -> None:
    """No file, no object: also where a program has the removed file open, once that has read it."""
    for name in ("removed", "replaced"):
        store.put(name, b"content")
    gate = Gate()
    with Place(tmp_path, FaultStore(store, gate), mode="on-demand") as place, ThreadPoolExecutor(1) as other:
        (place.path / "removed").unlink()
        place.sync()
        assert objects(store) == {"replaced": b"content"}
        reader = other.submit(read, place.path / "replaced")
        assert gate.asked.wait(60)
        (place.path / "replaced").unlink()
        for _ in range(3):
            place.tree._scan(deep=True)
        gate.opened.set()
        assert reader.result(60) == b"content"
        place.sync()
        assert objects(store) == {}


def test_a_journal_without_handles_gets_them(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of an older engine: its files have them with the first scan."""
    for name in ("a/beside", "b/beside", "b/file"):
        store.put(name, b"the only copy")
    place = Place(tmp_path, store, mode="on-demand")
    with place:
        pass
    with sqlite3.connect(place.resource.journal) as database:
        database.execute("ALTER TABLE files DROP COLUMN handle")
        database.execute("ALTER TABLE removals DROP COLUMN handle")
        database.execute("ALTER TABLE directories DROP COLUMN sent")
        database.execute("PRAGMA user_version = 2")
    hopper = Hopper(place.path, ["a", "b"])
    with place.reopened() as again:
        assert all(row.handle for row in again.tree._parts.journal.rows() if row.kind == "file")
        monkeypatch.setattr(Scanner, "_look", hopper.around(Scanner._look))
        _never_gone(again, store, hopper)
