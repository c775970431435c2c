"""Snapshot, clone and rollback by real job processes, on ext4, xfs and btrfs, as directories and as images."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from tests.kernel.volume.job_world import JobWorld, file_system, fill, look, need, until
from tests.kernel.volume.world import isolated

from engine.reconcile.freezing import Late, frozen, thaw
from engine.spec.errors import Conflict, InvalidParameter, NotFound, Unsupported
from engine.volume.copying import share_content
from engine.volume.snapshots import Snapshots

SIZES = {"ext4": "64m", "xfs": "320m", "btrfs": "128m"}


def options_of(fs: str) -> dict[str, str]:
    return {"size": SIZES[fs], "fs": fs} if fs else {}


def shares(directory: Path) -> bool:
    with (directory / "one").open("w+b") as one, (directory / "two").open("w+b") as two:
        return share_content(one.fileno(), two.fileno())


def _story(base: Path, options: dict[str, str]) -> None:
    """A volume is filled, kept, changed, brought back and cloned."""
    world = JobWorld(base)
    world.volumes.create("vol", options=options, labels={"a": "b"})
    path = world.volumes.mount("vol", "user")
    fill(path)
    before = look(path)
    kept = world.done(world.work.snapshot("vol", "first"))
    assert kept["Tag"] == "first"
    assert kept["Consistency"] == ("crash" if options else "fuzzy")
    (path / "plain").write_text("changed")
    (path / "dir/link").unlink()
    changed = look(path)
    with pytest.raises(Conflict, match="in use by user"):
        world.work.rollback("vol", "first")
    world.done(world.work.clone("vol", "copy"))
    world.volumes.unmount("vol", "user")

    old = world.done(world.work.rollback("vol", "first"))["kept"]
    path = world.volumes.mount("vol", "user")
    assert look(path) == before
    copy = world.volumes.mount("copy", "user")  # both at once: their file systems are told apart
    assert look(copy) == changed
    (copy / "more").write_text("x")
    assert not (path / "more").exists()
    assert world.volumes.get("copy").labels == {"a": "b"}
    world.volumes.unmount("vol", "user")
    world.volumes.unmount("copy", "user")

    world.done(world.work.rollback("vol", old))
    path = world.volumes.mount("vol", "user")
    assert look(path) == changed
    world.volumes.unmount("vol", "user")
    assert len(world.work.snapshots("vol")) == 3
    world.work.remove_snapshot("vol", "first")
    assert "first" not in [s.tag for s in world.work.snapshots("vol")]
    record = world.volumes.get("vol")
    assert record.held == ""
    assert record.users == ()
    after = world.after_restart()
    assert {r.name for r in after.volumes.list()} == {"vol", "copy"}
    after.volumes.remove("vol")
    after.volumes.remove("copy")
    after.assert_nothing_left()
    assert list(after.root.iterdir()) == []
    assert after.volumes.orphans() == []
    after.close()


@pytest.mark.parametrize("fs", ["", "ext4", "xfs", "btrfs"])
@isolated
def test_on_a_file_system_that_shares_nothing(tmp_path: Path, fs: str) -> None:
    need("mkfs.xfs", "mkfs.btrfs", "xfs_admin", "btrfstune")
    base = file_system("ext4", tmp_path, "1G")
    _story(base, options_of(fs))


@pytest.mark.parametrize("fs", ["", "ext4"])
@pytest.mark.parametrize("below", ["xfs", "btrfs"])
@isolated
def test_on_a_file_system_that_shares_blocks(tmp_path: Path, below: str, fs: str) -> None:
    need("mkfs.xfs", "mkfs.btrfs")
    base = file_system(below, tmp_path, "500M")
    assert shares(base)
    _story(base, options_of(fs))


@isolated
def test_a_snapshot_on_btrfs_takes_no_room(tmp_path: Path) -> None:
    need("mkfs.btrfs")
    world = JobWorld(file_system("btrfs", tmp_path))
    world.volumes.create("vol")
    path = world.volumes.mount("vol", "user")
    (path / "large").write_bytes(os.urandom(50 << 20))
    os.sync()
    before = shutil.disk_usage(path).used
    for n in range(5):
        world.done(world.work.snapshot("vol", f"s{n}"))
    os.sync()
    assert shutil.disk_usage(path).used - before < 20 << 20
    world.close()


@isolated
def test_a_paused_snapshot_is_a_point_in_time(tmp_path: Path) -> None:
    world = JobWorld(tmp_path / "w")
    world.volumes.create("vol")
    world.volumes.mount("vol", "container")
    fuzzy = world.failed(world.work.snapshot("vol", consistency="crash"))
    assert "would be fuzzy" in str(fuzzy)
    assert world.work.snapshots("vol") == []
    kept = world.done(world.work.snapshot("vol", consistency="paused"))
    assert kept["Consistency"] == "paused"
    assert world.containers.said == ["pause container", "unpause container"]
    made = world.done(world.work.clone("vol", "copy", "paused"))
    assert made["consistency"] == "paused"
    assert world.containers.paused == []
    world.close()


@isolated
def test_a_pause_that_fails_halfway_lets_go_on_what_was_paused(tmp_path: Path) -> None:
    world = JobWorld(tmp_path / "w")
    world.volumes.create("vol")
    for user in ("first", "second"):
        world.volumes.mount("vol", user)
    world.containers.unwilling = "second"
    with pytest.raises(Conflict, match="second is not running"):
        world.work.snapshot("vol", consistency="paused")
    assert world.containers.said == ["pause first", "unpause first"]
    assert world.work.snapshots("vol") == []
    world.close()


@isolated
def test_a_restart_lets_paused_containers_go_on(tmp_path: Path) -> None:
    world = JobWorld(tmp_path / "w")
    world.volumes.create("vol")
    path = world.volumes.mount("vol", "container")
    (path / "large").write_bytes(os.urandom(30 << 20))
    record = world.work.snapshot("vol", consistency="paused")
    world.close()  # the daemon is gone; the job's process is not
    after = JobWorld(tmp_path / "w")
    after.containers.paused.append("container")
    after.jobs.restore()
    after.done(record)
    assert after.containers.paused == []
    after.close()


@isolated
def test_refusals(tmp_path: Path) -> None:
    world = JobWorld(tmp_path / "w")
    with pytest.raises(NotFound):
        world.work.snapshot("none")
    world.volumes.create("vol")
    world.volumes.create("other")
    for tag in ("-x", "a b", "../x", "a/b", "x" * 129):
        with pytest.raises(InvalidParameter, match="tag"):
            world.work.snapshot("vol", tag)
    with pytest.raises(InvalidParameter, match="consistency"):
        world.work.snapshot("vol", consistency="perfect")
    world.done(world.work.snapshot("vol", "one"))
    with pytest.raises(Conflict, match="one exists"):
        world.work.snapshot("vol", "one")
    with pytest.raises(NotFound, match="There are one"):
        world.work.rollback("vol", "two")
    with pytest.raises(NotFound, match="There is none"):
        world.work.rollback("other", "one")
    with pytest.raises(Conflict, match="other exists"):
        world.work.clone("vol", "other")
    with pytest.raises(InvalidParameter):
        world.work.clone("vol", "../x")
    with world.jobs.idle("vol"), pytest.raises(Conflict, match="another job"):
        world.work.snapshot("vol")
    world.volumes.create("memory", options={"type": "tmpfs", "device": "tmpfs"})
    with pytest.raises(Unsupported, match="not on this host's disk"):
        world.work.clone("memory", "copy")
    assert world.volumes.get("vol").users == ()
    world.close()


@isolated
def test_content_that_is_elsewhere(tmp_path: Path) -> None:
    """A bind of the operator's directory: its content is copied, and written back."""
    outside = tmp_path / "outside"
    outside.mkdir()
    world = JobWorld(tmp_path / "w")
    world.volumes.create("vol", options={"type": "none", "o": "bind", "device": str(outside)})
    fill(outside)
    before = look(outside)
    world.done(world.work.snapshot("vol", "one"))
    (outside / "plain").write_text("changed")
    old = world.done(world.work.rollback("vol", "one"))["kept"]
    assert look(outside) == before
    world.done(world.work.rollback("vol", old))
    assert (outside / "plain").read_text() == "changed"
    world.volumes.remove("vol")
    assert (outside / "plain").exists()
    world.close()


