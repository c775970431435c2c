"""Nonsense in the store and beside it: it is said, nothing local is lost, and nothing leads out of the tree."""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path

import pytest
from tests.kernel.tree.fault_store import FaultStore
from tests.kernel.tree.grounds import SECONDS, Place, keys, store_of

from engine.spec.errors import Forbidden
from engine.tree import tree as trees


@pytest.fixture
def store(tmp_path):
    return FaultStore(store_of(f"memory://{tmp_path.name}{os.getpid()}"))


def files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file() and not p.is_symlink()}


NONSENSE = """{"format": 1, "store": {"a": 1}, "directory": 7, "entries": {
    "f": 5, "u": null, "t": {"type": "socket"}, "d/f": {"type": "symlink", "target": "/etc"},
    "../x": {"type": "symlink", "target": "/etc"}, "..": {"type": "symlink", "target": "/etc"},
    "": {"type": "symlink", "target": "x"}, "s": {"type": "symlink"}, "nul": {"type": "symlink", "target": "a\\u0000b"},
    "long": {"type": "symlink", "target": "LONG"}, "good": {"type": "symlink", "target": "f"},
    "h": {"mode": "zz"}, "i": {"xattrs": {"user.a": "base64:!!"}}, "k": {"xattrs": 5}, "l": {"hardlink": "../../etc"},
    "m": {"mode": 755}, "n": {"mtime": "99999999999999999999"}, "o": {"uid": -1}}}""".replace("LONG", "x" * 5000)


@pytest.mark.parametrize(
    "text",
    ["\x00garbage", "[1]", '{"format": 1, "entries": []}', '{"format": 9}', "[" * 100_000, NONSENSE],
    ids=["garbage", "list", "entries", "format", "deep", "nonsense"],
)
def test_sidecars_that_say_nonsense(tmp_path, store, text):
    names = [f"{directory}{name}" for directory in ("", "d/") for name in "fhiklmno"]
    for key in (".engine-attributes.json", "d/.engine-attributes.json"):
        store.put(key, text.encode())
    for name in names:
        store.put(name, name.encode())
    with Place(tmp_path, store) as place:
        assert files(place.path) == {name: name.encode() for name in names}
        assert "sidecars that cannot be read" in place.tree.status().reason
        links = sorted(str(p.relative_to(place.path)) for p in place.path.rglob("*") if p.is_symlink())
        assert links == (["d/good", "good"] if text == NONSENSE else [])
        (place.path / "f").write_bytes(b"changed")
        place.sync()
    assert not (place.path.parent / "x").is_symlink()
    with place.reopened() as again:
        again.sync()
        assert files(again.path) == {name: name.encode() for name in names} | {"f": b"changed"}
        with Place(tmp_path, store, "b") as other:
            assert files(other.path) == files(again.path)


@pytest.mark.parametrize("damage", ["empty", "half", "text", "gone"])
def test_a_journal_that_is_lost_costs_no_byte(tmp_path, store, damage):
    with Place(tmp_path, store) as place:
        for number in range(30):
            (place.path / f"file{number}").write_bytes(b"%d" % number * 50)
        place.sync()
    (place.path / "file1").write_bytes(b"changed while nobody looked")
    (place.path / "new").write_bytes(b"new")
    journal = Path(place.resource.journal)
    data = journal.read_bytes()
    journal.write_bytes({"empty": b"", "half": data[: len(data) // 2], "text": b"text" * 2000, "gone": data}[damage])
    if damage == "gone":
        journal.unlink()
    with place.reopened() as again:
        again.sync()
        found = files(again.path)
        (copy,) = again.tree.status().conflicts
        assert found[copy] == b"changed while nobody looked"
        assert found["file1"] == b"1" * 50
        assert len(found) == 32
        assert {key: store.get(key) for key in keys(store)} == found


def test_a_journal_of_an_older_engine_is_taken_over(tmp_path, store):
    with Place(tmp_path, store) as place:
        (place.path / "file").write_bytes(b"first")
        place.sync()
    with sqlite3.connect(place.resource.journal) as database:
        database.execute("ALTER TABLE files DROP COLUMN handle")
        database.execute("ALTER TABLE removals DROP COLUMN handle")
        database.execute("ALTER TABLE directories DROP COLUMN sent")
        database.execute("ALTER TABLE removals DROP COLUMN hydrated")
        database.execute("PRAGMA user_version = 1")
    with place.reopened() as again:
        (again.path / "file").unlink()
        (again.path / "new").write_bytes(b"new")
        again.sync()
        assert keys(store) == ["new"]
        assert again.tree.status().state == "ready"


def test_credentials_that_are_withdrawn_degrade_and_come_back(tmp_path, store, monkeypatch):
    monkeypatch.setattr(trees, "_RELIST", 0.05)

    def refused(operation, key, call):
        raise Forbidden(f"{operation} {key!r}", why="InvalidAccessKeyId")

    with Place(tmp_path, store) as place:
        (place.path / "file").write_bytes(b"first")
        place.sync()
        store.fault = refused
        (place.path / "file").write_bytes(b"second")
        assert place.tree.barrier(0.2) > 0
        assert "InvalidAccessKeyId" in place.tree.status().reason
    with place.reopened() as again:  # local files are served
        assert again.tree.status().state == "degraded"
        assert files(again.path) == {"file": b"second"}
        store.fault = None
        again.sync()
        assert store.get("file") == b"second"
        end = time.monotonic() + SECONDS
        while again.tree.status().state != "ready":
            assert time.monotonic() < end, again.tree.status()
            time.sleep(0.02)
