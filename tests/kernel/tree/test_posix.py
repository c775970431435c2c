"""A table of what programs do with files: as on a plain directory, and then read back by another host."""

from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.kernel.storage import servers
from tests.kernel.tree.grounds import Place, picture, store_of

from engine.tree import sending

ROWS: dict[str, Callable[[Path], object]] = {}
_FALLOC_FL_KEEP_SIZE, _FALLOC_FL_PUNCH_HOLE = 1, 2  # fallocate(2)
_AT_FDCWD, _AT_SYMLINK_FOLLOW = -100, 0x400  # linkat(2)


def row(function: Callable[[Path], object]) -> Callable[[Path], object]:
    """Add a row to the table. It works in an empty directory, and returns what a program sees."""
    ROWS[function.__name__] = function
    return function


@row
def rename_over_open(d: Path) -> object:
    (d / "old").write_bytes(b"old")
    (d / "new").write_bytes(b"new")
    with (d / "old").open("rb") as file:
        (d / "new").rename(d / "old")
        return file.read(), (d / "old").read_bytes()


@row
def unlink_open(d: Path) -> object:
    with (d / "gone").open("w+b") as file:
        (d / "gone").unlink()
        file.write(b"still here")
        file.seek(0)
        return file.read(), (d / "gone").exists()


@row
def hard_link(d: Path) -> object:
    (d / "a").write_bytes(b"1")
    (d / "b").hardlink_to(d / "a")
    (d / "below").mkdir()
    (d / "below" / "c").hardlink_to(d / "a")
    (d / "b").write_bytes(b"by the other name")
    return (d / "a").read_bytes(), (d / "a").stat().st_nlink


@row
def mmap_write(d: Path) -> object:
    (d / "mapped").write_bytes(bytes(10_000))
    with (d / "mapped").open("r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        memory[5000:5005] = b"hello"
        memory.flush()
        memory[0:5] = b"later"  # and never flushed
    return (d / "mapped").read_bytes()


@row
def locks(d: Path) -> object:
    """In processes of their own: fcntl(2) locks go when their process closes any descriptor of the file."""
    (d / "locked").write_bytes(b"1")
    asks = (
        "import fcntl,sys\nf=open(sys.argv[1],'r+b')\n"
        "for lock in (fcntl.flock, fcntl.lockf):\n"
        "  try: lock(f, fcntl.LOCK_EX|fcntl.LOCK_NB); print('free')\n"
        "  except OSError: print('taken')\n"
    )
    holds = (
        "import fcntl,subprocess,sys\nf=open(sys.argv[1],'r+b')\n"
        "fcntl.flock(f, fcntl.LOCK_EX); fcntl.lockf(f, fcntl.LOCK_EX)\n"
        "subprocess.run([sys.executable,'-c',sys.argv[2],sys.argv[1]],check=True)\n"
    )
    argv = [sys.executable, "-c", holds, str(d / "locked"), asks]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True).stdout


@row
def append(d: Path) -> object:
    for n in range(3):
        with (d / "log").open("ab") as file:
            file.write(b"%d\n" % n)
    return (d / "log").read_bytes()


@row
def sparse(d: Path) -> object:
    with (d / "sparse").open("wb") as file:
        file.truncate(3 << 20)
        file.seek(2 << 20)
        file.write(b"end")
    return (d / "sparse").stat().st_size, (d / "sparse").stat().st_blocks < 100


@row
def truncate_grow_and_shrink(d: Path) -> object:
    (d / "t").write_bytes(b"0123456789")
    os.truncate(d / "t", 4)
    os.truncate(d / "t", 8)
    return (d / "t").read_bytes()


@row
def punch_hole(d: Path) -> object:
    (d / "holed").write_bytes(b"x" * 20_000)
    libc = ctypes.CDLL(None, use_errno=True)
    with (d / "holed").open("r+b") as file:
        flags = _FALLOC_FL_KEEP_SIZE | _FALLOC_FL_PUNCH_HOLE
        result = libc.fallocate(file.fileno(), flags, ctypes.c_int64(4096), ctypes.c_int64(8192))
    return result, (d / "holed").read_bytes().count(b"\0")


@row
def xattr(d: Path) -> object:
    (d / "x").write_bytes(b"1")
    os.setxattr(d / "x", "user.text", b"a note")
    os.setxattr(d / "x", "user.binary", bytes(range(256)))
    os.setxattr(d / "x", "user.gone", b"1")
    os.removexattr(d / "x", "user.gone")
    os.setxattr(d, "user.directory", b"too")
    return sorted(os.listxattr(d / "x"))


@row
def o_tmpfile(d: Path) -> object:
    fd = os.open(d, os.O_TMPFILE | os.O_RDWR, 0o600)
    os.write(fd, b"from nowhere")
    libc = ctypes.CDLL(None, use_errno=True)  # os.link does not say AT_SYMLINK_FOLLOW
    named = libc.linkat(_AT_FDCWD, b"/proc/self/fd/%d" % fd, _AT_FDCWD, os.fsencode(d / "named"), _AT_SYMLINK_FOLLOW)
    assert named == 0, os.strerror(ctypes.get_errno())
    os.close(fd)
    return (d / "named").read_bytes()


