"""The appliers of mounts and data, on the real kernel."""

from __future__ import annotations

import os
import stat
import threading
import time
from pathlib import Path

import pytest
from tests.kernel.volume.world import isolated

from engine.reconcile import filesystems, loops, mountapi, mountinfo, mounts
from engine.reconcile.applier import BatchError, Context
from engine.reconcile.data import DataApplier, remove_tree
from engine.reconcile.mounts import MountApplier
from engine.spec.errors import Conflict, Unavailable, Unsupported
from engine.spec.mounts import Bind, Directory, Image, ImageMount, Mount, OverlayMount, Tmpfs
from engine.spec.resource import Resource

HERE = Context("vol:test")


class Bench:
    def __init__(self, base: Path) -> None:
        self.base = base
        self.run = base / "run"
        self.applier = MountApplier([self.run])

    def make(self, *resources: Resource) -> None:
        assert list(self.applier.create(resources, HERE)) == list(resources)

    def refused(self, resource: Resource) -> BatchError:
        with pytest.raises(BatchError) as caught:
            self.applier.create([resource], HERE)
        assert caught.value.created == ()
        return caught.value

    def differences(self, *resources: Resource) -> list[str]:
        wanted = {r.key: r for r in resources}
        return [d.state for d in self.applier.diff(wanted, dict.fromkeys(wanted, HERE))]

    def layers(self, count: int) -> tuple[str, ...]:
        paths = []
        for n in range(count):
            layer = self.base / "layers" / f"{n:03}"
            layer.mkdir(parents=True)
            (layer / f"file{n}").write_text(str(n))
            (layer / "common").write_text(str(n))
            paths.append(str(layer))
        for name in ("upper", "work"):
            (self.base / name).mkdir()
        return tuple(paths)

    def overlay(self, count: int, **fields: object) -> OverlayMount:
        upper, work = str(self.base / "upper"), str(self.base / "work")
        values = {"upper": upper, "work": work, **fields}
        return OverlayMount.model_validate({"target": str(self.run / "ov"), "lower": self.layers(count), **values})


