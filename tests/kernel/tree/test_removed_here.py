"""What was removed or renamed here stays so when the helper ends before the store has heard of it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.kernel.tree.fault_store import Fault, FaultStore
from tests.kernel.tree.grounds import Place, need_on_demand, store_of

from engine.spec.errors import Unavailable
from engine.spec.storage import Store
from engine.tree import holder


@pytest.fixture(params=["memory", "file"])
def store(tmp_path: Path, request: pytest.FixtureRequest) -> Store:
    if request.param == "memory":
        return store_of(f"memory://removed{tmp_path.name}{os.getpid()}")
    return store_of(f"file://{tmp_path}/store", {"fsync": "false"})


@pytest.fixture(params=["sync", "on-demand"])
def mode(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "on-demand":
        need_on_demand(tmp_path)
    yield str(request.param)
    if request.param == "on-demand":
        assert holder.end(tmp_path / "a/run")


def paths(root: Path) -> set[str]:
    return {str(p.relative_to(root)) for p in root.rglob("*")}


def read_only(operation: str, key: str, call: Callable[[], Any]) -> Any:
    if operation in ("put", "copy", "delete"):
        raise Unavailable(f"{operation} {key!r}", why="503")
    return call()


def unanswered(operation: str, key: str, call: Callable[[], Any]) -> Any:
    """Writes take effect, and nobody hears of it."""
    found = call()
    if operation in ("put", "copy", "delete"):
        raise Unavailable(f"{operation} {key!r}", why="the connection was reset")
    return found


def all_is(place: Place, wanted: set[str], base: Path) -> None:
    """The same names here, in the store, and on another host, again after another start."""
    place.sync()
    assert paths(place.path) == wanted
    with Place(base, place.store, "other") as other:
        assert paths(other.path) == wanted
    objects = {s.key for s in place.store.list()}
    directories = {str(Path(p).parent) for p in objects}
    assert directories - {"."} <= wanted, "sidecars of what is gone"


@pytest.mark.parametrize("fault", [read_only, unanswered])
@pytest.mark.parametrize("seen", [False, True], ids=["unseen", "seen"])
def test_directories_and_links_are_removed_and_renamed(
    tmp_path: Path, store: Store, mode: str, fault: Fault, seen: bool
) -> None:
    with Place(tmp_path, store, "first") as first:
        for name in ("gone", "old", "stays"):
            (first.path / name / "below").mkdir(parents=True)
            (first.path / name / "empty").mkdir()
            (first.path / name / "below" / "file").write_bytes(name.encode())
            (first.path / name / "link").symlink_to("below/file")
        first.sync()
    broken = FaultStore(store)
    with Place(tmp_path, broken, mode=mode) as place:
        broken.fault = fault
        shutil.rmtree(place.path / "gone")
        (place.path / "old").rename(place.path / "new")
        (place.path / "stays" / "link").rename(place.path / "stays" / "moved")
        if seen:
            place.tree._scan(deep=True)
            assert place.tree.barrier(0.3) > 0
        wanted = paths(place.path)
    broken.fault = None
    with place.reopened() as again:
        assert paths(again.path) == wanted
        all_is(again, wanted, tmp_path)


@pytest.mark.parametrize("restart", [False, True], ids=["at once", "after a restart"])
def test_links_and_directories_that_came_and_went_without_an_answer(
    tmp_path: Path, store: Store, mode: str, restart: bool
) -> None:
    broken = FaultStore(store)
    with Place(tmp_path, broken, mode=mode) as place:
        (place.path / "stays").mkdir()
        (place.path / "stays" / "file").write_bytes(b"content")
        place.sync()
        broken.fault = unanswered
        (place.path / "stays" / "link").symlink_to("file")
        (place.path / "shortly").mkdir()
        assert place.tree.barrier(1) > 0
        assert "shortly/.engine-attributes.json" in {s.key for s in store.list()}
        assert b'"link"' in store.get("stays/.engine-attributes.json")
        broken.fault = read_only if restart else None
        (place.path / "stays" / "link").unlink()
        (place.path / "shortly").rmdir()
        if not restart:
            all_is(place, {"stays", "stays/file"}, tmp_path)
    if restart:
        broken.fault = None
        with place.reopened() as again:
            all_is(again, {"stays", "stays/file"}, tmp_path)


def test_what_others_wrote_meanwhile_stays(tmp_path: Path, store: Store, mode: str) -> None:
    """A directory that was removed here, and in which another host made a file and a link."""
    with Place(tmp_path, store, "first") as first:
        (first.path / "both").mkdir()
        (first.path / "both" / "old").write_bytes(b"old")
        (first.path / "both" / "old link").symlink_to("old")
        first.sync()
        broken = FaultStore(store)
        with Place(tmp_path, broken, mode=mode) as place:
            broken.fault = read_only
            shutil.rmtree(place.path / "both")
            assert place.tree.barrier(0.3) > 0
        (first.path / "both" / "new").write_bytes(b"new")
        (first.path / "both" / "new link").symlink_to("new")
        first.sync()
    broken.fault = None
    with place.reopened() as again:
        all_is(again, {"both", "both/new", "both/new link"}, tmp_path)
