"""backup and restore with wrong input, without a server, on a full disk: what is there stays as it is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.kernel.storage import servers
from tests.kernel.volume.job_world import (
    PASSWORD,
    JobWorld,
    file_system,
    need,
    password_file,
    until,
)
from tests.kernel.volume.world import isolated

from engine.spec.errors import ApplyFailed, Conflict, Forbidden, InvalidParameter, NotFound, Unavailable


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
