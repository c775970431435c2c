"""What is done with containers after their start, by both command lines."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import select
import signal
import struct
import tarfile
import termios
import time
from pathlib import Path
from typing import Any

import pytest
from tests.host import ENGINE, EngineHost, until

from .conftest import Cli


def inspect(cli: Cli, name: str) -> Any:
    return json.loads(cli("inspect", name).stdout)[0]


def program(cli: Cli) -> str:
    """Return the program of a command line, for processes that go on in the background."""
    return str(ENGINE) if "engine" in cli.__name__ else "docker"  # type: ignore[attr-defined]


@pytest.fixture
def sleeper(cli: Cli, clean: EngineHost) -> str:
    cli("run", "-d", "--name", "sleeper", "busybox", "sleep", "1000")
    return "sleeper"


def test_logs(cli: Cli, clean: EngineHost) -> None:
    cli("run", "--name", "talker", "busybox", "sh", "-c", "for n in 1 2 3; do echo line $n; done; echo err >&2")
    done = cli("logs", "talker")
    assert (done.stdout, done.stderr) == ("line 1\nline 2\nline 3\n", "err\n")
    assert cli("logs", "--tail", "1", "talker").stderr == "err\n"
    stamped = cli("logs", "-t", "talker").stdout.splitlines()[0]
    stamp, _, text = stamped.partition(" ")
    assert text == "line 1"
    assert stamp.endswith("Z")
    assert cli("logs", "--since", stamp, "talker").stdout == "line 1\nline 2\nline 3\n"
    assert cli("logs", "--since", "2099-01-01T00:00:00Z", "talker").stdout == ""
    assert cli("logs", "--until", "2001-01-01T00:00:00Z", "talker").stdout == ""


def test_logs_are_followed_to_the_end(cli: Cli, clean: EngineHost) -> None:
    cli("run", "-d", "--name", "slow", "busybox", "sh", "-c", "echo one; sleep 1; echo two")
    assert cli("logs", "-f", "slow").stdout == "one\ntwo\n"


def test_exec(cli: Cli, sleeper: str) -> None:
    assert cli("exec", sleeper, "sh", "-c", "exit 9", check=False).returncode == 9
    done = cli("exec", "-i", "-e", "A=b", "-w", "/tmp", "-u", "nobody", sleeper, "sh", "-c",
               "cat; echo $A; pwd; id -u; echo err >&2", input="in\n")  # fmt: skip
    assert (done.stdout, done.stderr) == ("in\nb\n/tmp\n65534\n", "err\n")
    assert cli("exec", sleeper, "no-such-program", check=False).returncode == 127
    assert cli("exec", sleeper, "/etc/passwd", check=False).returncode == 126
    cli("exec", "-d", sleeper, "touch", "/made")
    until(lambda: cli("exec", sleeper, "test", "-e", "/made", check=False).returncode == 0, "the detached command")


def test_exec_needs_a_running_container(cli: Cli, clean: EngineHost) -> None:
    cli("create", "--name", "idle", "busybox", "true")
    done = cli("exec", "idle", "true", check=False)
    assert done.returncode == 1
    assert "not running" in done.stderr


def test_exec_on_a_terminal_that_is_resized(cli: Cli, host: EngineHost, sleeper: str) -> None:
    master, slave = pty.openpty()
    try:
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 101, 0, 0))
        script = "until stty size | grep .; do sleep .1; done; read x; stty size; echo $x"
        argv = [program(cli), "exec", "-it", sleeper, "sh", "-c", script]
        with host.process(*argv, stdin=slave, stdout=slave, stderr=slave, start_new_session=True) as process:
            os.close(slave)
            seen = _until_read(master, b"33 101")
            fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 44, 102, 0, 0))
            process.send_signal(signal.SIGWINCH)
            time.sleep(0.5)
            os.write(master, b"typed\n")
            seen = _until_read(master, b"44 102", seen)
            seen = _until_read(master, b"typed\r\n", seen.rpartition(b"44 102")[2])
            assert process.wait(20) == 0
    finally:
        os.close(master)


def _until_read(fd: int, wanted: bytes, seen: bytes = b"") -> bytes:
    deadline = time.monotonic() + 20
    while wanted not in seen:
        assert time.monotonic() < deadline, (wanted, seen)
        if select.select([fd], [], [], 0.2)[0]:
            seen += os.read(fd, 4096)
    return seen


def test_attach(cli: Cli, host: EngineHost, clean: EngineHost) -> None:
    cli("run", "-d", "-i", "--name", "echoer", "busybox", "sh", "-c", "read x; echo got $x; exit 4")
    with host.process(program(cli), "attach", "echoer") as process:
        out, _ = process.communicate(b"word\n", timeout=30)
        assert out == b"got word\n"
        assert process.returncode == 4


def test_copy(cli: Cli, clean: EngineHost, sleeper: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_text("content")
    (source / "link").symlink_to("file")
    (source / "file").chmod(0o751)
    cli("cp", str(source), f"{sleeper}:/tmp")
    assert cli("exec", sleeper, "sh", "-c", "cd /tmp/source; cat link; stat -c %a file").stdout == "content751\n"
    cli("cp", f"{sleeper}:/tmp/source/.", str(tmp_path / "back"))
    assert (tmp_path / "back" / "file").read_text() == "content"
    assert (tmp_path / "back" / "link").is_symlink()
    cli("stop", "-t", "0", sleeper)
    cli("cp", f"{sleeper}:/.", str(tmp_path / "everything"))
    assert (tmp_path / "everything" / "tmp" / "source" / "file").read_text() == "content"
    cli("start", sleeper)
    archive = cli("cp", f"{sleeper}:/tmp/source/file", "-").stdout
    with tarfile.open(fileobj=io.BytesIO(archive.encode(errors="surrogateescape"))) as tar:
        assert tar.getnames() == ["file"]
    cli("stop", "-t", "0", sleeper)
    cli("cp", str(source / "file"), f"{sleeper}:/renamed")
    cli("cp", f"{sleeper}:/renamed", str(tmp_path / "renamed"))
    assert (tmp_path / "renamed").read_text() == "content"
    done = cli("cp", f"{sleeper}:/absent", str(tmp_path), check=False)
    assert done.returncode == 1
    assert "/absent" in done.stderr


def test_a_container_makes_two_thousand_directories_within_each_other(cli: Cli, clean: EngineHost) -> None:
    nest = "cd /tmp; i=0; while [ $i -lt 2000 ]; do mkdir d; cd d; i=$((i+1)); done; echo deep"
    assert cli("run", "--name", "nesting", "busybox", "sh", "-c", nest).stdout == "deep\n"
    assert len(cli("diff", "nesting").stdout.splitlines()) == 2001
    assert "nesting" in cli("ps", "-a", "-s").stdout
    cli("commit", "nesting", "nested")
    assert cli("run", "--rm", "nested", "sh", "-c", "cd /tmp/d/d/d && pwd").stdout == "/tmp/d/d/d\n"
    cli("rmi", "nested")
    cli("rm", "nesting")


def test_stats_and_top(cli: Cli, sleeper: str) -> None:
    line = cli("stats", "--no-stream", "--format", "{{.Name}} {{.PIDs}} {{.MemUsage}}", sleeper).stdout.split()
    assert line[:2] == ["sleeper", "1"]
    assert cli("stats", "--no-stream").stdout.count("\n") == 2
    rows = cli("top", sleeper).stdout.splitlines()
    assert rows[0].split()[:2] == ["UID", "PID"]
    assert "sleep 1000" in rows[1]
    assert len(cli("top", sleeper, "-o", "pid,comm").stdout.splitlines()) == 2


def test_wait_and_kill(cli: Cli, host: EngineHost, sleeper: str) -> None:
    with host.process(program(cli), "wait", sleeper) as process:
        time.sleep(0.3)
        cli("kill", sleeper)
        out, _ = process.communicate(timeout=30)
        assert out == b"137\n"
    assert cli("wait", sleeper).stdout == "137\n"
    done = cli("kill", sleeper, check=False)
    assert done.returncode == 1
    assert "not running" in done.stderr


def test_start_stop_restart(cli: Cli, sleeper: str) -> None:
    first = inspect(cli, sleeper)["State"]
    cli("restart", "-t", "0", sleeper)
    second = inspect(cli, sleeper)["State"]
    assert second["Running"]
    assert second["StartedAt"] > first["StartedAt"]
    cli("stop", "-t", "0", sleeper)
    cli("stop", sleeper)  # once more is no error
    assert inspect(cli, sleeper)["State"]["ExitCode"] == 137
    cli("start", sleeper)
    cli("start", sleeper)
    assert cli("rm", sleeper, check=False).returncode == 1
    cli("rm", "-f", sleeper)


def test_start_attached(cli: Cli, clean: EngineHost) -> None:
    cli("create", "-i", "--name", "later", "busybox", "sh", "-c", "cat; exit 6")
    done = cli("start", "-a", "-i", "later", input="now\n", check=False)
    assert (done.stdout, done.returncode) == ("now\n", 6)


def test_rename_and_pause(cli: Cli, sleeper: str) -> None:
    cli("rename", sleeper, "renamed")
    cli("pause", "renamed")
    assert inspect(cli, "renamed")["State"]["Status"] == "paused"
    assert cli("exec", "renamed", "true", check=False).returncode == 1
    assert cli("pause", "renamed", check=False).returncode == 1
    cli("unpause", "renamed")
    cli("exec", "renamed", "true")
    cli("pause", "renamed")
    cli("rm", "-f", "renamed")


def test_diff_commit_export_import(cli: Cli, clean: EngineHost, sleeper: str, tmp_path: Path) -> None:
    cli("exec", sleeper, "sh", "-c", "echo new > /new; rm /etc/group; echo x >> /etc/passwd")
    assert sorted(cli("diff", sleeper).stdout.splitlines()) == ["A /new", "C /etc", "C /etc/passwd", "D /etc/group"]
    cli("commit", "-c", "ENV A=b", "-m", "message", sleeper, "mine:1")
    assert cli("run", "--rm", "mine:1", "sh", "-c", "cat /new; echo $A; ls /etc/group 2>&1 || true").stdout.startswith(
        "new\nb\n"
    )
    cli("rmi", "mine:1")
    archive = tmp_path / "root.tar"
    cli("export", "-o", str(archive), sleeper)
    with tarfile.open(archive) as tar:
        names = tar.getnames()
    assert "new" in names
    assert "etc/group" not in names
    cli("import", "-c", 'CMD ["cat", "/new"]', str(archive), "flat:1")
    assert cli("run", "--rm", "flat:1").stdout == "new\n"
    cli("rmi", "flat:1")


def test_save_and_load(cli: Cli, clean: EngineHost, tmp_path: Path) -> None:
    cli("tag", "busybox", "other:1")
    archive = tmp_path / "other.tar"
    cli("save", "-o", str(archive), "other:1")
    cli("rmi", "other:1")
    assert "other:1" in cli("load", "-i", str(archive)).stdout
    assert cli("run", "--rm", "other:1", "echo", "ok").stdout == "ok\n"
    assert "busybox" in cli("history", "other:1").stdout or cli("history", "-q", "other:1").stdout
    cli("rmi", "other:1")


def test_events(cli: Cli, clean: EngineHost) -> None:
    since = str(int(time.time()))
    cli("run", "--rm", "--name", "eventful", "busybox", "true")
    until(lambda: not cli("ps", "-aq").stdout, "the removal")
    lines = cli("events", "--since", since, "--until", str(int(time.time()) + 1), "--format", "{{.Type}} {{.Action}}",
                "--filter", "container=eventful").stdout.splitlines()  # fmt: skip
    wanted = ["container create", "container start", "container die", "container destroy"]
    assert [line for line in lines if line in wanted] == wanted


def test_prune(cli: Cli, clean: EngineHost) -> None:
    cli("run", "--name", "ended", "busybox", "true")
    cli("run", "-d", "--name", "living", "busybox", "sleep", "1000")
    assert "Deleted Containers" in cli("container", "prune", "-f").stdout
    assert cli("ps", "-a", "--format", "{{.Names}}").stdout == "living\n"
    cli("system", "prune", "-f")
    assert cli("ps", "--format", "{{.Names}}").stdout == "living\n"
    assert "busybox" in cli("images").stdout


def test_version_and_info(cli: Cli, host: EngineHost) -> None:
    assert cli("version", "--format", "{{.Server.Version}}").stdout.strip()
    assert json.loads(cli("info", "--format", "json" if program(cli) != "docker" else "{{json .}}").stdout)["ID"]
