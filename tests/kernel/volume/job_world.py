"""Volumes with their jobs, and file systems for a data root that can share blocks."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.kernel.volume.world import World

from engine.spec.errors import Conflict, EngineError
from engine.volume.jobs.manager import JobManager
from engine.volume.jobs.operations import VolumeWork
from engine.volume.jobs.record import JobRecord

SECONDS = 60.0
PASSWORD = "correct horse"
"""Of the repositories of the tests."""


class Containers:
    """Containers that only stand still or not."""

    def __init__(self) -> None:
        self.paused: list[str] = []
        self.said: list[str] = []
        self.unwilling = ""
        """The one that cannot be paused."""

    def running(self, ids: Sequence[str]) -> list[str]:
        return [id for id in ids if id not in self.paused]

    def pause(self, ref: str, work: str) -> None:
        assert work.startswith("job")
        if ref == self.unwilling:
            raise Conflict(f"Container {ref} is not running")
        self.paused.append(ref)
        self.said.append(f"pause {ref}")

    def end_pause(self, ref: str, work: str) -> None:
        if ref in self.paused:
            self.paused.remove(ref)
            self.said.append(f"unpause {ref}")


class JobWorld(World):
    """One engine's volumes and jobs. A second one on the same directory is the engine after a restart."""

    def __init__(self, base: Path) -> None:
        super().__init__(base)
        self.containers = Containers()
        self.jobs = JobManager(
            self.state, self.volumes, self.plugins, self.secrets, self.containers, base / "data" / "jobs"
        )
        self.work = VolumeWork(self.jobs, self.volumes)

    def close(self) -> None:
        self.jobs.close()
        super().close()

    def after_restart(self) -> JobWorld:
        """Return the engine after a restart."""
        self.close()
        after = JobWorld(self.base)
        users = after.jobs.users()
        assert after.volumes.restore(users, users) == []
        after.reconciler.collect()
        after.jobs.restore()
        return after

    def done(self, record: JobRecord) -> dict[str, Any]:
        """Wait for a job and return its result."""
        return dict(within(lambda: self.jobs.follow(record.id)).result)

    def failed(self, record: JobRecord) -> EngineError:
        """Wait for a job that has to fail, and return why."""
        with pytest.raises(EngineError) as caught:
            within(lambda: self.jobs.follow(record.id))
        return caught.value


def within(function: Callable[[], Any], seconds: float = SECONDS) -> Any:
    """Return what a function returns, which has to end in time."""
    results: list[Any] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(function())
        except BaseException as err:  # noqa: BLE001 - raised where it is waited for
            errors.append(err)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), "it did not end in time"
    if errors:
        raise errors[0]
    return results[0]


def until(condition: Callable[[], Any], what: str) -> Any:
    """Wait until a condition holds, and return its value."""
    deadline = time.monotonic() + SECONDS
    while not (value := condition()):
        assert time.monotonic() < deadline, f"in vain waited for: {what}"
        time.sleep(0.01)
    return value


def need(*programs: str) -> None:
    """Skip the test where a program is missing."""
    missing = [p for p in programs if shutil.which(p, path="/usr/sbin:/sbin:/usr/bin:/bin") is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


def file_system(kind: str, place: Path, size: str = "400M") -> Path:
    """Mount a new file system, and return where. The test's namespace takes it away at its end."""
    image, target = place / f"disk-{kind}", place / kind
    target.mkdir()
    subprocess.run(["truncate", "-s", size, str(image)], check=True)
    flags = {"ext4": ["-q", "-F"], "xfs": ["-q"], "btrfs": ["-q"]}[kind]
    subprocess.run([f"/usr/sbin/mkfs.{kind}", *flags, str(image)], check=True, timeout=60, stdin=subprocess.DEVNULL)
    subprocess.run(["mount", "-o", "loop", str(image), str(target)], check=True, timeout=60)
    return target


def fill(path: Path) -> None:
    """Put one of everything into a directory."""
    (path / "dir").mkdir(mode=0o711)
    (path / "plain").write_bytes(os.urandom(300_000))
    (path / "dir/link").hardlink_to(path / "plain")
    (path / "symbolic").symlink_to("dir/link")
    with (path / "sparse").open("wb") as file:
        file.truncate(32 << 20)
        file.seek(16 << 20)
        file.write(b"in the middle")
    (path / "empty").touch()
    os.setxattr(path / "plain", "user.colour", b"blue")
    os.chown(path / "empty", 1234, 4321)
    (path / "empty").chmod(0o4751)
    os.mkfifo(path / "pipe")
    os.utime(path / "plain", ns=(10**18, 10**18 + 1))
    (path / b"not-utf8-\xff".decode("utf-8", "surrogateescape")).write_text("name")


def look(path: Path) -> dict[str, Any]:
    """Return all that a copy has to keep of a directory, as a value."""
    found: dict[str, Any] = {}
    first: dict[int, str] = {}
    for entry in [path, *sorted(path.rglob("*"))]:
        name, facts = str(entry.relative_to(path)), entry.lstat()
        if name == "lost+found":
            continue
        content: Any = None
        if entry.is_symlink():
            content = str(entry.readlink())
        elif entry.is_file():
            content = entry.read_bytes()
        known = os.listxattr(entry, follow_symlinks=False)
        attributes = {a: os.getxattr(entry, a, follow_symlinks=False) for a in known}
        holes = stat.S_ISREG(facts.st_mode) and facts.st_size > 1 << 20 > facts.st_blocks * 512
        same = first.setdefault(facts.st_ino, name)
        times = facts.st_mtime_ns if entry.is_file() else 0
        found[name] = (facts.st_mode, facts.st_uid, facts.st_gid, times, content, attributes, holes, same)
    return found


def restic(repository: str, *arguments: str, password: str = PASSWORD, env: dict[str, str] | None = None) -> Any:
    """Run the stock program on its own backend, and return its JSON."""
    given = {**os.environ, "RESTIC_PASSWORD": password, **(env or {})}
    argv = ["restic", "-r", repository, "--no-cache", "--json", *arguments]
    done = subprocess.run(argv, env=given, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout.decode().splitlines()[-1]) if done.stdout.startswith((b"[", b"{")) else None


def password_file(place: Path, text: str = PASSWORD) -> str:
    place.write_text(f"{text}\n")
    return f"file:{place}"


def processes_of(directory: Path) -> list[int]:
    """Return the ids of job processes below a directory, and of what they run."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"engine.volume.jobs" in words and any(w.startswith(os.fsencode(directory)) for w in words):
            found.append(int(entry.name))
    return found
