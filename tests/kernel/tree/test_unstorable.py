"""What the store cannot have is only here: it is counted, it is named, and nothing else waits for it."""

from __future__ import annotations

import os

import pytest
from tests.kernel.tree.fault_store import FaultStore
from tests.kernel.tree.grounds import SECONDS, Place, store_of

from engine.spec.errors import InvalidParameter
from engine.spec.storage import Store

LONG = "x" * 40


@pytest.fixture
def store(tmp_path) -> Store:
    """A store whose keys have 60 bytes at most."""
    found = FaultStore(store_of(f"memory://{tmp_path.name}{os.getpid()}"))
    found.caps = found.inner.caps.model_copy(update={"max_key": 60})
    return found


def left(place: Place) -> tuple[int, int]:
    """What the barrier says, and what the status counts."""
    return place.tree.barrier(SECONDS), place.tree.status().unstorable_files


def test_it_is_counted_until_it_can_be_stored(tmp_path, store):
    with Place(tmp_path, store) as place:
        (place.path / (LONG * 2)).write_bytes(b"a file")
        (place.path / LONG).mkdir()  # its sidecar's key would be too long
        (place.path / LONG / "f").write_bytes(b"below it")
        (place.path / "fine").write_bytes(b"stored")
        os.mkfifo(place.path / "fifo")
        assert left(place) == (2, 2)
        assert store.get("fine") == b"stored"
        found = place.tree.status()
        assert f"not stored: '{LONG}'" in found.reason
        assert "left out: 'fifo'" in found.reason
        assert found.pending_files == 0
        (place.path / LONG).rename(place.path / "short")
        assert left(place) == (1, 1)
        (place.path / (LONG * 2)).unlink()
        assert left(place) == (0, 0)
        assert store.get("short/f") == b"below it"
        (place.path / "fifo").unlink()
        place.sync()
        assert place.tree.status().reason == ""


def test_a_name_that_only_the_server_refuses(tmp_path, store):
    def refuse(operation, key, call):
        if "bad" in key:
            raise InvalidParameter(f"writing {key!r}", why="this server says no")
        return call()

    store.fault = refuse
    with Place(tmp_path, store) as place:
        (place.path / "bad-file").write_bytes(b"1")
        (place.path / "bad").mkdir()
        (place.path / "bad/f").write_bytes(b"1")
        (place.path / "fine").write_bytes(b"stored")
        assert left(place) == (3, 3)
        assert store.get("fine") == b"stored"
        assert "this server says no" in place.tree.status().reason
        assert left(place) == (3, 3)
    with place.reopened() as again:
        assert left(again) == (3, 3)
        (again.path / "fine too").write_bytes(b"stored")
        (again.path / "bad/f").unlink()
        (again.path / "bad").rmdir()
        (again.path / "bad-file").unlink()
        assert left(again) == (0, 0)
        assert store.get("fine too") == b"stored"
