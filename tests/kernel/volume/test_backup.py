"""backup and restore by restic, through the storage drivers, with stock restic as the judge."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from tests.kernel.storage import servers
from tests.kernel.volume.job_world import JobWorld, file_system, fill, look, need, until
from tests.kernel.volume.world import isolated

from engine.spec.errors import ApplyFailed, Conflict, Forbidden, InvalidParameter, NotFound, Unavailable
from engine.volume.jobs import bridge

PASSWORD = "correct horse"


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


@isolated
def test_there_and_back_and_stock_restic_reads_it(tmp_path: Path) -> None:
    need("restic")
    world = JobWorld(tmp_path / "w")
    repository, key = tmp_path / "repo", password_file(tmp_path / "key")
    world.volumes.create("vol")
    path = world.volumes.mount("vol", "user")
    path.chmod(0o2751)
    os.chown(path, 7, 8)
    fill(path)
    before = look(path)
    first = world.done(world.work.backup("vol", f"file://{repository}", {}, key))
    again = world.done(world.work.backup("vol", f"file://{repository}", {}, key))
    assert (again["new"], again["changed"]) == (0, 0)
    assert again["added"] < first["added"] / 10
    assert sorted(p.name for p in repository.iterdir() if not p.name.startswith(".")) == [
        "config", "data", "index", "keys", "snapshots",
    ]  # fmt: skip
    assert [s["short_id"] for s in restic(str(repository), "snapshots")] == [first["snapshot"], again["snapshot"]]
    restic(str(repository), "check", "--read-data")
    restic(str(repository), "restore", first["snapshot"], "--target", str(tmp_path / "stock"))
    assert (tmp_path / "stock/plain").read_bytes() == (path / "plain").read_bytes()

    world.done(world.work.restore("fresh", f"file://{repository}", {}, key, of="vol"))
    assert look(world.volumes.mount("fresh", "user")) == before
    (path / "plain").write_text("changed")
    world.volumes.unmount("vol", "user")
    error = world.failed(world.work.restore("vol", f"file://{repository}", {}, key))
    assert isinstance(error, Conflict)
    world.done(world.work.restore("vol", f"file://{repository}", {}, key, snapshot=first["snapshot"], force=True))
    assert look(world.volumes.mount("vol", "user")) == before
    assert [r.state for r in world.work.jobs.list("vol")] == ["done", "done", "failed", "done"]
    world.close()


@isolated
def test_a_repository_that_stock_restic_made(tmp_path: Path) -> None:
    need("restic")
    world = JobWorld(tmp_path / "w")
    repository, key = tmp_path / "repo", password_file(tmp_path / "key")
    restic(str(repository), "init")
    world.volumes.create("vol")
    (world.volumes.mount("vol", "user") / "f").write_text("x")
    done = world.done(world.work.backup("vol", f"file://{repository}", {}, key))
    assert restic(str(repository), "snapshots")[0]["short_id"] == done["snapshot"]
    assert not list(repository.glob("locks/*"))
    world.close()


@isolated
def test_in_a_bucket(tmp_path: Path) -> None:
    need("restic")
    with servers.seaweed(tmp_path) as place:
        world = JobWorld(tmp_path / "w")
        key = password_file(tmp_path / "key")
        world.volumes.create("vol")
        path = world.volumes.mount("vol", "user")
        fill(path)
        world.done(world.work.backup("vol", f"{place.url}/repo", place.options, key))
        world.done(world.work.restore("fresh", f"{place.url}/repo", place.options, key, of="vol"))
        assert look(world.volumes.mount("fresh", "user")) == look(path)
        bucket, _, prefix = place.url.removeprefix("s3://").partition("/")
        options = {name.replace("-", "_"): value for name, value in place.options.items()}
        keys = {
            name: Path(options[option].removeprefix("file:")).read_text().strip()
            for name, option in (("AWS_ACCESS_KEY_ID", "access_key"), ("AWS_SECRET_ACCESS_KEY", "secret_key"))
        }
        where = "/".join(part for part in (options["endpoint_url"], bucket, prefix, "repo") if part)
        assert len(restic(f"s3:{where}", "snapshots", env=keys)) == 1
        restic(f"s3:{where}", "check", env=keys)
        world.close()


@isolated
def test_the_engines_own_key(tmp_path: Path) -> None:
    need("restic")
    world = JobWorld(tmp_path / "w")
    with pytest.raises(NotFound):
        world.jobs.show_backup_key()
    world.volumes.create("vol")
    empty = world.failed(world.work.backup("vol", f"file://{tmp_path}/repo", {}))
    assert "nothing to back up" in str(empty)
    (world.volumes.mount("vol", "user") / "f").touch()
    world.done(world.work.backup("vol", f"file://{tmp_path}/repo", {}))
    key = world.jobs.show_backup_key()
    assert len(restic(str(tmp_path / "repo"), "snapshots", password=key)) == 1
    held = b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file() and "secrets" not in p.parts)
    assert key.encode() not in held
    world.close()


@isolated
def test_wrong_input_touches_nothing(tmp_path: Path) -> None:
    need("restic")
    world = JobWorld(tmp_path / "w")
    url, key = f"file://{tmp_path}/repo", password_file(tmp_path / "key")
    world.volumes.create("vol")
    path = world.volumes.mount("vol", "user")
    (path / "f").write_text("mine")
    with pytest.raises(NotFound, match="not there"):
        world.work.backup("vol", url, {}, f"file:{tmp_path}/none")
    with pytest.raises(Forbidden, match="empty"):
        world.work.backup("vol", url, {}, password_file(tmp_path / "empty", ""))
    with pytest.raises(InvalidParameter):
        world.work.backup("vol", url, {"no-such": "option"}, key)
    with pytest.raises(NotFound):
        world.work.backup("none", url, {}, key)
    assert world.volumes.get("vol").users == ("user",)
    error = world.failed(world.work.restore("new", url, {"create": "false"}, key, of="vol"))
    assert isinstance(error, NotFound)
    until(lambda: [r.name for r in world.volumes.list()] == ["vol"], "the volume to go that was made in vain")
    world.done(world.work.backup("vol", url, {}, key))
    wrong = password_file(tmp_path / "wrong", "battery staple")
    assert isinstance(world.failed(world.work.backup("vol", url, {}, wrong)), Forbidden)
    with pytest.raises(Conflict, match="in use by user"):
        world.work.restore("vol", url, {}, key, force=True)
    world.volumes.unmount("vol", "user")
    assert isinstance(world.failed(world.work.restore("vol", url, {}, wrong, force=True)), Forbidden)
    missing = world.failed(world.work.restore("vol", url, {}, key, snapshot="0badc0de", force=True))
    assert isinstance(missing, NotFound)
    assert "0badc0de" in str(missing)
    assert (path / "f").read_text() == "mine"
    assert world.volumes.get("vol").users == ()
    world.close()


@isolated
def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    need("restic")
    world = JobWorld(tmp_path / "w")
    world.volumes.create("vol")
    port = servers.free_ports(1)[0]
    secret = password_file(tmp_path / "key")
    options = {"endpoint-url": f"http://127.0.0.1:{port}", "access-key": secret, "secret-key": secret, "deadline": "2"}
    error = world.failed(world.work.backup("vol", "s3://bucket/x", options, secret))
    assert isinstance(error, Unavailable)
    assert PASSWORD not in str(error)
    world.close()


@isolated
def test_a_disk_that_fills(tmp_path: Path) -> None:
    need("restic")
    world = JobWorld(tmp_path / "w")
    url, key = f"file://{tmp_path}/repo", password_file(tmp_path / "key")
    world.volumes.create("vol")
    path = world.volumes.mount("vol", "user")
    (path / "large").write_bytes(os.urandom(40 << 20))
    world.done(world.work.backup("vol", url, {}, key))
    world.volumes.create("small", options={"size": "20m"})
    error = world.failed(world.work.restore("small", url, {}, key, of="vol"))
    assert isinstance(error, ApplyFailed)
    assert "full" in str(error)
    full = file_system("ext4", tmp_path, "20M")
    error = world.failed(world.work.backup("vol", f"file://{full}/repo", {}, key))
    assert "space" in str(error).lower() or "full" in str(error).lower()
    world.close()


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
        for pid in [*processes_of(world.base / "data/jobs"), *_restics()]:
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


def _restics() -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if (entry / "comm").read_text().strip() == "restic":
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def test_keys_of_the_protocol() -> None:
    name = "ab" + "0" * 62
    assert bridge.key_of(f"/data/{name}") == f"data/ab/{name}"
    assert bridge.key_of(f"/keys/{name}") == f"keys/{name}"
    assert bridge.key_of("/config") == "config"
    for wrong in ("/", "/data/", "/data/../config", f"/other/{name}", "/data/xyz", f"/data/{name}/x", "/config/x"):
        assert bridge.key_of(wrong) is None
