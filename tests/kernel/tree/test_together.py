"""Many small files that wait for few threads are uploaded together, with the promises of each one's own upload."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.kernel.tree.fault_store import FaultStore, storm
from tests.kernel.tree.grounds import SECONDS, Place, keys, store_of

from engine.spec.errors import InvalidParameter, Unavailable
from engine.spec.storage import Store
from engine.tree import transfers
from engine.tree.journal import Journal
from engine.tree.together import SMALL


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(transfers, "THREADS", 2)
    return store_of(f"file://{tmp_path}/store", {"fsync": "false"})


def fill(place: Place, number: int = 100) -> dict[str, bytes]:
    files = {f"f{n}": b"%d" % n * 100 for n in range(number)}
    for name, data in files.items():
        (place.path / name).write_bytes(data)
    return files


def stored(store: Store) -> dict[str, bytes]:
    return {key: store.get(key) for key in keys(store)}


def test_few_commits_for_many_files(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    commits = []
    change = Journal.change
    with Place(tmp_path, store) as place:
        monkeypatch.setattr(Journal, "change", lambda *a, **more: commits.append(a) or change(*a, **more))
        files = fill(place)
        place.sync()
        assert stored(store) == files
        assert len(commits) < len(files)
        (place.path / "f7").chmod(0o600)
        (place.path / "f8").write_bytes(b"other")
        place.sync()
    with Place(tmp_path, store, "other") as other:
        assert (other.path / "f7").stat().st_mode & 0o777 == 0o600
        assert (other.path / "f8").read_bytes() == b"other"


def test_what_is_not_ordinary_among_many(tmp_path: Path, store: Store) -> None:
    tries: Counter[str] = Counter()

    def fault(operation: str, key: str, call: Callable[[], Any]) -> Any:
        if operation == "put":
            tries[key] += 1
            if key == "f5" and tries[key] < 3:
                raise Unavailable("put 'f5'", why="the test says so")
            if key == "f6":
                raise InvalidParameter("put 'f6'", why="the test does not like the name")
        return call()

    store.put("f7", b"somebody else's")
    with Place(tmp_path, FaultStore(store, fault)) as place:
        store.put("f8", b"somebody else's")
        (place.path / "large").write_bytes(b"x" * (SMALL + 1))
        files = fill(place)
        assert place.tree.barrier(SECONDS) == place.tree.status().unstorable_files == 1  # f6
        (copy,) = place.tree.status().conflicts
        wanted = {**files, "f8": b"somebody else's", copy: files["f8"], "large": b"x" * (SMALL + 1)}
        del wanted["f6"]
        assert stored(store) == wanted
        assert (place.path / "f6").read_bytes() == files["f6"]
        assert "f6" in place.tree.status().reason


def test_answers_that_are_lost(tmp_path: Path, store: Store) -> None:
    faulty = FaultStore(store)
    with Place(tmp_path, faulty) as place:
        faulty.fault = storm(0.2, seed=3)
        fill(place, 25)
        place.tree.barrier(0.2)
        files = {name: data + b"changed" for name, data in fill(place, 25).items()}
        for name, data in files.items():
            (place.path / name).write_bytes(data)
        place.sync()
        assert place.tree.status().conflicts == ()
        assert stored(store) == files
