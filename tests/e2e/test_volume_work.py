"""Backups, archives, snapshots and copies of volumes by the command line; kill -9 of the daemon in the middle."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.host import ENGINE, EngineHost, until


@pytest.fixture
def machine(host: EngineHost) -> Iterator[EngineHost]:
    """The machine, without the volumes of the test before."""
    if shutil.which("restic") is None:
        pytest.skip("restic is not installed")
    yield host
    host.clear()


def content(host: EngineHost, name: str) -> Path:
    return Path(json.loads(host.engine("volume", "inspect", name).stdout)[0]["Mountpoint"])


@pytest.fixture(scope="module", autouse=True)
def _no_leftovers(host: EngineHost) -> Iterator[None]:
    """What backups leave on purpose: the engine's key, and the directory of jobs with restic's cache."""
    yield
    (host.data_root / "secrets/volume-backup.json").unlink(missing_ok=True)
    shutil.rmtree(host.data_root / "jobs", ignore_errors=True)
    with_rows = host.engine("volume", "jobs", "-q").stdout.split()
    assert with_rows == []


def test_backup_and_restore(machine: EngineHost, tmp_path: Path) -> None:
    machine.engine("run", "--rm", "-v", "data:/d", "busybox", "sh", "-c", "echo first > /d/file; mkdir /d/sub")
    url = f"file://{tmp_path}/repository"
    done = machine.engine("volume", "backup", "data", url)
    first = done.stdout.strip()
    assert "data: Making the repository" in done.stderr
    assert "engine volume backup-key" in done.stderr
    machine.engine("run", "--rm", "-v", "data:/d", "busybox", "sh", "-c", "echo second > /d/file")
    second = machine.engine("volume", "backup", "-q", "data", url)
    assert second.stderr == ""
    key = machine.engine("volume", "backup-key").stdout.strip()
    listed = subprocess.run(
        ["restic", "-r", str(tmp_path / "repository"), "--no-cache", "--json", "snapshots"],
        env={**os.environ, "RESTIC_PASSWORD": key}, capture_output=True, check=True, timeout=60,
    )  # fmt: skip
    assert [s["short_id"] for s in json.loads(listed.stdout)] == [first, second.stdout.strip()]
    machine.engine("volume", "restore", "other", url, "--of", "data")
    assert (content(machine, "other") / "file").read_text() == "second\n"
    refused = machine.engine("volume", "restore", "data", url, check=False)
    assert refused.returncode == 1
    assert "--force" in refused.stderr
    machine.engine("volume", "restore", "--force", "--snapshot", first, "data", url)
    assert machine.engine("run", "--rm", "-v", "data:/d", "busybox", "cat", "/d/file").stdout == "first\n"
    states = machine.engine("volume", "jobs", "--format", "{{.Kind}} {{.State}}", "data").stdout.splitlines()
    assert states == ["backup done", "backup done", "restore failed", "restore done"]


def test_wrong_input(machine: EngineHost, tmp_path: Path) -> None:
    machine.engine("volume", "create", "data")
    (content(machine, "data") / "file").write_text("x")
    url = f"file://{tmp_path}/repository"
    for arguments, words in (
        (("backup", "none", url), "no such volume"),
        (("backup", "data", "nosuch://x"), "nosuch"),
        (("backup", "data", url, "--password-file", "/no/such"), "no such file"),
        (("backup", "data", url, "--password", "plain words"), "plain words"),
        (("backup", "data", url, "-o", "x=y"), "x"),
        (("restore", "new", url, "-o", "create=false"), "no object"),
        (("snapshot", "data", "a/b"), "invalid snapshot tag"),
        (("snapshot", "data", "--consistency", "good"), "invalid consistency"),
        (("rollback", "data", "x"), "no such snapshot"),
        (("clone", "data", "x"), "too short"),
        (("rename", "data", "../up"), "invalid characters"),
        (("import", "data", "/no/such"), "cannot read"),
        (("jobs", "--cancel", "x"), "no such job"),
    ):
        done = machine.engine("volume", *arguments, check=False)
        assert done.returncode in (1, 125), (arguments, done)
        if words != "plain words":
            assert words in done.stderr, (arguments, done)
        assert "Traceback" not in done.stderr
    assert [n for n in machine.engine("volume", "ls", "-q").stdout.split() if n != "data"] == []


def test_snapshots_and_clones(machine: EngineHost) -> None:
    machine.engine("volume", "create", "-o", "size=32m", "data")
    machine.engine("run", "-d", "--name", "writer", "-v", "data:/d", "busybox", "sh", "-c",
                   "echo one > /d/file; sync; sleep 1000")  # fmt: skip
    until(lambda: machine.engine("exec", "writer", "cat", "/d/file", check=False).stdout == "one\n", "the file")
    done = machine.engine("volume", "snapshot", "data", "before")
    assert "Consistency: crash" in done.stderr
    done = machine.engine("volume", "snapshot", "--consistency", "paused", "data")
    assert "Consistency: paused" in done.stderr
    assert machine.engine("inspect", "-f", "{{.State.Status}}", "writer").stdout == "running\n"
    machine.engine("exec", "writer", "sh", "-c", "echo two > /d/file")
    machine.engine("volume", "clone", "data", "copy")
    refused = machine.engine("volume", "rollback", "data", "before", check=False)
    assert "in use" in refused.stderr
    machine.engine("rm", "-f", "writer")
    machine.engine("volume", "rollback", "data", "before")
    read = ("busybox", "cat", "/d/file")
    assert machine.engine("run", "--rm", "-v", "data:/d", *read).stdout == "one\n"
    assert machine.engine("run", "--rm", "-v", "copy:/d", *read).stdout == "two\n"
    tags = machine.engine("volume", "snapshot", "--list", "--format", "{{.Tag}}", "data").stdout.splitlines()
    assert tags[0] == "before"
    assert len(tags) == 3
    assert tags[-1].startswith("before-rollback-")
    machine.engine("volume", "snapshot", "--rm", "before", "data")
    machine.engine("volume", "rename", "copy", "renamed")
    machine.engine("volume", "update", "--label-add", "a=b", "renamed")
    assert machine.docker("volume", "ls", "-q", "-f", "label=a=b").stdout == "renamed\n"
    used = json.loads(machine.engine("volume", "usage", "--format", "json", "renamed").stdout)
    assert int(used["Bytes"]) > 0
    assert used["Files"] == "-"


def test_archives(machine: EngineHost, tmp_path: Path) -> None:
    machine.engine("run", "--rm", "-v", "data:/d", "busybox", "sh", "-c", "echo x > /d/a; ln /d/a /d/b; chown 5:6 /d/a")
    machine.engine("volume", "export", "data", "-o", str(tmp_path / "x.tar"))
    assert machine.engine("volume", "import", "copy", str(tmp_path / "x.tar")).stdout == "copy\n"
    facts = (content(machine, "copy") / "b").stat()
    assert (facts.st_uid, facts.st_gid, facts.st_nlink) == (5, 6, 2)
    piped = subprocess.run(
        [*machine.enter, "sh", "-c", "$0 volume export data -o - | gzip | $0 volume import piped -",
         str(ENGINE)],
        env=machine.environment(), capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert piped.returncode == 0, piped.stderr
    assert (content(machine, "piped") / "a").read_text() == "x\n"
    bad = machine.engine("volume", "import", "data", str(tmp_path / "x.tar"), check=False)
    assert "not empty" in bad.stderr


def test_disk_usage_and_prune(machine: EngineHost) -> None:
    write = ("dd", "if=/dev/zero", "of=/d/f", "bs=1M", "count=3")
    machine.engine("run", "--name", "user", "-v", "data:/d", "busybox", *write)
    rows = machine.docker("system", "df", "-v", "--format", "{{json .Volumes}}").stdout
    row = next(r for r in json.loads(rows) if r["Name"] == "data")
    assert (row["Links"], row["Size"][:1]) == ("1", "3")
    machine.engine("rm", "user")
    machine.engine("volume", "prune", "-a", "-f", "--filter", "until=10m")
    assert machine.engine("volume", "ls", "-q").stdout == "data\n"
    machine.engine("volume", "prune", "-a", "-f", "--filter", "until=2100-01-01")
    assert machine.engine("volume", "ls", "-q").stdout == ""


def test_the_daemon_is_killed_in_the_middle_of_a_backup(machine: EngineHost, tmp_path: Path) -> None:
    machine.engine("volume", "create", "data")
    place = content(machine, "data")
    for n in range(30):
        (place / f"f{n}").write_bytes(os.urandom(3 << 20))
    url = f"file://{tmp_path}/repository"
    job = machine.engine("volume", "backup", "-d", "data", url).stdout.strip()
    until(lambda: (tmp_path / "repository/data").exists(), "the first pack")
    machine.kill_daemon()
    machine.start_daemon()
    machine.engine("volume", "jobs", "--follow", job)
    assert machine.engine("volume", "jobs", "--format", "{{.ID}} {{.State}}", "data").stdout == f"{job} done\n"
    machine.engine("volume", "restore", "copy", url, "--of", "data")
    copy = content(machine, "copy")
    for n in range(30):
        assert (copy / f"f{n}").read_bytes() == (place / f"f{n}").read_bytes()
    machine.engine("volume", "rm", "data")