@isolated
def test_nobody_mounts_while_an_image_is_copied(tmp_path: Path) -> None:
    world = JobWorld(tmp_path / "w")
    world.volumes.create("vol", options=options_of("ext4"))
    world.volumes.hold("vol", "job:x")
    with pytest.raises(Conflict, match="job:x works on it"):
        world.volumes.mount("vol", "user")
    with pytest.raises(Conflict, match="job:x"):
        world.volumes.hold("vol", "job:y")
    world.volumes.let_go(world.volumes.get("vol").id, "job:x")
    world.volumes.mount("vol", "user")
    world.volumes.unmount("vol", "user")
    world.close()


@isolated
def test_rename_and_labels(tmp_path: Path) -> None:
    world = JobWorld(tmp_path / "w")
    world.volumes.create("one", labels={"a": "1"})
    world.volumes.create("two")
    (world.volumes.mount("one", "user") / "f").write_text("x")
    with pytest.raises(Conflict, match="in use"):
        world.work.rename("one", "new")
    world.volumes.unmount("one", "user")
    with pytest.raises(Conflict, match="already in use"):
        world.work.rename("one", "two")
    with pytest.raises(InvalidParameter):
        world.work.rename("one", "a/b")
    world.work.rename("one", "new")
    world.work.relabel("new", {"b": "2"}, ["a", "never"])
    with pytest.raises(NotFound):
        world.volumes.get("one")
    after = world.after_restart()
    assert (after.volumes.mount("new", "user") / "f").read_text() == "x"
    assert after.volumes.get("new").labels == {"b": "2"}
    after.close()


@isolated
def test_a_frozen_file_system_thaws_by_itself(tmp_path: Path) -> None:
    place = file_system("ext4", tmp_path, "64M")
    with frozen(place, 30):
        writer = subprocess.Popen(["touch", str(place / "x")])
        time.sleep(0.2)
        assert writer.poll() is None
    assert writer.wait(30) == 0
    with pytest.raises(Late), frozen(place, 0.1):
        time.sleep(0.5)
    assert not thaw(place)
    with pytest.raises(OSError, match="frozen"), frozen(Path("/proc"), 1):
        pass


@isolated
def test_the_death_of_who_froze_thaws(tmp_path: Path) -> None:
    place = file_system("ext4", tmp_path, "64M")
    pid = os.fork()
    if pid == 0:
        with frozen(place, 60):
            (tmp_path / "ready").touch()
            time.sleep(60)
        os._exit(0)
    until((tmp_path / "ready").exists, "the freeze")
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    subprocess.run(["touch", str(place / "x")], check=True, timeout=30)


@isolated
def test_unfinished_copies_are_not_snapshots(tmp_path: Path) -> None:
    world = JobWorld(tmp_path / "w")
    record = world.volumes.create("vol")
    snapshots = Snapshots(world.root / record.id)
    (snapshots.staging("dead") / "files").mkdir()
    assert snapshots.list() == []
    snapshots.clear("dead")
    world.close()
