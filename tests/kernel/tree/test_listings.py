"""What a listing may do to local files: of a store that is not the one that was written, and beside uploads."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from tests.kernel.tree.fault_store import FaultStore, vanished
from tests.kernel.tree.grounds import SECONDS, Place, keys, picture, store_of

from engine.spec.errors import Forbidden
from engine.spec.storage import PROBES
from engine.spec.trees import UsualAttributes
from engine.tree import tree as trees
from engine.tree.watch import Watch


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(trees, "_RELIST", 0.05)


@pytest.fixture(params=["file", "memory"])
def store(tmp_path, request):
    if request.param == "memory":
        return FaultStore(store_of(f"memory://{tmp_path.name}{os.getpid()}"))
    return FaultStore(store_of(f"file://{tmp_path}/store", {"fsync": "false"}))


def fill(root: Path) -> None:
    for name in ("one", "d/two", "d/deep/three"):
        (root / name).parent.mkdir(exist_ok=True, parents=True)
        (root / name).write_bytes(name.encode())
    (root / "d" / "link").symlink_to("two")


def empty(store: FaultStore) -> None:
    for stat in list(store.list()):
        store.delete(stat.key)


def wait_for(place: Place, words: str) -> None:
    end = time.monotonic() + SECONDS
    while words not in place.tree.status().reason:
        assert time.monotonic() < end, place.tree.status()
        time.sleep(0.02)


LOST = "not the one that was written"


def test_a_bucket_that_is_made_again_by_a_write_takes_no_local_file_with_it(tmp_path, store):
    """As SeaweedFS does: a bucket that was deleted is there again, with what is written next, and nothing else."""
    with Place(tmp_path, store) as place:
        fill(place.path)
        place.sync()
        empty(store)
        (place.path / "new").write_bytes(b"new")
        (place.path / "d" / "new").write_bytes(b"new")
        place.tree.barrier(SECONDS)
        assert keys(store) == ["d/new", "new"]
        wait_for(place, LOST)
        assert place.tree.barrier(SECONDS) == 3  # that many files are nowhere but here
        before = picture(place.path)
    for _ in range(2):  # it is not forgotten by being seen
        with place.reopened() as again:
            assert picture(again.path) == before
            assert LOST in again.tree.status().reason
            (again.path / "new").touch()
            assert again.tree.barrier(SECONDS) == 3
            before = picture(again.path)
    with place.reopened() as again:
        for path in again.path.rglob("*"):
            os.utime(path, follow_symlinks=False)
        again.sync()
        assert again.tree.status().state == "ready"
        with Place(tmp_path, store, "b") as other:
            assert picture(other.path) == picture(again.path)


def test_what_another_host_put_into_a_new_bucket_replaces_nothing(tmp_path, store):
    with Place(tmp_path, store) as place:
        fill(place.path)
        place.sync()
    empty(store)
    with Place(tmp_path, store, "b") as other:
        (other.path / "one").write_bytes(b"of another volume")
        (other.path / "theirs").write_bytes(b"theirs")
        other.sync()
    with place.reopened() as again:
        wait_for(again, LOST)
        assert (again.path / "one").read_bytes() == b"one"
        assert (again.path / "d" / "two").read_bytes() == b"d/two"
        assert (again.path / "d" / "link").readlink() == Path("two")


def test_what_another_host_removed_goes_and_a_sidecar_that_is_lost_alone_is_written_again(tmp_path, store):
    with Place(tmp_path, store) as place:
        fill(place.path)
        place.sync()
    store.delete(".engine-attributes.json")
    with place.reopened() as again:
        (again.path / "new").write_bytes(b"new")
        again.sync()
        assert store.head(".engine-attributes.json")
        assert again.tree.status().state == "ready"
    with Place(tmp_path, store, "b") as other:
        for name in ("one", "new", "d/two", "d/deep/three"):
            (other.path / name).unlink()
        other.sync()
    with place.reopened() as again:
        assert [path for path in again.path.rglob("*") if path.is_file() and not path.is_symlink()] == []
        assert again.tree.status().state == "ready"


def test_what_is_uploaded_and_removed_while_a_store_is_listed_stays_so(tmp_path, store):
    with Place(tmp_path, store) as place:
        for name in ("changed", "removed/one", "back"):
            (place.path / name).parent.mkdir(exist_ok=True)
            (place.path / name).write_bytes(name.encode())
        place.sync()
    store.fault = vanished
    seen = []

    def work(what, key, call):
        """The listing is older than what is done after it, and before it is used."""
        found = call()
        if what == "list" and not seen:
            seen.append(1)
            for name in ("new", "changed"):
                (again.path / name).write_bytes(b"written meanwhile")
            (again.path / "removed" / "one").unlink()
            (again.path / "removed").rmdir()
            assert again.tree.barrier(SECONDS) == 0
        return found

    with place.reopened() as again:
        store.fault = work
        end = time.monotonic() + SECONDS
        while again.tree.status().state != "ready":
            assert time.monotonic() < end, again.tree.status()
            time.sleep(0.02)
        again.sync()
        files = {str(p.relative_to(again.path)): p.read_bytes() for p in again.path.rglob("*") if p.is_file()}
        assert files == {"new": b"written meanwhile", "changed": b"written meanwhile", "back": b"back"}
        assert not (again.path / "removed").exists()
        assert {key: store.get(key) for key in keys(store)} == files
        assert again.tree.status().conflicts == ()


def test_a_watch_that_is_closed_is_not_added_to(tmp_path):
    watch = Watch(lambda: None)
    watch.close()
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        watch.add(fd, "")
    finally:
        os.close(fd)


@pytest.mark.parametrize("options", [{}, {"uid": 1000, "gid": 1001, "file_mode": 0o640, "directory_mode": 0o2750}])
def test_what_other_tools_wrote_can_be_entered_and_read(tmp_path, store, options):
    """The helper's umask is 077: nothing of it may be left in what has no sidecar."""
    store.put("a/b/file", b"content")
    store.put("file", b"content")
    usual = UsualAttributes(**options)
    mask = os.umask(0o077)
    try:
        place = Place(tmp_path, store, usual=usual)
        os.chown(place.path, usual.uid, usual.gid)  # as the driver's plan has it
        place.path.chmod(usual.directory_mode)
        with place:
            store.put("a/c/later", b"content")
            place.tree._list()
            for path in place.path.rglob("*"):
                facts = path.stat()
                mode = usual.directory_mode if path.is_dir() else usual.file_mode
                found = (facts.st_mode & 0o7777, facts.st_uid, facts.st_gid)
                assert found == (mode, usual.uid, usual.gid), path
            place.sync()
            assert sorted(s.key for s in store.list()) == ["a/b/file", "a/c/later", "file"]  # nothing of ours
    finally:
        os.umask(mask)


def test_what_killed_processes_left_of_tries_is_no_file_and_goes_after_a_day(tmp_path, store, monkeypatch):
    store.put(f"{PROBES}condition-1", b"It may be removed.")
    with Place(tmp_path, store) as place:
        (place.path / "file").write_bytes(b"x")
        place.sync()
        assert place.tree.status().state == "ready", place.tree.status()
        assert [p.name for p in place.path.iterdir()] == ["file"]
    assert store.head(f"{PROBES}condition-1"), "it may be of somebody who lives"
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 2 * 86400)
    store.fault = forbidden
    with Place(tmp_path, store, "other") as other:
        assert other.tree.status().state == "ready", other.tree.status()
    store.fault = None
    with Place(tmp_path, store, "third"):
        assert keys(store) == ["file"]
        assert store.head(f"{PROBES}condition-1") is None


def forbidden(operation, key, call):
    """Nothing may be removed."""
    if operation == "delete":
        raise Forbidden(f"removing {key!r}")
    return call()
