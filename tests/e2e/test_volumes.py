"""Volumes, bind mounts and tmpfs in containers, by both command lines."""

from __future__ import annotations

import json
from pathlib import Path

from tests.host import EngineHost, until

from .conftest import Cli


def names(cli: Cli) -> list[str]:
    return cli("volume", "ls", "-q").stdout.split()


def test_named_volume_outlives_containers(cli: Cli, clean: EngineHost) -> None:
    cli("volume", "create", "--label", "a=b", "data")
    cli("run", "--rm", "-v", "data:/data", "busybox", "sh", "-c", "echo kept > /data/file")
    assert cli("run", "--rm", "-v", "data:/data:ro", "busybox", "cat", "/data/file").stdout == "kept\n"
    done = cli("run", "--rm", "-v", "data:/data:ro", "busybox", "touch", "/data/x", check=False)
    assert done.returncode == 1
    assert "Read-only" in done.stderr
    found = json.loads(cli("volume", "inspect", "data").stdout)[0]
    assert (found["Name"], found["Driver"], found["Labels"]) == ("data", "local", {"a": "b"})
    assert (Path(found["Mountpoint"]) / "file").read_text() == "kept\n"
    cli("volume", "rm", "data")
    assert not Path(found["Mountpoint"]).exists()


def test_a_named_volume_is_made_by_run(cli: Cli, clean: EngineHost) -> None:
    cli("run", "--rm", "--mount", "type=volume,source=fresh,target=/data", "busybox", "true")
    assert names(cli) == ["fresh"]
    cli("volume", "rm", "fresh")


def test_anonymous_volumes(cli: Cli, clean: EngineHost) -> None:
    cli("run", "--rm", "-v", "/data", "busybox", "touch", "/data/x")
    until(lambda: not names(cli), "the anonymous volume to go with --rm")
    cli("run", "--name", "keeper", "-v", "/data", "busybox", "true")
    assert len(names(cli)) == 1
    cli("rm", "keeper")
    assert len(names(cli)) == 1
    cli("volume", "prune", "-f")
    assert names(cli) == []
    cli("run", "--name", "keeper", "-v", "/data", "busybox", "true")
    cli("rm", "-v", "keeper")
    assert names(cli) == []


def test_prepopulation(cli: Cli, clean: EngineHost) -> None:
    assert "passwd" in cli("run", "--rm", "-v", "filled:/etc", "busybox", "ls", "/etc").stdout
    script = "ls /data; stat -c %a /data"
    assert cli("run", "--rm", "-v", "mode:/tmp", "busybox", "stat", "-c", "%a", "/tmp").stdout == "1777\n"
    done = cli("run", "--rm", "--mount", "type=volume,source=bare,target=/etc,volume-nocopy", "busybox", "ls", "/etc")
    assert "passwd" not in done.stdout
    assert "passwd" in cli("run", "--rm", "-v", "filled:/data", "busybox", "sh", "-c", script).stdout
    cli("volume", "rm", "filled", "mode", "bare")


def test_a_volume_in_use_is_not_removed(cli: Cli, clean: EngineHost) -> None:
    cli("run", "--name", "user", "-v", "data:/data", "busybox", "true")
    done = cli("volume", "rm", "data", check=False)
    assert done.returncode == 1
    assert "in use" in done.stderr
    cli("rm", "user")
    cli("volume", "rm", "data")


def test_two_containers_share_a_volume(cli: Cli, clean: EngineHost) -> None:
    cli("run", "-d", "--name", "writer", "-v", "shared:/out", "busybox", "sh", "-c", "echo x > /out/f; sleep 1000")
    until(lambda: cli("exec", "writer", "cat", "/out/f", check=False).stdout == "x\n", "the file")
    assert cli("run", "--rm", "-v", "shared:/in", "busybox", "cat", "/in/f").stdout == "x\n"
    assert cli("run", "--rm", "--volumes-from", "writer", "busybox", "cat", "/out/f").stdout == "x\n"
    cli("rm", "-f", "writer")
    cli("volume", "rm", "shared")


def test_bind_mounts(cli: Cli, clean: EngineHost, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("seen\n")
    assert cli("run", "--rm", "-v", f"{tmp_path}:/host", "busybox", "cat", "/host/in").stdout == "seen\n"
    cli("run", "--rm", "-v", f"{tmp_path}:/host", "busybox", "sh", "-c", "echo out > /host/out")
    assert (tmp_path / "out").read_text() == "out\n"
    mount = f"type=bind,source={tmp_path}/in,target=/file,readonly"
    done = cli("run", "--rm", "--mount", mount, "busybox", "sh", "-c", "cat /file; echo no > /file", check=False)
    assert (done.stdout, done.returncode) == ("seen\n", 1)
    cli("run", "--rm", "-v", f"{tmp_path}/new:/new", "busybox", "true")
    assert (tmp_path / "new").is_dir()
    done = cli("run", "--rm", "--mount", f"type=bind,source={tmp_path}/none,target=/x", "busybox", "true", check=False)
    assert done.returncode == 125
    assert f"{tmp_path}/none" in done.stderr


def test_local_driver_options(cli: Cli, clean: EngineHost, tmp_path: Path) -> None:
    cli("volume", "create", "-o", "type=tmpfs", "-o", "device=tmpfs", "-o", "o=size=2m,mode=750", "quick")
    script = "df -k /q | tail -1 | awk '{print $2}'; stat -c %a /q"
    assert cli("run", "--rm", "-v", "quick:/q", "busybox", "sh", "-c", script).stdout == "2048\n750\n"
    (tmp_path / "f").write_text("bound\n")
    cli("volume", "create", "-o", "type=none", "-o", f"device={tmp_path}", "-o", "o=bind", "bound")
    assert cli("run", "--rm", "-v", "bound:/b", "busybox", "cat", "/b/f").stdout == "bound\n"
    cli("volume", "rm", "quick", "bound")
    assert (tmp_path / "f").exists()


def test_a_volume_of_limited_size(cli: Cli, clean: EngineHost) -> None:
    cli("volume", "create", "-o", "size=16m", "small")
    done = cli("run", "--rm", "-v", "small:/s", "busybox", "dd", "if=/dev/zero", "of=/s/f", "bs=1M", "count=32",
               check=False)  # fmt: skip
    assert done.returncode == 1
    assert "No space" in done.stderr
    cli("volume", "rm", "small")


def test_prune_and_filters(cli: Cli, clean: EngineHost) -> None:
    cli("volume", "create", "idle")
    cli("run", "-d", "-v", "busy:/b", "busybox", "sleep", "1000")
    assert cli("volume", "ls", "-q", "-f", "dangling=true").stdout.split() == ["idle"]
    cli("volume", "prune", "-a", "-f")
    assert names(cli) == ["busy"]


def test_copy_into_a_volume_of_a_stopped_container(cli: Cli, clean: EngineHost, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x\n")
    cli("create", "--name", "stopped", "-v", "data:/data", "busybox", "cat", "/data/f")
    cli("cp", str(tmp_path / "f"), "stopped:/data/f")
    assert cli("start", "-a", "stopped").stdout == "x\n"
    cli("rm", "stopped")
    cli("volume", "rm", "data")
