"""backup and restore by restic, through the storage drivers, with stock restic as the judge."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.kernel.storage import servers
from tests.kernel.volume.job_world import (
    JobWorld,
    fill,
    look,
    need,
    password_file,
    restic,
)
from tests.kernel.volume.world import isolated

from engine.spec.errors import Conflict, NotFound
from engine.volume.jobs import bridge


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


def test_keys_of_the_protocol() -> None:
    name = "ab" + "0" * 62
    assert bridge.key_of(f"/data/{name}") == f"data/ab/{name}"
    assert bridge.key_of(f"/keys/{name}") == f"keys/{name}"
    assert bridge.key_of("/config") == "config"
    for wrong in ("/", "/data/", "/data/../config", f"/other/{name}", "/data/xyz", f"/data/{name}/x", "/config/x"):
        assert bridge.key_of(wrong) is None
