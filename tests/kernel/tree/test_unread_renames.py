"""Files that were never read are renamed: their content is in objects under old names, and nowhere else."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.kernel.tree.fault_store import FaultStore
from tests.kernel.tree.grounds import Place, need_on_demand, store_of

from engine.spec.errors import Unavailable
from engine.spec.storage import Store
from engine.tree import holder


@pytest.fixture(params=["memory", "file"])
def store(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Store]:
    need_on_demand(tmp_path)
    if request.param == "memory":
        yield store_of(f"memory://{tmp_path.name}{os.getpid()}")
    else:
        yield store_of(f"file://{tmp_path}/store", {"fsync": "false"})
    assert holder.end(tmp_path / "a/run")


def read(root: Path) -> dict[str, bytes]:
    """All files, as another process reads them."""
    code = "import sys, os; os.chdir(sys.argv[1]); print({f: open(f, 'rb').read() for f in sys.argv[2:]})"
    files = [str(p.relative_to(root)) for p in root.rglob("*") if p.is_file()]
    argv = [sys.executable, "-I", "-S", "-c", code, str(root), *files]
    return eval(subprocess.run(argv, check=True, capture_output=True, timeout=60, text=True).stdout)


def objects(store: Store) -> dict[str, bytes]:
    return {s.key: store.get(s.key) for s in store.list() if not s.key.endswith(".json")}


def test_files_that_were_never_read_keep_their_content_under_any_name(tmp_path: Path, store: Store) -> None:
    names = ("below", "new", "old", "one", "other", "first", "steps", "gone", "kept", "seen", "unseen")
    for name in names:
        store.put(name, b"content of " + name.encode())
    with Place(tmp_path, store, mode="on-demand") as place:
        root = place.path
        place.tree._hydration.ensure("seen")  # one that is whole
        place.tree._scan(deep=True)
        (root / "unseen").rename(root / "seen")
        (root / "below").rename(root / "t")  # below a directory of its own name
        (root / "below").mkdir()
        (root / "t").rename(root / "below" / "x")
        (root / "new").rename(root / "old")  # over another
        (root / "one").rename(root / "t")  # two change places
        (root / "other").rename(root / "one")
        (root / "t").rename(root / "other")
        (root / "first").rename(root / "second")  # something new has the name
        (root / "first").write_bytes(b"made here")
        (root / "steps").rename(root / "step 1")
        place.tree._scan(deep=True)
        (root / "step 1").rename(root / "step 2")
        (root / "steps").write_bytes(b"made between")
        (root / "gone").write_bytes(b"over what was not read")
        place.sync()
        wanted = {
            "below/x": b"content of below",
            "old": b"content of new",
            "one": b"content of other",
            "other": b"content of one",
            "second": b"content of first",
            "first": b"made here",
            "step 2": b"content of steps",
            "steps": b"made between",
            "gone": b"over what was not read",
            "kept": b"content of kept",
            "seen": b"content of unseen",
        }
        assert objects(store) == wanted
        assert read(root) == wanted
        place.sync()
        assert objects(store) == wanted
        assert place.tree.status().conflicts == ()
    with Place(tmp_path, store, mode="on-demand") as again:
        again.sync()
        assert read(again.path) == wanted
        assert again.tree.status().reason == ""


def test_a_name_that_is_taken_before_the_other_place_is_seen(tmp_path: Path, store: Store) -> None:
    """A hint shows one of two directories: what was never read may be in the other."""
    store.put("a/file", b"content")
    store.put("b/other", b"other")
    with Place(tmp_path, store, mode="on-demand") as place:
        with place.tree._scanning:
            (place.path / "a" / "file").rename(place.path / "b" / "moved")
            (place.path / "a" / "file").write_bytes(b"new")
            place.tree._scanner.some(["a"])
            place.tree._transfers.refresh(["a/file"], delay=0.0, settled=0)
            now = time.monotonic()
            place.tree._transfers.wait({("upload", "a/file")}, now, now + 1)
        place.sync()
        wanted = {"a/file": b"new", "b/moved": b"content", "b/other": b"other"}
        assert objects(store) == read(place.path) == wanted


def test_a_name_of_several_is_removed(tmp_path: Path, store: Store) -> None:
    with Place(tmp_path, store, "w") as place:
        (place.path / "one").write_bytes(b"content")
        os.link(place.path / "one", place.path / "two")
        place.sync()
    with Place(tmp_path, store, mode="on-demand") as place:
        assert (place.path / "one").stat().st_nlink == 2
        (place.path / "one").unlink()
        place.sync()
        assert objects(store) == read(place.path) == {"two": b"content"}


def test_a_file_is_renamed_again_while_its_object_is_copied_or_removed(tmp_path: Path, store: Store) -> None:
    names = ("copied", "removed", "between")
    for name in names:
        store.put(name, b"content of " + name.encode())
    with Place(tmp_path, FaultStore(store), mode="on-demand") as place:
        root = place.path

        def meanwhile(operation, key, call):
            found = call()
            if operation in ("copy", "put") and (root / "copied 1").exists():
                (root / "copied 1").rename(root / "copied 2")
            if operation == "head" and key == "between" and (root / "removed").exists():
                (root / "removed").rename(root / "removed 2")
            return found

        place.store.fault = meanwhile
        (root / "copied").rename(root / "copied 1")
        (root / "between").rename(root / "t")  # two change places, and then one goes on
        (root / "removed").rename(root / "between")
        (root / "t").rename(root / "removed")
        place.sync()
        place.sync()
        wanted = {
            "copied 2": b"content of copied",
            "between": b"content of removed",
            "removed 2": b"content of between",
        }
        wanted |= {} if (root / "copied 2").exists() else {"copied 1": wanted.pop("copied 2")}
        assert objects(store) == read(root) == wanted
        assert (place.tree.status().conflicts, place.tree.status().reason) == ((), "")


def test_a_copy_that_failed_is_tried_again_though_the_file_got_another_name(tmp_path: Path, store: Store) -> None:
    store.put("one", b"content")
    failed = []
    with Place(tmp_path, FaultStore(store), mode="on-demand") as place:

        def fails_once(operation, key, call):
            if operation not in ("copy", "put") or key != "two" or failed:
                return call()
            failed.append(key)
            os.link(place.path / "two", place.path / "three")
            place.tree._scan(deep=True)
            raise Unavailable(f"{operation} {key!r}", why="503")

        place.store.fault = fails_once
        (place.path / "one").rename(place.path / "two")
        place.sync()
        wanted = {"two": b"content", "three": b"content"}
        assert objects(store) == read(place.path) == wanted
        assert failed
