"""Volumes with the shipped driver, the real reconciler and the real kernel."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest
from tests.kernel.volume.world import World, isolated

from engine.reconcile.applier import Context
from engine.reconcile.mounts import MountApplier
from engine.spec.driver import Driver
from engine.spec.errors import (
    ApplyFailed,
    Conflict,
    DriverFault,
    EngineError,
    InvalidParameter,
    NotFound,
    Unavailable,
)
from engine.spec.mounts import Tmpfs
from engine.volume import copying


@isolated
def test_data_persists_and_is_shared(tmp_path: Path) -> None:
    world = World(tmp_path)
    record = world.volumes.create("data", labels={"a": "b"})
    path = world.volumes.mount("data", "one")
    assert path == world.root / record.id / "_data"
    assert world.volumes.mount("data", "one") == path
    assert world.volumes.mount("data", "two") == path
    (path / "file").write_text("kept")
    world.volumes.unmount("data", "one")
    world.volumes.unmount("data", "one")
    assert world.volumes.users("data") == ("two",)
    world.volumes.unmount("data", "two")
    after = world.restarted()
    assert (after.volumes.mount("data", "three") / "file").read_text() == "kept"
    after.volumes.unmount("data", "three")
    after.assert_nothing_left()
    assert [action for action, _, _ in world.events.seen] == ["create", "mount", "mount", "unmount", "unmount"]
    for directory in (world.root, world.root / record.id):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o711


@isolated
def test_inspect_is_dockers(tmp_path: Path) -> None:
    world = World(tmp_path)
    secret = {"type": "cifs", "device": "//h/s", "o": "username=u,password=hunter2,addr=127.0.0.1"}
    world.volumes.create("share", options=secret, labels={"x": "y"})
    shown = world.volumes.inspect("share")
    assert {k: shown[k] for k in ("Driver", "Labels", "Name", "Scope")} == {
        "Driver": "local", "Labels": {"x": "y"}, "Name": "share", "Scope": "local",
    }  # fmt: skip
    assert shown["CreatedAt"].endswith("Z")
    assert shown["Mountpoint"].startswith(str(world.run))
    assert shown["Options"]["o"] == "username=u,password=****,addr=127.0.0.1"
    world.volumes.create("plain")
    assert world.volumes.inspect("plain")["Options"] is None
    assert world.volumes.inspect("plain")["Labels"] is None
    with pytest.raises(NotFound, match="no such volume"):
        world.volumes.inspect("nope")
    with pytest.raises(EngineError) as caught:
        world.volumes.mount("share", "u")
    assert "hunter2" not in str(caught.value)
    assert world.volumes.users("share") == ()
    world.assert_nothing_left()


@isolated
def test_create_again(tmp_path: Path) -> None:
    world = World(tmp_path)
    first = world.volumes.create("vv", options={"o": "uid=5"})
    assert world.volumes.create("vv", "local", {"o": "uid=5"}) == first
    assert world.volumes.create("vv") == first
    assert world.volumes.create("vv", "local") == first
    with pytest.raises(Conflict, match="its option o is 'uid=5', not 'uid=6'"):
        world.volumes.create("vv", options={"o": "uid=6"})
    with pytest.raises(Conflict, match="its driver is local, not other"):
        world.volumes.create("vv", "other")
    with pytest.raises(NotFound, match="Did you mean 'local'"):
        world.volumes.create("ww", "locla")
    with pytest.raises(InvalidParameter, match="Did you mean 'size'"):
        world.volumes.create("ww", options={"sizee": "1g"})
    with pytest.raises(InvalidParameter, match="too short"):
        world.volumes.create("x")
    with pytest.raises(InvalidParameter, match="invalid characters"):
        world.volumes.create("../x")
    assert [v.name for v in world.volumes.list()] == ["vv"]
    assert len(list(world.root.iterdir())) == 1
    world.assert_nothing_left()


@isolated
def test_anonymous_and_prune(tmp_path: Path) -> None:
    world = World(tmp_path)
    anonymous = world.volumes.create()
    assert len(anonymous.name) == 64
    assert anonymous.labels == {"com.docker.volume.anonymous": ""}
    used = world.volumes.create()
    world.volumes.reference(used.name, "stopped-container")
    world.volumes.create("named", labels={"keep": "1"})
    world.volumes.create("other")
    (world.volumes.mount(anonymous.name, "u") / "file").write_bytes(b"x" * 100_000)
    world.volumes.unmount(anonymous.name, "u")
    names = lambda **f: {v.name for v in world.volumes.list(f)}  # noqa: E731
    assert names(dangling=["true"]) == {anonymous.name, "named", "other"}
    assert names(dangling=["0"]) == {used.name}
    assert names(label=["keep=1"]) == {"named"}
    assert names(name=["ame"]) == {"named"}
    assert names(driver=["local"], label=["com.docker.volume.anonymous"]) == {anonymous.name, used.name}
    with pytest.raises(InvalidParameter, match="invalid filter"):
        names(bogus=["x"])
    removed, free = world.volumes.prune()
    assert removed == [anonymous.name]
    assert 100_000 <= free < 200_000
    assert world.volumes.prune({"all": ["true"], "label!": ["keep"]})[0] == ["other"]
    assert names() == {used.name, "named"}
    world.volumes.dereference(used.name, "stopped-container")
    assert world.volumes.prune({"all": ["1"]})[0] == sorted([used.name, "named"])
    assert list(world.root.iterdir()) == []
    world.assert_nothing_left()


@isolated
def test_in_use(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.volumes.create("vv")
    world.volumes.reference("vv", "stopped")
    world.volumes.mount("vv", "running")
    with pytest.raises(Conflict, match=r"remove vv: volume is in use - \[running, stopped\]"):
        world.volumes.remove("vv")
    with pytest.raises(Conflict):
        world.volumes.remove("vv", force=True)
    after = world.restarted(live=("running",))
    assert after.volumes.users("vv") == ("running", "stopped")
    after.volumes.unmount("vv", "running")
    with pytest.raises(Conflict, match="stopped"):
        after.volumes.remove("vv")
    after.volumes.dereference("vv", "stopped")
    after.volumes.remove("vv")
    after.volumes.remove("vv", force=True)
    with pytest.raises(NotFound):
        after.volumes.remove("vv")
    assert list(world.root.iterdir()) == []
    after.assert_nothing_left()


@isolated
def test_sized_volume_fills_and_is_counted(tmp_path: Path) -> None:
    world = World(tmp_path)
    record = world.volumes.create("disk", options={"size": "32m", "mode": "0770", "uid": "9"})
    world.assert_nothing_left()
    path = world.volumes.mount("disk", "a")
    assert world.volumes.mount("disk", "b") == path
    assert (stat.S_IMODE(path.stat().st_mode), path.stat().st_uid) == (0o770, 9)
    before = world.volumes.usage("disk")[0]
    with pytest.raises(OSError, match="No space"):
        (path / "big").write_bytes(os.urandom(40 << 20))
    os.sync()
    assert before + (20 << 20) < world.volumes.usage("disk")[0] <= 33 << 20
    options = next(line for line in Path("/proc/self/mountinfo").read_text().splitlines() if f" {path} " in line)
    assert "nosuid,nodev" in options
    world.volumes.unmount("disk", "a")
    assert (path / "big").exists()
    world.volumes.unmount("disk", "b")
    assert not path.exists()
    world.assert_nothing_left()
    image = world.root / record.id / "disk.img"
    image.rename(image.with_name("elsewhere"))
    with pytest.raises(Unavailable, match="data is missing"):
        world.volumes.mount("disk", "a")
    assert not image.exists()  # never made anew
    world.volumes.remove("disk")
    world.assert_nothing_left()


@isolated
def test_bind_tmpfs_and_read_only(tmp_path: Path) -> None:
    world = World(tmp_path / "w")
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_text("x")
    world.volumes.create("bound", options={"type": "none", "o": "bind", "device": str(source)})
    world.volumes.create("frozen", options={"type": "none", "o": "bind,ro", "device": f"{source}/"})
    world.volumes.create("memory", options={"type": "tmpfs", "device": "tmpfs", "o": "size=1m,uid=1000,mode=0700"})
    (world.volumes.mount("bound", "u") / "new").write_text("y")
    assert (source / "new").exists()
    with pytest.raises(OSError, match="Read-only"):
        (world.volumes.mount("frozen", "u") / "x").touch()
    memory = world.volumes.mount("memory", "u")
    assert (memory.stat().st_uid, stat.S_IMODE(memory.stat().st_mode)) == (1000, 0o700)
    with pytest.raises(OSError, match="No space"):
        (memory / "big").write_bytes(bytes(2 << 20))
    assert world.volumes.usage("memory")[0] == -1
    for name in ("bound", "frozen", "memory"):
        world.volumes.unmount(name, "u")
        world.volumes.remove(name)
    assert (source / "new").read_text() == "y"
    world.volumes.create("absent", options={"type": "none", "o": "bind", "device": f"{source}/none"})
    with pytest.raises(ApplyFailed, match=f"{source}/none does not exist"):
        world.volumes.mount("absent", "u")
    assert world.volumes.users("absent") == ()
    world.assert_nothing_left()


@isolated
def test_subpath_never_leads_out(tmp_path: Path) -> None:
    world = World(tmp_path / "w")
    secret = tmp_path / "secret"
    secret.mkdir()
    world.volumes.create("vv")
    path = world.volumes.mount("vv", "setup")
    (path / "sub/deep").mkdir(parents=True)
    (path / "sub/deep/file").write_text("x")
    (path / "inside").symlink_to("sub")
    (path / "absolute").symlink_to(secret)
    (path / "up").symlink_to("../../../../../secret")
    deep = world.volumes.mount("vv", "u", subpath="sub/deep")
    assert (deep / "file").read_text() == "x"
    assert (world.volumes.mount("vv", "u", subpath="inside/deep/file")).read_text() == "x"
    for bad in ("absolute", "up", "nothing"):
        with pytest.raises(ApplyFailed):
            world.volumes.mount("vv", "u", subpath=bad)
    for bad in ("../x", "/etc"):
        with pytest.raises(InvalidParameter):
            world.volumes.mount("vv", "u", subpath=bad)
    # Exchanging the directory afterwards does not change what is shown.
    (path / "sub").rename(path / "moved")
    (path / "sub").symlink_to(secret)
    assert (deep / "file").read_text() == "x"
    assert len(world.mounts()) == 2
    world.volumes.unmount("vv", "setup")
    after = world.restarted(live=("u",))
    assert len(after.mounts()) == 2
    after.volumes.unmount("vv", "u")
    assert list(secret.iterdir()) == []
    after.volumes.remove("vv")
    after.assert_nothing_left()


@isolated
def test_populate(tmp_path: Path) -> None:
    world = World(tmp_path / "w")
    source = tmp_path / "image"
    (source / "dir").mkdir(parents=True)
    (source / "dir/file").write_text("content")
    os.chown(source / "dir/file", 11, 12)
    (source / "dir/file").chmod(0o4755)
    os.setxattr(source / "dir/file", "user.note", b"n")
    os.utime(source / "dir", ns=(1_000_000_000, 2_000_000_000))
    (source / "hard").hardlink_to(source / "dir/file")
    (source / "link").symlink_to("/absolute/../target")
    os.mkfifo(source / "pipe")
    with (source / "sparse").open("wb") as file:
        file.seek(8 << 20)
        file.write(b"end")
    source.chmod(0o1777)
    os.chown(source, 33, 34)
    world.volumes.create("vv")
    with pytest.raises(Conflict, match="not mounted"):
        world.volumes.populate("vv", source)
    path = world.volumes.mount("vv", "u")
    assert world.volumes.populate("vv", source)
    info = (path / "dir/file").stat()
    assert (info.st_uid, info.st_gid, stat.S_IMODE(info.st_mode), info.st_nlink) == (11, 12, 0o4755, 2)
    assert (path / "hard").stat().st_ino == info.st_ino
    assert os.getxattr(path / "dir/file", "user.note") == b"n"
    assert (path / "dir").stat().st_mtime_ns == 2_000_000_000
    assert (path / "link").readlink() == Path("/absolute/../target")
    assert stat.S_ISFIFO((path / "pipe").stat().st_mode)
    assert (path / "sparse").read_bytes() == bytes(8 << 20) + b"end"
    assert (path / "sparse").stat().st_blocks * 512 < 1 << 20
    assert (stat.S_IMODE(path.stat().st_mode), path.stat().st_uid, path.stat().st_gid) == (0o1777, 33, 34)
    (path / "dir/file").write_text("mine")
    assert not world.volumes.populate("vv", source)
    assert (path / "dir/file").read_text() == "mine"


@isolated
def test_interrupted_population_is_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path / "w")
    source = tmp_path / "image"
    source.mkdir()
    for n in range(5):
        (source / f"f{n}").write_text(str(n))
    (source / "again").hardlink_to(source / "f0")
    world.volumes.create("vv")
    path = world.volumes.mount("vv", "u")
    copies = iter([None, None, OSError(28, "No space left on device")])
    original = copying.copy_content

    def failing(*args: object) -> None:
        original(*args)  # type: ignore[arg-type]
        if (err := next(copies, None)) is not None:
            raise err

    monkeypatch.setattr(copying, "copy_content", failing)
    with pytest.raises(ApplyFailed, match="No space"):
        world.volumes.populate("vv", source)
    done = [p for p in path.iterdir() if p.name != "again"]
    assert [p.read_text() for p in done] == [p.name[1:] for p in done]  # whole files only
    assert len(done) < 5
    (path / f"{copying._UNFINISHED}left").touch()  # as a kill would leave
    after = world.restarted(live=("u",))
    assert after.volumes.populate("vv", source)
    assert sorted(p.name for p in path.iterdir()) == ["again", "f0", "f1", "f2", "f3", "f4"]
    assert (path / "again").stat().st_ino == (path / "f0").stat().st_ino
    assert not after.volumes.populate("vv", source)


class Registry:
    """The real registry, in which drivers can be replaced or go missing."""

    def __init__(self, world: World, drivers: Mapping[str, Driver | None]) -> None:
        self._real = world.plugins
        self._drivers = drivers

    def get(self, group: str, name: str) -> Driver:
        if name not in self._drivers:
            return self._real.get(group, name)
        driver = self._drivers[name]
        if driver is None:
            raise NotFound(f"there is no volume driver {name!r}")
        return driver

    def call(self, group: str, name: str, operation: str, /, **arguments: object) -> object:
        return getattr(self.get(group, name), operation)(**arguments)


@isolated
def test_driver_that_is_gone(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.volumes.create("vv", options={"size": "16m"})
    (world.volumes.mount("vv", "u") / "file").write_text("x")
    world.volumes._mounting._plugins = world.volumes._plugins = Registry(world, {"local": None})  # type: ignore[assignment]
    assert world.volumes.inspect("vv")["Mountpoint"].startswith(str(world.run))
    world.volumes.unmount("vv", "u")
    world.assert_nothing_left()
    with pytest.raises(Unavailable, match="Install or repair"):
        world.volumes.mount("vv", "u")
    assert world.volumes.users("vv") == ()
    world.volumes.remove("vv")
    assert list(world.root.iterdir()) == []


@isolated
def test_a_plan_that_leads_out_makes_nothing(tmp_path: Path) -> None:
    from engine_sdk import Directory, Plan, Volume, VolumeDriver, VolumePlan

    class Wrong(VolumeDriver):
        def volume_plan(self, volume: Volume) -> VolumePlan:
            return VolumePlan(plan=Plan.of(Directory(path=str(tmp_path / "out"))), path=f"{volume.data}/x")

    world = World(tmp_path / "w")
    world.volumes._mounting._plugins = world.volumes._plugins = Registry(world, {"wrong": Wrong()})  # type: ignore[assignment]
    with pytest.raises(DriverFault, match="data has to be below"):
        world.volumes.create("vv", "wrong")
    assert not (tmp_path / "out").exists()
    assert world.volumes.list() == []
    assert list(world.root.iterdir()) == []
    world.assert_nothing_left()


@isolated
def test_nested_mounts_in_order(tmp_path: Path) -> None:
    from engine_sdk import Plan, Tmpfs, Volume, VolumeDriver, VolumePlan

    class Nested(VolumeDriver):
        def volume_plan(self, volume: Volume) -> VolumePlan:
            inner = Tmpfs(target=f"{volume.run}/fs/a/b", size=1 << 20)
            return VolumePlan(plan=Plan.of(inner, Tmpfs(target=f"{volume.run}/fs")), path=f"{volume.run}/fs")

    world = World(tmp_path)
    world.volumes._mounting._plugins = world.volumes._plugins = Registry(world, {"nested": Nested()})  # type: ignore[assignment]
    world.volumes.create("vv", "nested")
    path = world.volumes.mount("vv", "u")
    assert world.mounts() == [str(path), f"{path}/a/b"]
    world.volumes.unmount("vv", "u")
    world.volumes.remove("vv")
    world.assert_nothing_left()


@isolated
def test_busy_volume_is_released_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.reconcile import mounts

    monkeypatch.setattr(mounts, "BUSY_DEADLINE", 0.05)
    world = World(tmp_path)
    world.volumes.create("vv", options={"type": "tmpfs", "o": "size=1m"})
    path = world.volumes.mount("vv", "u")
    with (path / "file").open("w"):
        with pytest.raises(Conflict, match="is in use by"):
            world.volumes.unmount("vv", "u")
        assert world.volumes.users("vv") == ()
        with pytest.raises(Conflict, match="is in use by"):
            world.volumes.remove("vv")
    assert world.volumes.mount("vv", "u2") == path
    assert (path / "file").exists()
    world.volumes.unmount("vv", "u2")
    world.volumes.remove("vv")
    world.assert_nothing_left()


@isolated
def test_lost_database_and_orphans(tmp_path: Path) -> None:
    world = World(tmp_path)
    record = world.volumes.create("precious", options={"size": "16m"}, labels={"a": "b"})
    (world.volumes.mount("precious", "u") / "file").write_text("x")
    world.volumes.unmount("precious", "u")
    stranger = world.root / "stranger"
    stranger.mkdir()
    world.close()
    for file in tmp_path.glob("state.db*"):
        file.unlink()
    after = World(tmp_path)
    assert after.volumes.restore(()) == []
    assert after.volumes.get("precious") == record
    assert (after.volumes.mount("precious", "u") / "file").read_text() == "x"
    assert after.volumes.orphans() == [stranger]


@isolated
def test_made_for_a_user(tmp_path: Path) -> None:
    world = World(tmp_path)
    made = world.volumes.create(user="container")
    assert world.volumes.prune()[0] == []
    assert world.volumes.create(made.name, user="second").users == ("container", "second")
    assert (world.root / made.id / "volume.json").stat().st_mode & 0o777 == 0o600
    world.close()
    after = World(tmp_path)
    assert after.volumes.restore((), known_users=("second",)) == []
    assert after.volumes.users(made.name) == ("second",)


@isolated
def test_full_disk(tmp_path: Path) -> None:
    disk = Tmpfs(target=str(tmp_path / "data"), size=1 << 20, data="nr_inodes=6")
    MountApplier([tmp_path]).create([disk], Context("test"))
    world = World(tmp_path)
    world.volumes.create("first")  # 5 inodes with the root: of a second volume only the directory fits
    for options in ({}, {"size": "16m"}):
        with pytest.raises(ApplyFailed, match="No space left"):
            world.volumes.create("second", options=options)
        assert [v.name for v in world.volumes.list()] == ["first"]
        assert len(list(world.root.iterdir())) == 1
    assert list(world.run.iterdir()) == []
    assert world.reconciler.owners() == []
    assert world.loops() == []


@isolated
def test_started_with_another_run_directory(tmp_path: Path) -> None:
    world = World(tmp_path / "w")
    world.volumes.create("vv", options={"type": "tmpfs", "o": "size=1m"})
    old = world.volumes.mount("vv", "u")
    world.close()
    moved = World(tmp_path / "w", run=tmp_path / "elsewhere")
    [problem] = moved.volumes.restore(())
    assert str(old) in str(problem)  # it is still mounted: this engine may not touch it
    subprocess.run(["umount", str(old)], check=True)
    assert moved.volumes.restore(()) == []
    assert moved.volumes.mount("vv", "u") != old
    moved.volumes.unmount("vv", "u")
    moved.assert_nothing_left()


@isolated
def test_many_at_once(tmp_path: Path) -> None:
    world = World(tmp_path)
    failures: list[BaseException] = []
    ids: set[str] = set()

    def use(n: int) -> None:
        try:
            ids.add(world.volumes.create("shared", options={"type": "tmpfs", "o": "size=1m"}).id)
            for _ in range(3):
                world.volumes.mount("shared", f"user{n}").stat()
                world.volumes.unmount("shared", f"user{n}")
        except (EngineError, OSError) as err:
            failures.append(err)

    threads = [threading.Thread(target=use, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert failures == []
    assert len(ids) == 1
    world.volumes.remove("shared")
    world.assert_nothing_left()


@isolated
def test_two_engines_side_by_side(tmp_path: Path) -> None:
    one, two = World(tmp_path / "one"), World(tmp_path / "two")
    for world in (one, two):
        world.volumes.create("vv", options={"size": "16m"})
        (world.volumes.mount("vv", "u") / "file").write_text(str(world.base))
    one = one.restarted()
    one.assert_nothing_left()
    assert (two.volumes.mount("vv", "u") / "file").read_text() == str(two.base)
    two.volumes.unmount("vv", "u")
    two.assert_nothing_left()


@isolated
def test_after_a_reboot(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.volumes.create("vv", options={"type": "tmpfs", "o": "size=1m"})
    path = world.volumes.mount("vv", "u")
    world.reconciler.remove("vol:" + world.volumes.get("vv").id)
    shutil.rmtree(world.run)
    after = world.restarted(live=("u",))  # the container was restored from a checkpoint: its mount is made again
    assert after.mounts() == [str(path)]
    world = after.restarted()
    world.volumes.remove("vv")
    world.assert_nothing_left()
