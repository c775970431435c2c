"""backup and restore that are killed, cancelled, left alone by their daemon, and looked at from outside."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from tests.kernel.volume.job_world import (
    PASSWORD,
    JobWorld,
    look,
    need,
    password_file,
    processes_of,
    restic,
    until,
)
from tests.kernel.volume.world import isolated

from engine.spec.errors import Conflict


@isolated
def test_killed_in_the_middle_it_goes_on(tmp_path: Path) -> None:
    """kill -9 of the job's process, with the daemon there and with it gone; every byte is read back."""
    need("restic")
    world = JobWorld(tmp_path / "w")
    url, key = f"file://{tmp_path}/repo", password_file(tmp_path / "key")
    world.volumes.create("vol")
    path = world.volumes.mount("vol", "user")
    for n in range(40):
        (path / f"f{n}").write_bytes(os.urandom(2 << 20))
    record = world.work.backup("vol", url, {}, key)
    repository = tmp_path / "repo"
    until(lambda: (repository / "data").exists(), "the first pack")
    kill_all(world)
    until(lambda: world.jobs.get(record.id).attempts == 2, "the second start")
    until(lambda: processes_of(world.base / "data/jobs"), "its process")
    world.close()
    kill_all(world)  # nobody is there to start it again
    after = JobWorld(world.base)
    users = after.jobs.users()
    assert users == [record.user]
    after.volumes.restore(["user", *users], ["user", *users])
    after.jobs.restore()
    done = after.done(record)
    assert len(restic(str(repository), "snapshots")) == 1
    restic(str(repository), "check", "--read-data")
    other = after.work.restore("fresh", url, {}, key, of="vol")
    until(lambda: after.jobs.get(other.id).progress.get("step") == "Restoring", "the restore")
    kill_all(after)
    assert after.done(other)["snapshot"] == done["snapshot"]
    assert look(after.volumes.mount("fresh", "user")) == look(path)
    assert after.jobs.get(other.id).attempts > 1
    after.close()


def kill_all(world: JobWorld) -> None:
    for pid in processes_of(world.base / "data/jobs"):
        os.kill(pid, signal.SIGKILL)


@isolated
def test_the_daemon_may_go_and_come_back(tmp_path: Path) -> None:
    need("restic")
    world = JobWorld(tmp_path / "w")
    world.volumes.create("vol")
    path = world.volumes.mount("vol", "user")
    (path / "large").write_bytes(os.urandom(60 << 20))
    record = world.work.backup("vol", f"file://{tmp_path}/repo", {}, password_file(tmp_path / "key"))
    world.close()
    after = JobWorld(world.base)
    users = after.jobs.users()
    after.volumes.restore(["user", *users], ["user", *users])
    after.jobs.restore()
    after.done(record)
    assert after.jobs.get(record.id).attempts == 1
    assert after.volumes.get("vol").users == ("user",)
    jobs = world.base / "data/jobs"
    until(lambda: [p.name for p in jobs.iterdir()] == ["cache"], "the job's directory to go")
    after.close()


@isolated
def test_cancel(tmp_path: Path) -> None:
    need("restic")
    world = JobWorld(tmp_path / "w")
    world.volumes.create("vol")
    (world.volumes.mount("vol", "user") / "large").write_bytes(os.urandom(80 << 20))
    record = world.work.backup("vol", f"file://{tmp_path}/repo", {}, password_file(tmp_path / "key"))
    with pytest.raises(Conflict, match="another job"):
        world.work.usage("vol")
    with pytest.raises(Conflict, match="in use"):
        world.volumes.remove("vol")
    world.jobs.cancel(record.id)
    assert "cancelled" in str(world.failed(record))
    assert world.jobs.get(record.id).state == "cancelled"
    with pytest.raises(Conflict, match="has ended"):
        world.jobs.cancel(record.id)
    assert not processes_of(world.base / "data/jobs")
    world.done(world.work.usage("vol"))
    world.close()


@isolated
def test_no_secret_in_sight(tmp_path: Path) -> None:
    """While a backup runs, neither arguments nor the environment of any of our processes have the password."""
    need("restic")
    world = JobWorld(tmp_path / "w")
    world.volumes.create("vol")
    (world.volumes.mount("vol", "user") / "large").write_bytes(os.urandom(60 << 20))
    record = world.work.backup("vol", f"file://{tmp_path}/repo", {}, password_file(tmp_path / "key"))
    seen = 0
    deadline = time.monotonic() + 60
    while world.jobs.get(record.id).state == "running" and time.monotonic() < deadline:
        for pid in [*processes_of(world.base / "data/jobs"), *_restics(world.base)]:
            try:
                shown = Path(f"/proc/{pid}/cmdline").read_bytes() + Path(f"/proc/{pid}/environ").read_bytes()
            except OSError:
                continue
            seen += 1
            assert PASSWORD.encode() not in shown
            assert b"rest:http" not in shown
        time.sleep(0.05)
    assert seen
    world.done(record)
    held = b"".join(p.read_bytes() for p in (world.base / "data").rglob("*") if p.is_file())
    assert PASSWORD.encode() not in held
    world.close()


def _restics(base: Path) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if words[0] == b"restic" and any(word.startswith(os.fsencode(base)) for word in words):
                found.append(int(entry.name))
        except OSError:
            continue
    return found
