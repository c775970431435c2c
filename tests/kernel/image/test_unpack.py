"""Layers as overlayfs wants them, and hostile ones."""

from __future__ import annotations

import io
import os
import stat
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.images import Entry, busybox_layer, directory, entry, symlink, tar

from engine.image.unpack import OPAQUE, unpack
from engine.spec.errors import InvalidParameter

Unpack = Callable[..., Path]


@pytest.fixture
def into(tmp_path: Path) -> Iterator[Unpack]:
    """Unpack entries (or raw tar bytes) into a new directory, beside which nothing may appear."""
    (tmp_path / "outside").mkdir()

    def run(*entries: Entry, raw: bytes | None = None) -> Path:
        root = tmp_path / "root"
        root.mkdir()
        fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            unpack(io.BytesIO(tar(entries) if raw is None else raw), fd)
        finally:
            os.close(fd)
        return root

    yield run
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "root") == ["outside"]
    assert list((tmp_path / "outside").iterdir()) == []


def link(name: str, target: str) -> Entry:
    return entry(name, kind=tarfile.LNKTYPE, linkname=target)


def device(name: str, major: int, minor: int, kind: bytes = tarfile.CHRTYPE) -> Entry:
    return entry(name, kind=kind, devmajor=major, devminor=minor)


ESCAPES = {
    "parent": [entry("../outside/x")],
    "deep parent": [entry("a/b/../../../outside/x")],
    "absolute parent": [entry("/../outside/x")],
    "through a relative link": [symlink("a/up", "../.."), entry("a/up/outside/x")],
    "through an absolute link": [symlink("abs", "/tmp"), entry("abs/x")],
    "through a link to a link": [symlink("one", "/"), symlink("two", "one"), entry("two/tmp/x")],
    "through a link to /proc/self/cwd": [symlink("cwd", "/proc/self/cwd"), entry("cwd/x")],
    "directory through a link": [symlink("abs", "/tmp"), directory("abs/x")],
    "whiteout through a link": [symlink("abs", "/tmp"), entry("abs/.wh.x")],
    "opaque mark through a link": [symlink("abs", "/tmp"), entry("abs/.wh..wh..opq")],
    "whiteout of the parent": [entry("a/.wh...")],
    "whiteout of itself": [entry("a/.wh..")],
    "whiteout of nothing": [entry("a/.wh.")],
    "hard link to the parent": [link("x", "../outside")],
    "hard link to the host": [link("x", "/etc/../../etc/passwd")],
    "hard link through a link": [symlink("abs", "/etc"), link("x", "abs/passwd")],
    "link over the root": [symlink("a/b", "../../outside")],
    "root replaced by a link": [symlink(".", "/tmp")],
    "hard link to nothing": [link("x", "etc/passwd")],
    "hard link to a directory": [directory("d"), link("x", "d")],
    "disk": [device("sda", 8, 0, tarfile.BLKTYPE)],
    "memory": [device("mem", 1, 1)],
    "kmsg": [device("kmsg", 1, 11)],
    "null as a block device": [device("null", 1, 3, tarfile.BLKTYPE)],
    "file as a directory": [entry("a", b"x"), entry("a/b", b"y")],
    "file over a full directory": [entry("a/b", b"y"), entry("a", b"x")],
    "unknown member": [entry("x", kind=b"Z")],
}


@pytest.mark.parametrize("name", ESCAPES)
def test_refuses_what_leaves_the_root_or_is_no_layer(into: Unpack, name: str) -> None:
    with pytest.raises(InvalidParameter, match="the layer"):
        into(*ESCAPES[name])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_combination_of_members_writes_outside(tmp_path: Path, data: st.DataObject) -> None:
    part = st.sampled_from(["a", "b", "..", ".", "out", ".wh.a", ".wh..wh..opq", ""])
    path = st.lists(part, min_size=1, max_size=4).map("/".join)
    member = st.one_of(
        path.map(lambda p: entry(p, b"x")),
        path.map(directory),
        st.tuples(path, path).map(lambda pair: symlink(*pair)),
        st.tuples(path, path).map(lambda pair: symlink(pair[0], f"/{tmp_path}/out/{pair[1]}")),
        st.tuples(path, path).map(lambda pair: link(*pair)),
    )
    out, root = tmp_path / "out", Path(os.path.realpath(tmp_path / f"r{data.draw(st.integers())}"))
    out.mkdir(exist_ok=True)
    root.mkdir(exist_ok=True)
    before = sorted(path.name for path in tmp_path.iterdir())
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        unpack(io.BytesIO(tar(data.draw(st.lists(member, max_size=6)))), fd)
    except InvalidParameter:
        pass
    finally:
        os.close(fd)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert list(out.iterdir()) == []


def test_links_that_stay_inside_are_followed_as_in_docker(into: Unpack) -> None:
    lib = (directory("usr/lib"), symlink("lib", "usr/lib"), entry("lib/x", b"1"))
    root = into(*lib, entry("/abs", b"2"), entry("./d/../e"))
    assert (root / "usr/lib/x").read_bytes() == b"1"
    assert (root / "abs").read_bytes() == b"2"
    assert (root / "e").exists()
    assert (root / "lib").readlink() == Path("usr/lib")


