"""export and import: tar streams through real job processes; usage; jobs as such."""

from __future__ import annotations

import gzip
import io
import os
import subprocess
import tarfile
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.kernel.volume.job_world import JobWorld, fill, look, until
from tests.kernel.volume.world import isolated

from engine.spec.errors import ApplyFailed, Conflict, EngineError, InvalidParameter, NotFound


def exported(world: JobWorld, name: str) -> bytes:
    stream = world.work.export(name)
    try:
        return b"".join(iter(lambda: stream.read(1 << 16), b""))
    finally:
        stream.close()


class Chunks:
    """A stream of pieces; a piece that is an error is raised."""

    def __init__(self, pieces: Iterator[bytes | Exception]) -> None:
        self._pieces = pieces

    def read(self, size: int = -1, /) -> bytes:
        piece = next(self._pieces, b"")
        if isinstance(piece, Exception):
            raise piece
        return piece


def names(world: JobWorld) -> list[str]:
    return [record.name for record in world.volumes.list()]


@isolated
def test_there_and_back(tmp_path: Path) -> None:
    world = JobWorld(tmp_path / "w")
    world.volumes.create("vol")
    path = world.volumes.mount("vol", "user")
    path.chmod(0o1770)
    fill(path)
    archive = exported(world, "vol")
    assert len(archive) < 2 << 20  # 32 MiB of holes are not in it
    for name, data in (("plain", archive), ("packed", gzip.compress(archive))):
        done = world.work.import_(name, io.BytesIO(data))
        assert done.state == "done"
        assert look(world.volumes.mount(name, "user")) == look(path)
    (tmp_path / "x.tar").write_bytes(archive)
    listed = subprocess.run(["tar", "-tf", str(tmp_path / "x.tar")], capture_output=True, check=True, timeout=30)
    assert b"./dir/link" in listed.stdout
    with tarfile.open(tmp_path / "x.tar") as tar:  # other readers, too
        assert {tar.getmember(n).size for n in ("./plain", "./dir/link")} == {0, 300_000}  # one is a link
    world.close()


