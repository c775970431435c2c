"""Files in and out of a root that belongs to somebody else: nothing in it is trusted, run, or opened unseen."""

from __future__ import annotations

import contextlib
import io
import lzma
import os
import stat
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from tests.deep import nest
from tests.images import directory, entry, symlink, tar

from engine.runtime import archive
from engine.spec.errors import EngineError, Forbidden, InvalidParameter
from engine.treewalk import remove_tree

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "root"
    for name in ("etc", "dev", "data"):
        (path / name).mkdir(parents=True)
    yield path
    remove_tree(path)


def members(transfer: archive.Transfer) -> dict[str, tarfile.TarInfo]:
    with contextlib.closing(transfer), tarfile.open(fileobj=transfer, mode="r|") as found:  # type: ignore[call-overload]
        return {member.name: member for member in found}


def put(root: Path, content: bytes, path: str = "/data", **options: bool) -> None:
    archive.put(root, path, io.BytesIO(content), **options)


def test_no_name_is_looked_up_in_a_foreign_root(root: Path) -> None:
    """glibc would load the image's own libraries for that, into a process with the host's rights (CVE-2019-14271)."""
    looked_up = [root / "etc" / name for name in ("nsswitch.conf", "passwd", "group")]
    for path in looked_up:
        os.mkfifo(path)
    with somebody_opens(looked_up) as opened:
        assert set(members(archive.export(root))) >= {"etc/passwd", "data"}
        put(root, tar([entry("file", b"x", uname="root", gname="daemon")]))
    assert opened == []


@contextlib.contextmanager
def somebody_opens(fifos: list[Path]) -> Iterator[list[str]]:
    """Let whoever opens one of these go on, and note which it was."""
    opened: list[str] = []
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.01):
            for path in fifos:
                with contextlib.suppress(OSError):
                    os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
                    opened.append(path.name)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield opened
    finally:
        done.set()
        thread.join()


def test_nothing_is_imported_from_a_foreign_root(root: Path) -> None:
    for place in {path for path in sys.path if path.startswith("/")}:
        foreign = root / place.lstrip("/")
        foreign.mkdir(parents=True, exist_ok=True)
        for module in ("lzma", "bz2", "_compression", "pwd", "stringprep", "locale", "linecache", "traceback"):
            (foreign / f"{module}.py").write_text("open('/owned', 'w')\n")
    put(root, lzma.compress(tar([entry("file", b"x"), entry("dev" * 40, b"y")])))
    with pytest.raises(InvalidParameter):
        put(root, b"BZh" + bytes(1000))
    members(archive.export(root))
    assert (root / "data/file").read_text() == "x"
    assert not (root / "owned").exists()


def test_the_process_has_only_the_rights_that_files_need(root: Path) -> None:
    data = io.BytesIO(tar([entry("file", b"x" * 200_000)]))
    found: dict[str, str] = {}

    class Slow:
        def read(self, size: int = -1, /) -> bytes:
            while data.tell() and not found:
                found.update(_confined_child())
            return data.read(size)

    archive.put(root, "/data", Slow())
    assert int(found["CapEff"], 16) == int(found["CapPrm"], 16) == sum(1 << bit for bit in (0, 1, 3, 4, 27, 31))
    assert {found[name] for name in ("CapBnd", "CapAmb", "CapInh")} == {"0" * 16}


def _confined_child() -> dict[str, str]:
    """The status of the process that copies, once it can gain no rights any more."""
    for children in Path("/proc/self/task").glob("*/children"):
        for pid in children.read_text().split():
            with contextlib.suppress(OSError):
                lines = Path(f"/proc/{pid}/status").read_text().splitlines()
                status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
                if status.get("NoNewPrivs") == "1":
                    return status
    return {}