@isolated
@pytest.mark.parametrize("in_place", [False, True], ids=["fsopen", "mount(2)"])
@pytest.mark.parametrize("count", [2, 60])
def test_overlay_of_many_layers(tmp_path: Path, count: int, in_place: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if in_place:
        monkeypatch.setattr(mountapi, "kernel_version", lambda: (6, 1))
    bench = Bench(tmp_path)
    mount = bench.overlay(count)
    bench.make(mount)
    target = Path(mount.target)
    assert (target / "common").read_text() == "0"  # the first layer is the top-most
    assert len(list(target.iterdir())) == count + 1
    (target / "common").write_text("changed")
    assert (tmp_path / "upper/common").read_text() == "changed"
    assert bench.differences(mount) == []
    if not (in_place and count == 60):  # there the kernel knows the layers by descriptor only
        assert bench.differences(mount.model_copy(update={"lower": mount.lower[1:]})) == ["replace"]
    assert bench.applier.remove([mount], HERE) == []
    assert bench.differences(mount) == ["missing"]
    assert list(bench.run.iterdir()) == []


@isolated
def test_overlay_without_upper_is_read_only(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    two = bench.overlay(2, upper=None, work=None)
    one = OverlayMount(target=str(bench.run / "one"), lower=two.lower[:1])
    bench.make(two, one)
    for mount in (two, one):
        assert (Path(mount.target) / "file0").read_text() == "0"
        with pytest.raises(OSError, match="Read-only"):
            (Path(mount.target) / "new").touch()
    assert bench.differences(two, one) == []


@isolated
def test_overlay_names_the_missing_layer(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    mount = bench.overlay(3)
    gone = Path(mount.lower[1])
    remove_tree(gone)
    err = bench.refused(mount)
    assert f"{gone} does not exist" in str(err.cause)
    assert mountinfo.below(str(tmp_path)) == []
    assert list(bench.run.iterdir()) == []


@isolated
def test_bind_of_directory_and_file(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_text("x")
    directory = Bind(target=str(bench.run / "a/b/dir"), source=str(source), options=("ro",))
    file = Bind(target=str(bench.run / "a/file"), source=str(source / "file"))
    bench.make(directory, file)
    assert Path(file.target).read_text() == "x"
    with pytest.raises(OSError, match="Read-only"):
        (Path(directory.target) / "new").touch()
    assert bench.differences(directory, file) == []
    other = tmp_path / "other"
    other.mkdir()
    assert bench.differences(directory.model_copy(update={"source": str(other)})) == ["replace"]
    assert bench.applier.remove([file, directory], HERE) == []
    assert not Path(file.target).exists()
    assert not Path(directory.target).exists()
    assert (source / "file").read_text() == "x"


@isolated
def test_recursive_bind_takes_what_is_mounted_below(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    inner = Tmpfs(target=str(bench.run / "src/inner"))
    bench.make(Tmpfs(target=str(bench.run / "src")), inner)
    (bench.run / "src/inner/file").touch()
    with_inner = Bind(target=str(bench.run / "deep"), source=str(bench.run / "src"), options=("ro",))
    without = with_inner.model_copy(update={"target": str(bench.run / "flat"), "recursive": False})
    bench.make(with_inner, without)
    assert (bench.run / "deep/inner/file").exists()
    assert not (bench.run / "flat/inner/file").exists()
    with pytest.raises(OSError, match="Read-only"):
        (bench.run / "deep/inner/new").touch()
    (bench.run / "src/inner/new").touch()
    wanted = {r.key: r for r in (inner, Tmpfs(target=str(bench.run / "src")), with_inner, without)}
    assert bench.applier.unwanted(wanted) == []
    assert bench.applier.remove([without, with_inner], HERE) == []
    assert [m.target for m in mountinfo.below(str(tmp_path))] == [str(bench.run / "src"), inner.target]


@isolated
def test_everything_is_private(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    shared = 1 << 20
    bench.make(Tmpfs(target=str(bench.run / "t")))
    fd = os.open(bench.run / "t", os.O_PATH)
    mountapi._syscall(
        442, mountapi._int(fd), b"", mountapi._int(0x1000),
        mountapi.ctypes.byref(mountapi._MountAttr(0, 0, shared, 0)), mountapi._int(32), what="share",
    )  # fmt: skip
    os.close(fd)
    assert [m.shared for m in mountinfo.below(str(tmp_path))] == [True]
    (bench.run / "t/src").mkdir()
    inside = Bind(target=str(bench.run / "t/bind"), source=str(bench.run / "t/src"))
    bench.make(inside, Tmpfs(target=str(bench.run / "t/tmp")))
    assert {m.target: m.shared for m in mountinfo.below(str(bench.run / "t"))} == {
        inside.target: False,
        str(bench.run / "t/tmp"): False,
    }
    mounts.make_private(bench.run / "t/src")
    mounts.make_private(bench.run / "t/src")
    found = [m for m in mountinfo.read() if m.target == str(bench.run / "t/src")]
    assert [m.shared for m in found] == [False]


@isolated
def test_tmpfs_limits_and_owner(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    mount = Tmpfs(target=str(bench.run / "t"), size=1 << 20, mode=0o750, uid=7, gid=8, data="nr_inodes=5")
    bench.make(mount)
    info = Path(mount.target).stat()
    assert (stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid) == (0o750, 7, 8)
    with pytest.raises(OSError, match="No space"):
        (Path(mount.target) / "big").write_bytes(bytes(2 << 20))
    err = bench.refused(Tmpfs(target=str(bench.run / "u"), data="bogus=1"))
    assert "bogus" in str(err.cause)


@isolated
def test_options_are_compared_and_corrected(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    before = Tmpfs(target=str(bench.run / "t"))
    bench.make(before)
    after = before.model_copy(update={"options": ("ro", "nosuid", "noatime")})
    assert bench.differences(after) == ["differs"]
    bench.applier.update(after, after, HERE)
    assert bench.differences(after) == []
    with pytest.raises(OSError, match="Read-only"):
        (Path(before.target) / "x").touch()
    assert bench.differences(before) == ["differs"]  # it cannot be written to
    bench.applier.update(before, before, HERE)
    (Path(before.target) / "x").touch()
    assert bench.differences(Bind(target=before.target, source="/")) == ["replace"]


@isolated
def test_what_exists_is_refused_and_kept(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    mount = Tmpfs(target=str(bench.run / "t"))
    bench.make(mount)
    (Path(mount.target) / "file").touch()
    assert bench.refused(mount).exists
    assert (Path(mount.target) / "file").exists()
    second = Tmpfs(target=str(bench.run / "second"))
    with pytest.raises(BatchError) as caught:
        bench.applier.create([second, mount], HERE)
    assert caught.value.created == (second,)


@isolated
def test_busy_mount_is_tried_again_then_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(tmp_path)
    mount = Tmpfs(target=str(bench.run / "t"))
    bench.make(mount)
    held = (Path(mount.target) / "file").open("w")
    timer = threading.Timer(0.2, held.close)
    timer.start()
    assert bench.applier.remove([mount], HERE) == []
    timer.join()
    bench.make(mount)
    monkeypatch.setattr(mounts, "BUSY_DEADLINE", 0.05)
    with (Path(mount.target) / "file").open("w"):
        [(left, err)] = bench.applier.remove([mount], HERE)
        assert left == mount
        assert f"{os.getpid()} (" in str(err)
    assert bench.differences(mount) == []
    nested = Tmpfs(target=str(bench.run / "t/inner"))
    bench.make(nested)
    [(_, err)] = bench.applier.remove([mount], HERE)
    assert nested.target in str(err)
    assert bench.applier.remove([nested, mount], HERE) == []
    assert bench.applier.remove([nested, mount], HERE) == []  # gone already


@isolated
def test_targets_stay_below_the_roots(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    outside = tmp_path / "outside"
    outside.mkdir()
    assert "own directories" in str(bench.refused(Tmpfs(target=str(outside))).cause)
    assert "own directories" in str(bench.refused(Tmpfs(target=str(bench.run))).cause)
    bench.run.mkdir()
    (bench.run / "link").symlink_to(outside)
    err = bench.refused(Tmpfs(target=str(bench.run / "link/x")))
    assert "symbolic link" in str(err.cause)
    assert list(outside.iterdir()) == []


@isolated
def test_garbage_is_what_is_mounted_below_the_roots(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    other = MountApplier([tmp_path / "run2"])  # another engine, whose root's name begins like ours
    theirs = Tmpfs(target=str(tmp_path / "run2/x"))
    other.create([theirs], HERE)
    kept, outer, inner = (Tmpfs(target=str(bench.run / name)) for name in ("kept", "outer", "outer/inner"))
    bench.make(kept, outer, inner)
    found = bench.applier.unwanted({kept.key: kept})
    assert [d.key[2] for d in found] == [inner.target, outer.target]
    for difference in found:
        bench.applier.discard(difference)
    assert bench.applier.unwanted({kept.key: kept}) == []
    assert bench.differences(kept) == []
    assert len(other.unwanted({})) == 1


@isolated
def test_roots_behind_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    applier = MountApplier([tmp_path / "link"])
    mount = Tmpfs(target=str(tmp_path / "link/t"))
    applier.create([mount], HERE)
    assert applier.diff({mount.key: mount}, {}) == []
    assert applier.unwanted({mount.key: mount}) == []
    assert [d.key[2] for d in applier.unwanted({})] == [str(tmp_path / "real/t")]
    assert applier.remove([mount], HERE) == []


@isolated
def test_image_is_attached_once_and_let_go(tmp_path: Path) -> None:
    bench, data = Bench(tmp_path), DataApplier()
    image = Image(path=str(tmp_path / "disk.img"), size=32 << 20, uid=3, gid=4, mode=0o770)
    data.create([image], HERE)
    assert Path(image.path).stat().st_blocks * 512 < 8 << 20  # sparse
    first = ImageMount(target=str(bench.run / "a"), image=image.path)
    second = ImageMount(target=str(bench.run / "b"), image=image.path)
    bench.make(first, second)
    (Path(first.target) / "file").write_text("seen by both")
    assert (Path(second.target) / "file").read_text() == "seen by both"
    assert bench.differences(first, second) == []
    info = Path(first.target).stat()
    assert (stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid) == (0o770, 3, 4)
    assert [p.name for p in Path(first.target).iterdir()] == ["file"]  # no lost+found
    inode = Path(image.path).stat().st_ino
    assert len([a for a in loops.attached() if a.backing_inode == inode]) == 1
    with pytest.raises(OSError, match="No space"):
        (Path(first.target) / "big").write_bytes(bytes(40 << 20))
    assert bench.applier.remove([first, second], HERE) == []
    end = time.monotonic() + 2
    while any(a.backing_inode == inode for a in loops.attached()):
        assert time.monotonic() < end, "the loop device stays"
        time.sleep(0.01)


@isolated
def test_data_is_made_once(tmp_path: Path) -> None:
    data = DataApplier()
    directory = Directory(path=str(tmp_path / "d"), mode=0o2770, uid=5, gid=6)
    image = Image(path=str(tmp_path / "disk.img"), size=16 << 20)
    data.create([directory, image], HERE)
    info = Path(directory.path).stat()
    assert (stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid) == (0o2770, 5, 6)
    content = Path(image.path).read_bytes()
    for resource in (directory, image):
        with pytest.raises(BatchError) as caught:
            data.create([resource], HERE)
        assert caught.value.exists
    assert Path(image.path).read_bytes() == content
    wanted: dict[tuple[str, ...], Resource] = {directory.key: directory, image.key: image}
    assert data.diff(wanted, {}) == []
    Path(directory.path).rmdir()
    Path(image.path).unlink()
    assert [d.state for d in data.diff(wanted, {})] == ["missing", "missing"]
    assert data.remove([directory], HERE) == []
    assert data.unwanted({}) == []


@isolated
def test_mkfs_that_is_missing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("engine.reconcile.data", fromlist=["x"])._MKFS, "xfs", ("mkfs.absent",))
    with pytest.raises(BatchError) as caught:
        DataApplier().create([Image(path=str(tmp_path / "disk.img"), size=16 << 20, fs="xfs")], HERE)
    assert isinstance(caught.value.cause, Unsupported)
    assert "xfsprogs" in str(caught.value.cause)
    assert list(tmp_path.iterdir()) == []


@isolated
def test_tree_with_a_mount_in_it_is_not_removed(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "tree")
    mount = Tmpfs(target=str(bench.run / "t"))
    bench.make(mount)
    (Path(mount.target) / "precious").touch()
    with pytest.raises(Conflict, match="is mounted"):
        remove_tree(tmp_path / "tree")
    assert (Path(mount.target) / "precious").exists()
    bench.applier.remove([mount], HERE)
    remove_tree(tmp_path / "tree")
    remove_tree(tmp_path / "tree")
    assert list(tmp_path.iterdir()) == []


@isolated
def test_block_device_and_unknown_file_system(tmp_path: Path) -> None:
    bench, data = Bench(tmp_path), DataApplier()
    image = Image(path=str(tmp_path / "disk.img"), size=16 << 20)
    data.create([image], HERE)
    with Path(image.path).open("r+b") as file:
        device, keep = loops.attach(file.fileno())
    mount = Mount(target=str(bench.run / "m"), fstype="ext4", source=device, data="errors=remount-ro", options=("ro",))
    bench.make(mount)
    os.close(keep)
    assert bench.differences(mount) == []
    assert bench.differences(mount.model_copy(update={"source": "/dev/null"})) == ["replace"]
    assert bench.differences(mount.model_copy(update={"fstype": "ext3"})) == ["replace"]
    assert bench.applier.remove([mount], HERE) == []
    unknown = bench.refused(Mount(target=str(bench.run / "m"), fstype="no-such-fs", source="x"))
    assert isinstance(unknown.cause, Unsupported)
    assert "does not have the file system" in str(unknown.cause)
    wrong = bench.refused(Mount(target=str(bench.run / "m"), fstype="ext4", source="/dev/null"))
    assert "not a block device" in str(wrong.cause)
    assert list(bench.run.iterdir()) == []


@isolated
def test_network_mount_has_a_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(tmp_path)
    monkeypatch.setattr(filesystems, "NETWORK_DEADLINE", 0.5)
    monkeypatch.setattr(filesystems.sys, "executable", "/bin/cat")  # cat -m: refuses; stands for a broken child
    err = bench.refused(Mount(target=str(bench.run / "n"), fstype="nfs", source=":/x", data="addr=127.0.0.1"))
    assert "mounting process failed" in str(err.cause)
    slow = tmp_path / "slow"
    slow.write_text("#!/bin/sh\nexec sleep 30\n")
    slow.chmod(0o755)
    monkeypatch.setattr(filesystems.sys, "executable", str(slow))
    start = time.monotonic()
    err = bench.refused(Mount(target=str(bench.run / "n"), fstype="nfs", source=":/x", data="addr=127.0.0.1"))
    assert isinstance(err.cause, Unavailable)
    assert time.monotonic() - start < 10


@isolated
def test_network_mount_says_what_the_kernel_says(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    data = "addr=127.0.0.1,username=u,password=hunter2"
    mount = Mount(target=str(bench.run / "n"), fstype="cifs", source="//127.0.0.1/share", data=data)
    err = bench.refused(mount)
    assert err.errno != 0
    assert "hunter2" not in str(err.cause)
    nowhere = Mount(target=str(bench.run / "n"), fstype="nfs", source=":/x", data="addr=no-such-host.invalid")
    err = bench.refused(nowhere)
    assert isinstance(err.cause, Unavailable)
    assert "no-such-host.invalid" in str(err.cause)