@isolated
def test_what_cannot_be_imported_leaves_nothing(tmp_path: Path) -> None:
    world = JobWorld(tmp_path / "w")
    world.volumes.create("vol")
    path = world.volumes.mount("vol", "user")
    (path / "f").write_bytes(os.urandom(1 << 20))
    archive = exported(world, "vol")
    world.volumes.unmount("vol", "user")
    with pytest.raises(Conflict, match="not empty"):
        world.work.import_("vol", io.BytesIO(archive))
    for data in (b"this is no archive", archive[: len(archive) // 2], gzip.compress(archive)[:5000], b""):
        with pytest.raises(InvalidParameter):
            world.work.import_("new", io.BytesIO(data))
        until(lambda: names(world) == ["vol"], "the volume to go that was made in vain")
    world.volumes.create("held")
    with pytest.raises(InvalidParameter):
        world.work.import_("held", io.BytesIO(archive[:3000]))
    assert list(Path(world.volumes.get("held").path).iterdir()) == []
    with pytest.raises(ConnectionAbortedError):
        world.work.import_("new", Chunks(iter([archive[:70000], ConnectionAbortedError("gone")])))
    until(lambda: names(world) == ["held", "vol"], "the volume to go whose client went away")
    world.volumes.mount("held", "user")
    with pytest.raises(Conflict, match="in use"):
        world.work.import_("held", io.BytesIO(archive))
    world.volumes.create("small", options={"size": "16m"})
    large = io.BytesIO()
    with tarfile.open(fileobj=large, mode="w") as tar:
        member = tarfile.TarInfo("large")
        member.size = 20 << 20
        tar.addfile(member, io.BytesIO(os.urandom(member.size)))
    with pytest.raises(ApplyFailed, match="full"):
        world.work.import_("small", io.BytesIO(large.getvalue()))
    with pytest.raises(NotFound):
        world.work.export("none")
    world.close()


@isolated
def test_an_archive_cannot_leave_the_volume(tmp_path: Path) -> None:
    world = JobWorld(tmp_path / "w")
    outside = tmp_path / "outside"
    outside.mkdir()
    for number, (first, second) in enumerate((("../../../../escape", ""), ("link", "link/escape"))):
        made = io.BytesIO()
        with tarfile.open(fileobj=made, mode="w") as tar:
            member = tarfile.TarInfo(first)
            if second:
                member.type, member.linkname = tarfile.SYMTYPE, str(outside)
                tar.addfile(member)
                member = tarfile.TarInfo(second)
            member.size = 1
            tar.addfile(member, io.BytesIO(b"x"))
        with pytest.raises(InvalidParameter):
            world.work.import_(f"vol{number}", io.BytesIO(made.getvalue()))
    assert not list(outside.iterdir())
    assert not list(tmp_path.rglob("escape"))
    world.close()


@isolated
def test_memory_does_not_grow_with_the_content(tmp_path: Path) -> None:
    world = JobWorld(tmp_path / "w")
    world.volumes.create("vol")
    path = world.volumes.mount("vol", "user")
    (path / "large").write_bytes(bytes(1 << 20) * 64)
    with (path / "large").open("r+b") as file:
        for n in range(64):
            file.seek(n << 20)
            file.write(os.urandom(4096))
    stream = world.work.export("vol")
    tracemalloc.start()
    world.work.import_("copy", stream)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    stream.close()
    assert peak < 8 << 20
    assert look(world.volumes.mount("copy", "user")) == look(path)
    world.close()


@isolated
def test_who_stops_reading_ends_the_job(tmp_path: Path) -> None:
    world = JobWorld(tmp_path / "w")
    world.volumes.create("vol")
    (world.volumes.mount("vol", "user") / "large").write_bytes(os.urandom(8 << 20))
    stream = world.work.export("vol")
    stream.read(1000)
    stream.close()
    until(lambda: world.jobs.list("vol")[0].state in ("cancelled", "failed"), "the end of the job")
    world.done(world.work.usage("vol"))
    world.close()


@isolated
def test_usage(tmp_path: Path) -> None:
    world = JobWorld(tmp_path / "w")
    world.volumes.create("plain")
    path = world.volumes.mount("plain", "user")
    (path / "a").write_bytes(bytes(1 << 20))
    (path / "b").hardlink_to(path / "a")
    found = world.done(world.work.usage("plain"))
    assert 1 << 20 <= found["bytes"] < 1 << 21
    assert (found["limit"], found["files"]) == (None, 1)
    world.volumes.create("sized", options={"size": "64m"})
    before = world.done(world.work.usage("sized"))
    (world.volumes.mount("sized", "user") / "a").write_bytes(bytes(4 << 20))
    os.sync()
    found = world.done(world.work.usage("sized"))
    assert found["files"] is None
    assert 40 << 20 < found["limit"] <= 64 << 20
    assert 4 << 20 <= found["bytes"] - before["bytes"] < 5 << 20
    outside = tmp_path / "outside"
    outside.mkdir()
    world.volumes.create("bound", options={"type": "none", "o": "bind", "device": str(outside)})
    assert world.done(world.work.usage("bound"))["bytes"] < 1 << 20  # not that of the whole disk
    world.close()


@isolated
def test_ended_jobs_are_forgotten_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.volume.jobs.manager._KEPT", 2)
    world = JobWorld(tmp_path / "w")
    world.volumes.create("vol")
    for _ in range(4):
        world.done(world.work.usage("vol"))
    until(lambda: len(world.jobs.list("vol")) == 2, "the oldest to go")
    with pytest.raises(NotFound):
        world.jobs.list("none")
    with pytest.raises(NotFound):
        world.jobs.get("nothing")
    after = world.after_restart()
    assert {r.state for r in after.jobs.list()} == {"done"}
    assert after.volumes.get("vol").users == ()
    after.volumes.remove("vol")
    after.close()


@isolated
def test_a_process_that_is_always_killed_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = JobWorld(tmp_path / "w")
    world.volumes.create("vol")
    monkeypatch.setattr("sys.executable", "/bin/false")
    error = world.failed(world.work.usage("vol"))
    assert isinstance(error, EngineError)
    assert "was killed" in str(error)
    assert world.jobs.list("vol")[0].attempts == 5
    assert world.volumes.get("vol").users == ()
    world.close()


@isolated
def test_a_daemon_killed_inside_a_short_operation(tmp_path: Path) -> None:
    world = JobWorld(tmp_path / "w")
    world.volumes.create("vol")
    world.state.claim("volume-job", world.volumes.get("vol").id, "idle-dead")
    after = world.after_restart()
    after.work.rename("vol", "new")
    after.close()