@pytest.mark.parametrize("kind", ["null", "fifo", "link", "hard link"])
def test_what_is_in_the_way_is_replaced_and_never_opened(root: Path, tmp_path: Path, kind: str) -> None:
    target, other = root / "data/file", root / "data/other"
    other.write_text("other")
    make: dict[str, Callable[[], None]] = {
        "null": lambda: os.mknod(target, stat.S_IFCHR | 0o666, os.makedev(1, 3)),
        "fifo": lambda: os.mkfifo(target),
        "link": lambda: target.symlink_to("other"),
        "hard link": lambda: target.hardlink_to(other),
    }
    make[kind]()
    put(root, tar([entry("file", b"new", mode=0o4755, uid=5, gid=6)]))
    found = target.lstat()
    assert stat.S_ISREG(found.st_mode)
    assert (target.read_text(), stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == ("new", 0o4755, 5, 6)
    assert other.read_text() == "other"


def test_a_file_is_swapped_for_a_pipe_while_it_is_copied_out(root: Path) -> None:
    stop = threading.Event()
    path, file, pipe = root / "data/x", root / "data/f", root / "data/p"

    def swap() -> None:
        while not stop.is_set():
            file.write_text("content")
            file.rename(path)
            os.mkfifo(pipe)
            pipe.rename(path)

    swapping = threading.Thread(target=swap)
    swapping.start()
    try:
        for _ in range(10):
            members(archive.export(root))
    finally:
        stop.set()
        swapping.join()


def test_all_kinds_of_members_come_in_and_go_out(root: Path) -> None:
    pax = {"SCHILY.xattr.user.mark": "value"}
    content = tar(
        [
            directory("d", 0o2750, uid=7, mtime=5),
            entry("d/file", b"content", mode=0o640, uid=7, gid=8, mtime=9, pax_headers=pax),
            entry("d/again", kind=tarfile.LNKTYPE, linkname="d/file"),
            symlink("d/link", "/etc/passwd"),
            entry("d/pipe", kind=tarfile.FIFOTYPE, mode=0o600),
            entry("d/zero", kind=tarfile.CHRTYPE, devmajor=1, devminor=5, mode=0o666),
            entry("made/on/the/way", b""),
        ]
    )
    put(root, content)
    found = members(archive.get(root, "/data/d"))
    assert list(found) == ["d", "d/again", "d/file", "d/link", "d/pipe", "d/zero"]
    assert (found["d"].mode, found["d"].uid, found["d"].mtime) == (0o2750, 7, 5)
    assert found["d/again"].size == 7
    assert found["d/again"].pax_headers["SCHILY.xattr.user.mark"] == "value"
    assert (found["d/file"].islnk(), found["d/file"].linkname) == (True, "d/again")
    assert (found["d/link"].issym(), found["d/link"].linkname) == (True, "/etc/passwd")
    assert found["d/pipe"].isfifo()
    assert (found["d/zero"].ischr(), found["d/zero"].devminor) == (True, 5)
    assert stat.S_IMODE((root / "data/made/on").stat().st_mode) == 0o755


def test_links_lead_no_further_than_the_root(root: Path, tmp_path: Path) -> None:
    (root / "data/out").symlink_to(tmp_path)
    (root / "data/up").symlink_to("../../../../..")
    put(root, tar([entry("up/file", b"x"), entry("/abs/../../name", b"y")]))
    with pytest.raises(InvalidParameter, match="out"):
        put(root, tar([entry("out/file", b"x")]))
    assert (root / "file").read_text() == "x"
    assert (root / "data/name").read_text() == "y"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["root"]


def test_a_directory_gives_way_to_a_file_only_when_that_is_wanted(root: Path) -> None:
    nest(root / "data", 1)
    with pytest.raises(InvalidParameter, match="cannot overwrite directory"):
        put(root, tar([entry("d", b"x")]), no_overwrite=True)
    put(root, tar([entry("d", b"x")]))
    assert (root / "data/d").read_text() == "x"
    with pytest.raises(InvalidParameter, match="cannot overwrite non-directory"):
        put(root, tar([directory("d")]), no_overwrite=True)
    put(root, tar([directory("d")]))
    assert (root / "data/d").is_dir()


def test_trees_deeper_than_a_path_are_refused_with_a_sentence(root: Path) -> None:
    nest(root / "data", 1500)
    assert len(members(archive.export(root))) == 1504
    nest(root / "data", 1500, "longer")
    with pytest.raises(OSError, match="longer than 4096 bytes"):
        members(archive.export(root))
    with pytest.raises(EngineError, match="name"):
        put(root, tar([entry("x/" * 3000 + "f", b"")]))


@pytest.mark.parametrize(
    "content",
    [
        tar([entry("f", b"", mtime=1e300)]),
        tar([entry("f", b"", uid=1 << 60)]),
        tar([entry("f", kind=b"Z")]),
        tar([entry("f", kind=tarfile.LNKTYPE, linkname="absent")]),
        tar([entry("f", b"x" * 4000)])[:1500],
        tar([entry("f", kind=tarfile.GNUTYPE_LONGNAME)])[:124] + b"\x80" + bytes(6) + b"\x01" + bytes(4) + bytes(4096),
    ],
    ids=["time", "owner", "type", "link", "cut off", "long name"],
)
def test_a_hostile_archive_is_the_clients_mistake(root: Path, content: bytes) -> None:
    with pytest.raises((InvalidParameter, Forbidden)):
        put(root, content)


@pytest.mark.parametrize("path", ["/" + "x" * 300, "/x" * 3000, "/loop/x", "/file/x"])
def test_a_path_that_cannot_be_is_the_clients_mistake(root: Path, path: str) -> None:
    (root / "loop").symlink_to("loop")
    (root / "file").touch()
    for call in (archive.stat, archive.get, partial(archive.put, archive=io.BytesIO())):
        with pytest.raises(InvalidParameter):
            call(root, path)


def test_a_time_that_no_calendar_has(root: Path) -> None:
    (root / "data/f").touch()
    os.utime(root / "data/f", (1 << 33, 1 << 33))
    assert archive.stat(root, "/data/f")["mtime"].startswith("2242-")
    with contextlib.suppress(OverflowError, OSError):
        os.utime(root / "data/f", (1 << 40, 1 << 40))
    archive.stat(root, "/data/f")