def test_whiteouts_and_opaque_directories(into: Unpack) -> None:
    root = into(directory("d"), entry("d/.wh.gone"), entry("o/.wh..wh..opq"), entry("o/new"), entry(".wh..wh.plnk"))
    gone = (root / "d/gone").lstat()
    assert stat.S_ISCHR(gone.st_mode)
    assert gone.st_rdev == 0
    assert os.getxattr(root / "o", OPAQUE) == b"y"
    assert sorted(path.name for path in root.iterdir()) == ["d", "o"]


@pytest.mark.parametrize("order", [1, -1])
def test_a_directory_that_was_deleted_and_made_anew_is_opaque(into: Unpack, order: int) -> None:
    root = into(*[entry(".wh.d"), directory("d")][::order])
    assert os.getxattr(root / "d", OPAQUE) == b"y"


def test_a_directory_below_a_whiteout_is_opaque(into: Unpack) -> None:
    assert os.getxattr(into(entry(".wh.d"), entry("d/x")) / "d", OPAQUE) == b"y"


def test_a_file_that_was_deleted_and_made_anew_is_there(into: Unpack) -> None:
    assert (into(entry(".wh.f"), entry("f", b"new")) / "f").read_bytes() == b"new"


def test_attributes(into: Unpack) -> None:
    root = into(
        directory("d", 0o2750, uid=7, gid=8, mtime=1_000_000_000),
        entry(
            "d/suid",
            b"x",
            mode=0o4755,
            uid=1000,
            gid=1001,
            mtime=1_100_000_000.25,
            pax_headers={"SCHILY.xattr.user.note": "v\u00e9", "SCHILY.xattr.trusted.overlay.opaque": "y"},
        ),
        symlink("d/link", "suid", uid=5, gid=6),
        link("d/hard", "d/suid"),
        entry("d/fifo", kind=tarfile.FIFOTYPE, mode=0o620),
        device("null", 1, 3),
        directory(".", 0o711),
        entry("h\udcff", b"x"),
    )
    suid = (root / "d/suid").stat()
    assert (stat.S_IMODE(suid.st_mode), suid.st_uid, suid.st_gid, suid.st_nlink) == (0o4755, 1000, 1001, 2)
    assert suid.st_mtime_ns == 1_100_000_000_250_000_000
    assert os.listxattr(root / "d/suid") == ["user.note"]
    assert os.getxattr(root / "d/suid", "user.note") == "v\u00e9".encode()
    made = (root / "d").stat()
    assert (stat.S_IMODE(made.st_mode), made.st_uid, made.st_gid, made.st_mtime) == (0o2750, 7, 8, 1_000_000_000)
    assert (root / "d/link").lstat().st_uid == 5
    assert stat.S_IMODE((root / "d/fifo").stat().st_mode) == 0o620
    assert (root / "null").stat().st_rdev == os.makedev(1, 3)
    assert stat.S_IMODE(root.stat().st_mode) == 0o711
    assert (root / os.fsdecode(b"h\xff")).exists()


def test_a_capability_of_a_file_is_kept(into: Unpack) -> None:
    """Binary values with NUL bytes, as `security.capability` is."""
    value = bytes.fromhex("0100000200040000000000000000000000000000")
    pax = b"SCHILY.xattr.security.capability=" + value + b"\n"
    length = len(pax) + len(str(len(pax) + 3)) + 1
    record = str(length).encode() + b" " + pax
    header = tarfile.TarInfo("PaxHeaders/ping")
    header.type, header.size = tarfile.XHDTYPE, len(record)
    raw = header.tobuf(tarfile.USTAR_FORMAT) + record.ljust(512, b"\0") + tar([entry("ping", b"x", mode=0o755)])
    assert os.getxattr(into(raw=raw) / "ping", "security.capability") == value


def test_sparse_files_keep_their_holes(into: Unpack, tmp_path: Path) -> None:
    source = tmp_path / "outside" / "sparse"
    with source.open("wb") as file:
        file.seek(50 << 20)
        file.write(b"end")
    packed = subprocess.run(
        ["tar", "--sparse", "--format=pax", "-C", str(source.parent), "-cf", "-", "sparse"],
        check=True,
        capture_output=True,
        timeout=30,
    ).stdout
    source.unlink()
    unpacked = into(raw=packed) / "sparse"
    assert unpacked.stat().st_size == (50 << 20) + 3
    assert unpacked.stat().st_blocks * 512 < 1 << 20
    with unpacked.open("rb") as file:
        file.seek(50 << 20)
        assert file.read() == b"end"


def test_a_real_root_file_system(into: Unpack) -> None:
    root = into(raw=busybox_layer())
    assert os.access(root / "bin/busybox", os.X_OK)
    assert (root / "bin/sh").readlink() == Path("busybox")
    assert stat.S_IMODE((root / "tmp").stat().st_mode) == 0o1777


@pytest.mark.parametrize("raw", [b"", b"\0" * 1024, b"\0" * 10240])
def test_an_empty_layer_is_empty(into: Unpack, raw: bytes) -> None:
    assert list(into(raw=raw).iterdir()) == []


GOOD = tar([entry("a", b"x" * 2000), entry("b", b"y" * 2000)])


@pytest.mark.parametrize(
    "raw",
    [b"no tar" * 1000, GOOD[:700], GOOD[:2560] + b"garbage!" * 64 + GOOD[3072:], os.urandom(4096), b"x"],
    ids=["text", "cut", "header damaged amid", "noise", "short"],
)
def test_what_is_no_tar_is_refused(into: Unpack, raw: bytes) -> None:
    with pytest.raises(InvalidParameter, match="not a valid tar archive"):
        into(raw=raw)
