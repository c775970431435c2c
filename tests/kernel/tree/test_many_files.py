"""Many placeholders at once: what a first listing brings is what a second host wrote, and nothing local is lost."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.kernel.tree.grounds import Place, keys, need_on_demand, picture, store_of

from engine.tree import bulk, holder, placeholders

COUNT = 300


@pytest.fixture
def store(tmp_path):
    need_on_demand(tmp_path)
    yield store_of(f"file://{tmp_path}/store", {"fsync": "false"})
    for run in tmp_path.glob("*/run"):
        holder.end(run)


@pytest.fixture(autouse=True)
def small_portions(monkeypatch):
    monkeypatch.setattr(bulk, "TOGETHER", 16)


def fill(root: Path) -> None:
    """Files of every kind of attributes, several directories to a portion and several portions to a directory."""
    for number in range(COUNT):
        path = root / f"d{number % 7}" / ("deep" if number % 2 else ".") / f"file {number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * (number % 50))
        os.chown(path, number % 3, number % 5)
        path.chmod(0o4755 if number % 9 == 0 else 0o600 + number % 8)
        if number % 4 == 0:
            os.setxattr(path, "user.number", b"%d" % number)
        os.utime(path, ns=(number, 1_600_000_000_000_000_000 + number))


def times(root: Path) -> dict[Path, int]:
    return {path.relative_to(root): path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}


def test_what_one_host_wrote_another_has_with_all_attributes(tmp_path, store):
    with Place(tmp_path, store) as first:
        fill(first.path)
        first.sync()
        wanted = picture(first.path, times=False)
        wanted_times = times(first.path)
        with Place(tmp_path, store, "b", mode="on-demand") as second:
            assert times(second.path) == wanted_times
            counts = second.tree._parts.journal.counts()
            assert (counts.files, counts.pending_files) == (COUNT, 0)
            second.sync()
            assert picture(second.path, times=False) == wanted
            assert second.tree.status().conflicts == ()


def test_names_that_are_taken_keep_their_files_until_these_are_compared(tmp_path, store):
    """A directory that had files before it was a volume: each is kept, under its name or as a conflict copy."""
    for number in range(40):
        store.put(f"d/{number:02}", b"from the store")
    place = Place(tmp_path, store, mode="on-demand")
    (place.path / "d").mkdir()
    for number in range(0, 40, 4):
        (place.path / "d" / f"{number:02}").write_bytes(b"from here %d" % number)
    with place:
        place.sync()
        found = [p.read_bytes() for p in place.path.rglob("*") if p.is_file()]
        assert found.count(b"from the store") == 40
        assert len(found) == 50
        assert {b"from here %d" % number for number in range(0, 40, 4)} < set(found)
        assert len([key for key in keys(store) if ".conflict-" not in key]) == 40


def test_a_name_that_is_taken_just_now_stays(tmp_path, store, monkeypatch):
    """A container may be faster than the listing."""
    for number in range(40):
        store.put(f"d/{number:02}", b"from the store")
    place = Place(tmp_path, store, mode="on-demand")
    make = placeholders.make

    def meanwhile(entry, fd, group):
        if entry.path in ("d/07", "d/23"):
            (place.path / entry.path).write_bytes(b"from here")
        return make(entry, fd, group)

    monkeypatch.setattr(placeholders, "make", meanwhile)
    with place:
        monkeypatch.undo()
        place.sync()
        found = [p.read_bytes() for p in place.path.rglob("*") if p.is_file()]
        assert (found.count(b"from the store"), found.count(b"from here")) == (40, 2)


def test_the_progress_is_said(tmp_path, store, monkeypatch):
    for number in range(100):
        store.put(f"d/{number:02}", b"from the store")
    place = Place(tmp_path, store, mode="on-demand")
    make, said = placeholders.make, []

    def watched(entry, fd, group):
        progress = place.tree.status().progress
        said.append((progress.step, progress.done, progress.total, progress.unit))
        return make(entry, fd, group)

    monkeypatch.setattr(placeholders, "make", watched)
    with place:
        assert sorted(set(said)) == [("placing", done, 100, "files") for done in range(0, 100, 16)]
        assert place.tree.status().progress is None
