"""kill -9 at every step of making, mounting, unmounting and removing a volume; then a restart has to put it right."""

from __future__ import annotations

import functools
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.kernel.volume.world import World, in_child, isolated

from engine.reconcile import data, mountapi
from engine.reconcile.mounts import MountApplier
from engine.spec.errors import NotFound
from engine.state import State

STEPS: tuple[tuple[Any, str], ...] = (
    (State, "put"), (State, "delete"), (MountApplier, "_create"), (MountApplier, "_unmount"),
    (mountapi, "filesystem"), (mountapi, "attach"), (mountapi, "unmount"), (data, "_create"),
    (data, "_make_filesystem"), (data, "_set_root"), (data, "write_file"), (Path, "mkdir"), (Path, "rmdir"),
    (Path, "unlink"), (Path, "rename"), (shutil, "rmtree"),
)  # fmt: skip
"""What changes the host or the database: a kill comes before and after each of them."""
SHAPES = {"plain": {}, "sized": {"size": "16m"}, "tmpfs": {"type": "tmpfs", "o": "size=1m"}}


class Killer:
    """Counts steps, and kills the process at one of them."""

    def __init__(self, at: int) -> None:
        self.left = at
        self.armed = False
        for owner, name in STEPS:
            setattr(owner, name, self._wrapped(getattr(owner, name)))

    def _wrapped(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            self._step()
            result = function(*args, **kwargs)
            self._step()
            return result

        return call

    def _step(self) -> None:
        if self.armed:
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            self.left -= 1


def killed_at(base: Path, point: int, prepare: Callable[[World], object], operate: Callable[[World], object]) -> bool:
    """Run an operation in a process that is killed at a step; tell whether it was (or had fewer steps)."""

    def body() -> None:
        killer = Killer(point)
        world = World(base)
        prepare(world)
        killer.armed = True
        operate(world)

    status = in_child(body)
    assert status in (0, signal.SIGKILL), "the operation failed by itself"
    return status != 0


def prepare(options: dict[str, str], *, mounted: bool, created: bool = True) -> Callable[[World], None]:
    def run(world: World) -> None:
        if not created:
            return
        world.volumes.create("vv", options=options)
        path = world.volumes.mount("vv", "first")
        with (path / "file").open("w") as file:
            file.write("acknowledged")
            file.flush()
            os.fsync(file.fileno())
        if not mounted:
            world.volumes.unmount("vv", "first")

    return run


def every_point(tmp_path: Path, check: Callable[[Path, int], bool]) -> None:
    """Call `check` with a fresh directory for each point until the operation has no more steps."""
    for point in range(200):
        base = tmp_path / str(point)
        if not check(base, point):
            assert point > 2, "no step was counted"
            return
        shutil.rmtree(base)
    pytest.fail("the operation has no end")


@isolated
@pytest.mark.parametrize("shape", SHAPES)
def test_create(tmp_path: Path, shape: str) -> None:
    def check(base: Path, point: int) -> bool:
        options = SHAPES[shape]
        before = prepare(options, mounted=False, created=False)
        killed = killed_at(base, point, before, lambda w: w.volumes.create("vv", options=options))
        world = World(base).restarted()
        world.assert_nothing_left()
        assert world.volumes.orphans() == []
        names = [v.name for v in world.volumes.list()]
        assert names in ([], ["vv"])
        assert len(list(world.root.iterdir())) == len(names)
        assert killed or names == ["vv"]  # what was acknowledged is there
        world.volumes.create("vv", options=options)
        (world.volumes.mount("vv", "u") / "x").touch()
        world.volumes.unmount("vv", "u")
        world.volumes.remove("vv")
        world.assert_nothing_left()
        world.close()
        return killed

    every_point(tmp_path, check)


@isolated
@pytest.mark.parametrize("live", [(), ("first",)], ids=["dead", "alive"])
@pytest.mark.parametrize("shape", SHAPES)
def test_mount(tmp_path: Path, shape: str, live: tuple[str, ...]) -> None:
    def check(base: Path, point: int) -> bool:
        before = prepare(SHAPES[shape], mounted=False)
        killed = killed_at(base, point, before, lambda w: w.volumes.mount("vv", "first"))
        world = World(base).restarted(live)
        users = world.volumes.users("vv")
        assert users in ((), live)
        assert killed or users == live
        if not users:
            world.assert_nothing_left()
        path = world.volumes.mount("vv", "again")
        if shape != "tmpfs":
            assert (path / "file").read_text() == "acknowledged"
        for user in (*users, "again"):
            world.volumes.unmount("vv", user)
        world.assert_nothing_left()
        world.close()
        return killed

    every_point(tmp_path, check)


@isolated
@pytest.mark.parametrize("shape", SHAPES)
def test_unmount(tmp_path: Path, shape: str) -> None:
    def check(base: Path, point: int) -> bool:
        before = prepare(SHAPES[shape], mounted=True)
        killed = killed_at(base, point, before, lambda w: w.volumes.unmount("vv", "first"))
        world = World(base).restarted()
        world.assert_nothing_left()
        assert world.volumes.users("vv") == ()
        if shape != "tmpfs":
            assert (world.volumes.mount("vv", "again") / "file").read_text() == "acknowledged"
            world.volumes.unmount("vv", "again")
        world.close()
        return killed

    every_point(tmp_path, check)


@isolated
@pytest.mark.parametrize("shape", ["plain", "sized"])
def test_remove(tmp_path: Path, shape: str) -> None:
    def check(base: Path, point: int) -> bool:
        before = prepare(SHAPES[shape], mounted=False)
        killed = killed_at(base, point, before, lambda w: w.volumes.remove("vv"))
        world = World(base).restarted()
        world.assert_nothing_left()
        assert world.volumes.orphans() == []
        try:
            path = world.volumes.mount("vv", "u")
        except NotFound:
            assert list(world.root.iterdir()) == []
        else:
            assert killed, "it was acknowledged, and is there"
            assert (path / "file").read_text() == "acknowledged"
            world.volumes.unmount("vv", "u")
        world.close()
        return killed

    every_point(tmp_path, check)


@isolated
def test_populate(tmp_path: Path) -> None:
    source = tmp_path / "image"
    (source / "dir").mkdir(parents=True)
    (source / "dir/file").write_text("content")
    (source / "dir/hard").hardlink_to(source / "dir/file")
    (source / "link").symlink_to("dir")

    def ready(world: World) -> None:
        world.volumes.create("vv")
        world.volumes.mount("vv", "first")

    def check(base: Path, point: int) -> bool:
        killed = killed_at(base, point, ready, lambda w: w.volumes.populate("vv", source))
        world = World(base).restarted(("first",))
        world.volumes.populate("vv", source)
        path = world.volumes.mount("vv", "first")
        assert sorted(str(p.relative_to(path)) for p in path.rglob("*")) == ["dir", "dir/file", "dir/hard", "link"]
        assert (path / "dir/file").read_text() == "content"
        assert (path / "dir/file").stat().st_nlink == 2
        assert not world.volumes.get("vv").populating
        world.close()
        return killed

    every_point(tmp_path / "points", check)
