"""Whole trees whose files are fetched on demand: what the journal makes of files that are filled, and of crashes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.kernel.tree.fault_store import FaultStore
from tests.kernel.tree.grounds import Place, need_on_demand, store_of

from engine.spec.errors import Unavailable
from engine.spec.storage import Store
from engine.tree import content as contents
from engine.tree import holder
from engine.tree.content import CHUNK
from engine.tree.hydration import Signature
from engine.tree.listing import version_of
from engine.tree.on_demand import OnDemandHydration
from engine.tree.placing import Placer


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    need_on_demand(tmp_path)
    yield store_of(f"file://{tmp_path}/store", {"fsync": "false"})
    assert holder.end(tmp_path / "a/run")


def on_demand(base: Path, store: Store) -> Place:
    return Place(base, store, mode="on-demand")


def python(code: str, path: Path) -> bytes:
    """Run code as a program on the volume would; `f` is its file."""
    argv = [sys.executable, "-I", "-S", "-c", f"import os, sys; f = sys.argv[1]; {code}", path]
    return subprocess.run(argv, check=True, capture_output=True, timeout=60).stdout


def read(path: Path) -> bytes:
    return python("sys.stdout.buffer.write(open(f, 'rb').read())", path)


def versions(store: Store) -> dict[str, str]:
    return {s.key: version_of(s) for s in store.list() if not s.key.startswith(".")}


def read_only(operation: str, key: str, call: Callable[[], Any]) -> Any:
    """A store that nothing is written into."""
    if operation in ("put", "copy", "delete"):
        raise Unavailable(f"{operation} {key!r}", why="the test says so")
    return call()


def test_a_changed_object_is_neither_a_conflict_nor_uploaded(tmp_path: Path, store: Store) -> None:
    store.put("changed", b"as it was listed")
    store.put("edited", b"as it was listed")
    store.put("moved", b"as it was listed")
    with on_demand(tmp_path, store) as place:
        for name in ("changed", "edited", "moved"):
            store.put(name, b"as it is now: " + name.encode())
        (place.path / "moved").rename(place.path / "new name")
        before = versions(store)
        assert read(place.path / "changed") == b"as it is now: changed"
        place.sync()
        assert read(place.path / "new name") == b"as it is now: moved"
        assert versions(store) == {**before, "new name": versions(store)["new name"]}
        python("open(f, 'ab').write(b', and here')", place.path / "edited")
        place.sync()
        assert store.get("edited") == b"as it is now: edited, and here"
        assert place.tree.status().conflicts == ()
    with on_demand(tmp_path, store) as again:
        again.sync()
        assert again.tree.status().conflicts == ()
        assert versions(store)["changed"] == before["changed"]


def test_a_scan_before_the_journal_hears_that_a_file_is_filled(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put("file", b"as it is stored")
    with on_demand(tmp_path, store) as place:
        before = versions(store)
        settle = Placer.settle

        def late(self: Placer, *given: Any, **more: Any) -> bool:
            place.tree._scan(deep=True)
            return settle(self, *given, **more)

        monkeypatch.setattr(Placer, "settle", late)
        assert read(place.path / "file") == b"as it is stored"
        monkeypatch.undo()
        place.sync()
        assert versions(store) == before


def test_a_file_that_is_filled_while_a_scan_looks_at_it(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put("file", b"as it is stored")
    asked, go_on = threading.Event(), threading.Event()

    def fault(operation: str, key: str, call: Callable[[], Any]) -> Any:
        if (operation, key) == ("get", "file"):
            asked.set()
            assert go_on.wait(60)
        return call()

    with on_demand(tmp_path, FaultStore(store, fault)) as place, ThreadPoolExecutor(1) as other:
        before = versions(store)
        reader = other.submit(read, place.path / "file")
        assert asked.wait(60)
        signature = OnDemandHydration.signature

        def late(self: OnDemandHydration, descriptor: int) -> Signature:
            go_on.set()
            self.ensure("file")
            return signature(self, descriptor)

        monkeypatch.setattr(OnDemandHydration, "signature", late)  # after stat(2)
        place.tree._scan(deep=True)
        monkeypatch.undo()
        assert reader.result(60) == b"as it is stored"
        place.sync()
        assert versions(store) == before


def test_what_was_written_before_the_machine_crashed_is_uploaded(tmp_path: Path, store: Store) -> None:
    """The journal need not have heard that a file was filled, nor the disk have got all of it."""
    data = bytes(range(1, 256)) * (2 * CHUNK // 255)
    for name in ("file", "moved"):
        store.put(name, data)
    journal = tmp_path / "a/journal.db"
    with on_demand(tmp_path, store) as place:
        pass
    shutil.copy(journal, tmp_path / "before")
    with on_demand(tmp_path, FaultStore(store, read_only)) as place:
        for name in ("file", "moved"):
            python("fd = os.open(f, os.O_RDWR); os.pwrite(fd, b'WRITTEN', 50); os.fsync(fd)", place.path / name)
        (place.path / "moved").rename(place.path / "there")
        for name in ("file", "there"):
            _lose(place.path / name)
    shutil.copy(tmp_path / "before", journal)
    Path(f"{journal}.filled").unlink()
    with on_demand(tmp_path, store) as place:
        place.sync()
        wanted = data[:50] + b"WRITTEN" + data[57:]
        assert store.get("file") == store.get("there") == wanted
        assert store.head("moved") is None
        assert read(place.path / "file") == read(place.path / "there") == wanted


def _lose(file: Path) -> None:
    """Make a file what a crash can leave: filled in an earlier run of the kernel, and a part never came to the disk."""
    facts = file.stat()
    subprocess.run(["fallocate", "-p", "-o", str(CHUNK), "-l", "8192", file], check=True, timeout=20)
    os.utime(file, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    fd = os.open(file, os.O_RDWR)
    try:
        found = contents.read(fd)
        assert found is not None
        contents.write(fd, replace(found, boot="another run"))
    finally:
        os.close(fd)