@row
def directory_rename(d: Path) -> object:
    (d / "one/two").mkdir(parents=True)
    (d / "one/two/file").write_bytes(b"1")
    (d / "one/large").write_bytes(b"2" * (2 << 20))
    (d / "one").rename(d / "uno")
    return (d / "uno/two/file").read_bytes(), (d / "one").exists()


@row
def directory_not_empty(d: Path) -> object:
    (d / "full").mkdir()
    (d / "full/f").write_bytes(b"")
    try:
        (d / "full").rmdir()
    except OSError as err:
        return err.errno
    return None


@row
def symbolic_links(d: Path) -> object:
    (d / "target").write_bytes(b"1")
    (d / "good").symlink_to("target")
    (d / "dangling").symlink_to("nowhere/at all")
    (d / "long").symlink_to("x" * 1000)
    os.symlink(b"bytes-\xff", os.fsencode(d) + b"/odd")  # noqa: PTH211
    return (d / "good").read_bytes(), str((d / "dangling").readlink())


@row
def modes_owners_times(d: Path) -> object:
    for mode in (0o400, 0o644, 0o4755, 0o2711, 0o000):
        path = d / f"m{mode:o}"
        path.write_bytes(b"1")
        os.chown(path, 1000 + mode, 2000)
        path.chmod(mode)
        os.utime(path, ns=(1, 1_234_567_890_123_456_789))
    (d / "sticky").mkdir()
    (d / "sticky").chmod(0o1777)
    os.utime(d / "sticky", ns=(5, -5_000_000_001))
    return sorted(p.stat().st_mode for p in d.iterdir())


@row
def empty_directories_and_files(d: Path) -> object:
    (d / "a/b/c").mkdir(parents=True)
    (d / "a/empty").write_bytes(b"")
    return sorted(str(p.relative_to(d)) for p in d.rglob("*"))


@row
def odd_names(d: Path) -> object:
    for name in ("with space", "ünïcödé ✓", "%41+&=?#", "-dash", ".hidden", "a" * 130, "'quotes\""):
        (d / name).write_bytes(name.encode())
    return sorted(p.name for p in d.iterdir())


@row
def rewrite_in_place(d: Path) -> object:
    (d / "db").write_bytes(b"A" * 30_000)
    with (d / "db").open("r+b") as file:
        for position in (0, 4096, 29_990):
            file.seek(position)
            file.write(b"page")
        os.fsync(file.fileno())
    return (d / "db").read_bytes()


@row
def exclusive_create(d: Path) -> object:
    os.close(os.open(d / "x", os.O_CREAT | os.O_EXCL))
    try:
        os.open(d / "x", os.O_CREAT | os.O_EXCL)
    except FileExistsError as err:
        return err.errno
    return None


@row
def exec_bit(d: Path) -> object:
    (d / "run.sh").write_text("#!/bin/sh\necho ran\n")
    (d / "run.sh").chmod(0o755)
    return subprocess.run([d / "run.sh"], capture_output=True, timeout=60, check=True).stdout


def test_programs_see_what_they_see_on_a_plain_directory_and_so_does_another_host(tmp_path):
    plain = tmp_path / "plain"
    plain.mkdir()
    store = store_of(f"file://{tmp_path}/store", {"fsync": "false"})
    with Place(tmp_path, store) as place:
        for name, function in ROWS.items():
            for root in (plain, place.path):
                (root / name).mkdir()
            assert function(place.path / name) == function(plain / name), name
        compare(tmp_path, place)


@pytest.mark.parametrize("wrapped", ["", "crypt::"], ids=["s3", "crypt"])
def test_the_same_through_s3(tmp_path, wrapped, monkeypatch):
    monkeypatch.setenv("TREE_PASSWORD", "of the tests of trees")
    if not wrapped:
        monkeypatch.setattr(sending, "IN_MEMORY", 1 << 20)  # larger files are sent in parts
    (tmp_path / "weed").mkdir()
    with servers.seaweed(tmp_path / "weed") as bucket:
        options = {**bucket.options, **({"crypt-password": "env:TREE_PASSWORD"} if wrapped else {})}
        with Place(tmp_path, store_of(wrapped + bucket.url, options)) as place:
            for name, function in ROWS.items():
                (place.path / name).mkdir()
                function(place.path / name)
            compare(tmp_path, place, local=not wrapped)


def compare(base: Path, place: Place, *, local: bool = True) -> None:
    place.sync()
    status = place.tree.status()
    assert status.conflicts == ()
    with Place(base, place.store, "other") as other:
        here, there = picture(place.path), picture(other.path)
        unstored = {name for name in here if name not in there}
        differing = {n: (here[n], there[n]) for n in here if n in there and here[n] != there[n]}
        assert differing == {}
        assert sorted(there.keys() - here.keys()) == []
        for name in unstored:
            assert name.rpartition("/")[2] in status.reason or "more" in status.reason
        assert not (local and unstored), status.reason
        other.sync()
        assert other.tree.status().state == status.state or not local
