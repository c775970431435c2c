"""What a file does while a request of it is under way, and requests whose answers are lost."""

from __future__ import annotations

import os
import time
from collections import Counter

import pytest
from tests.kernel.tree.fault_store import FaultStore
from tests.kernel.tree.grounds import SECONDS, Place, keys, store_of

from engine.spec.errors import Unavailable
from engine.tree import transfers


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(transfers, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(transfers, "LONGEST_PAUSE", 0.1)


@pytest.fixture(params=["file", "memory"])
def store(tmp_path, request):
    if request.param == "memory":
        return FaultStore(store_of(f"memory://{tmp_path.name}{os.getpid()}"))
    return FaultStore(store_of(f"file://{tmp_path}/store", {"fsync": "false"}))


def once(operation, key, act, *, answer=True, done=True):
    """A fault: at the first such request, act; then do it or not, and answer or not."""
    left = [key]

    def fault(what, which, call):
        if what != operation or which not in left:
            return call()
        left.clear()
        act()
        found = call() if done else None
        if not answer:
            raise Unavailable(f"{what} {which!r}", why="there was no answer")
        return found

    return fault


def nothing():
    pass


@pytest.mark.parametrize("answer", [True, False], ids=["answered", "not answered"])
def test_a_file_that_comes_back_while_its_object_is_removed_is_stored_again(tmp_path, store, answer):
    with Place(tmp_path, store) as place:
        path = place.path / "file"
        path.write_bytes(b"content")
        place.sync()

        def come_back():
            path.write_bytes(b"content")
            place.tree._scan(deep=True)

        store.fault = once("delete", "file", come_back, answer=answer)
        path.unlink()
        place.sync()
        place.sync()
        assert store.get("file") == b"content"
    with place.reopened():
        assert path.read_bytes() == b"content"


def test_a_file_that_goes_while_it_is_uploaded_leaves_no_object(tmp_path, store):
    with Place(tmp_path, store) as place:
        path = place.path / "file"

        def go():
            path.unlink()
            for _ in range(2):
                place.tree._scan(deep=True)
            time.sleep(0.3)  # the removal would have its turn

        store.fault = once("put", "file", go)
        path.write_bytes(b"content")
        place.sync()
        place.sync()
        assert keys(store) == []


def test_an_upload_without_an_answer_is_known_for_ours_whatever_follows(tmp_path, store):
    names = ("changed", "removed", "copied")
    tries: Counter[str] = Counter()

    def deaf(what, key, call):
        """The first write of each arrives, the others do not, and none is answered."""
        if what not in ("put", "copy") or key not in names:
            return call()
        if not tries[key]:
            call()
        tries[key] += 1
        raise Unavailable(f"{what} {key!r}", why="there was no answer")

    with Place(tmp_path, store) as place:
        for name in ("changed", "removed", "source"):
            (place.path / name).write_bytes(name.encode() + bytes(1 << 20))  # enough to be copied by the store
        place.sync()
        store.fault = deaf
        (place.path / "source").rename(place.path / "copied")
        for number in range(3):
            for name in names if number else names[:2]:
                (place.path / name).write_bytes(b"change %d" % number)
            before, end = Counter(tries), time.monotonic() + SECONDS
            while any(tries[name] == before[name] for name in names) and time.monotonic() < end:
                place.tree.barrier(0.01)
        (place.path / "removed").unlink()
        store.fault = None
        place.sync()
        status = place.tree.status()
        assert (status.conflicts, status.reason) == ((), "")
        assert keys(store) == ["changed", "copied"]
        assert store.get("changed") == store.get("copied") == b"change 2"
