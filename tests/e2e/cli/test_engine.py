"""The installed `engine` program against a real daemon, through the warm command line."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import select
import signal
import struct
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.host import ENGINE, SECONDS, EngineHost, until


class Terminal:
    """A command of the machine on a pseudo-terminal of 40 rows and 100 columns."""

    def __init__(self, host: EngineHost, *arguments: str, **env: str) -> None:
        argv = [*host.enter, str(ENGINE), *arguments]
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
            os.execvpe(argv[0], argv, {**host.environment(), "TERM": "xterm", **env})
        self.seen = b""
        self._at = 0

    def expect(self, text: bytes) -> None:
        """Wait for a text after the one that was waited for last."""
        deadline = time.monotonic() + SECONDS
        while (found := self.seen.find(text, self._at)) < 0:
            assert time.monotonic() < deadline, f"{text!r} did not come: {self.seen!r}"
            if select.select([self.fd], [], [], 0.1)[0]:
                try:
                    self.seen += os.read(self.fd, 65536)
                except OSError:
                    raise AssertionError(f"it ended before {text!r} came: {self.seen!r}") from None
        self._at = found + len(text)

    def type(self, data: bytes) -> None:
        os.write(self.fd, data)

    def end(self) -> int:
        """Read to the end; return the exit code."""
        deadline = time.monotonic() + SECONDS
        with contextlib.suppress(OSError):
            while time.monotonic() < deadline:
                if select.select([self.fd], [], [], 0.1)[0]:
                    self.seen += os.read(self.fd, 65536)
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        os.close(self.fd)
        return code


@pytest.fixture(autouse=True)
def _warm(host: EngineHost) -> None:
    """The warm command line is ready before a test, so that it is the one that is tested."""
    until((host.exec_root / "cli.sock").exists, "the warm command line")


@pytest.fixture
def box(host: EngineHost) -> Iterator[str]:
    """A container that sleeps."""
    host.engine("run", "-d", "--name", "box", "--network", "none", "busybox", "sleep", "1000")
    yield "box"
    host.engine("rm", "-f", "box")


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["true"], 0),
        (["sh", "-c", "exit 7"], 7),
        (["nosuch"], 127),
        (["/etc"], 126),
        (["sh", "-c", "sh -c 'kill -9 $$'; exit $?"], 137),
    ],
)
def test_exit_codes(host: EngineHost, command: list[str], code: int) -> None:
    done = host.engine("run", "--rm", "--network", "none", "busybox", *command, check=False)
    assert done.returncode == code
    assert done.stderr.count("engine: ") == (1 if code in (126, 127) else 0)
    assert host.engine("ps", "-aq").stdout == ""


def test_streams(host: EngineHost) -> None:
    script = "cat; echo err >&2; echo after"
    done = host.engine("run", "--rm", "-i", "--network", "none", "busybox", "sh", "-c", script, input="in\n" * 50_000)
    assert done.stdout == "in\n" * 50_000 + "after\n"
    assert done.stderr == "err\n"


def test_terminal_session(host: EngineHost) -> None:
    session = Terminal(host, "run", "-it", "--rm", "--network", "none", "busybox", "sh")
    session.expect(b"# ")
    session.type(b"stty size\n")
    session.expect(b"40 100")
    fcntl.ioctl(session.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 77, 0, 0))
    session.type(b"until stty size | grep '33 77'; do sleep 0.1; done\n")
    session.expect(b"\n33 77")
    session.type(b"sh -c 'echo now_$((1 + 1)); exec sleep 1000'\n")
    session.expect(b"now_2")  # only now is there something for Ctrl-C to end
    session.type(b"\x03exit 5\n")
    assert session.end() == 5


def test_detach_and_attach_again(host: EngineHost) -> None:
    session = Terminal(host, "run", "-it", "--name", "again", "--network", "none", "busybox", "sh")
    session.expect(b"# ")
    session.type(b"X=kept\n")
    session.expect(b"# ")
    session.type(b"\x10\x11")
    assert session.end() == 0
    assert host.engine("inspect", "-f", "{{.State.Running}}", "again").stdout == "true\n"
    session = Terminal(host, "attach", "again")
    session.type(b"echo got $X; exit 3\n")
    session.expect(b"got kept")
    assert session.end() == 3
    host.engine("rm", "again")


def test_signals_go_to_the_container(host: EngineHost) -> None:
    script = "trap 'echo caught; exit 4' TERM; echo ready; while :; do sleep 0.1; done"
    with host.process(str(ENGINE), "run", "--rm", "--network", "none", "busybox", "sh", "-c", script) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS) == 4
        assert process.stdout.read() == b"caught\n"


def test_exec(host: EngineHost, box: str) -> None:
    assert host.engine(
        "exec", "-i", "-e", "A=1", "-w", "/tmp", box, "sh", "-c", "pwd; echo $A; cat", input="x"
    ).stdout == ("/tmp\n1\nx")
    assert host.engine("exec", box, "sh", "-c", "exit 9", check=False).returncode == 9
    assert host.engine("exec", box, "nosuch", check=False).returncode == 127
    session = Terminal(host, "exec", "-it", box, "sh")
    session.expect(b"# ")
    session.type(b"tty; exit 6\n")
    session.expect(b"/dev/pts/")
    assert session.end() == 6


def test_copy(host: EngineHost, box: str, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub" / "file").write_text("data")
    (tree / "sub" / "file").chmod(0o4755)
    (tree / "link").symlink_to("sub/file")
    host.engine("cp", str(tree), f"{box}:/tmp")
    assert host.engine("exec", box, "cat", "/tmp/tree/link").stdout == "data"
    host.engine("cp", f"{box}:/tmp/tree/.", str(tmp_path / "back"))
    assert (tmp_path / "back" / "link").readlink() == Path("sub/file")
    assert (tmp_path / "back" / "sub" / "file").stat().st_mode & 0o7777 == 0o4755
    gone = host.engine("cp", f"{box}:/nothing", str(tmp_path), check=False)
    assert (gone.returncode, gone.stderr) == (1, f"engine: there is no /nothing in container {box}\n")


def test_logs(host: EngineHost) -> None:
    host.engine("run", "-d", "--name", "talk", "--network", "none", "busybox", "sh", "-c",
                "for i in 1 2 3; do echo o$i; echo e$i >&2; done; sleep 1000")  # fmt: skip
    until(lambda: "o3" in host.engine("logs", "talk").stdout, "the output in the log")
    assert len(host.engine("logs", "--tail", "6", "talk").stdout.split()) == 3
    done = host.engine("logs", "--tail", "2", "talk")
    assert len((done.stdout + done.stderr).split()) == 2
    assert host.engine("logs", "-t", "talk").stdout.split()[0].startswith("20")
    with host.process(str(ENGINE), "logs", "-f", "talk") as follower:
        assert follower.stdout is not None
        assert [follower.stdout.readline() for _ in range(3)] == [b"o1\n", b"o2\n", b"o3\n"]
        host.engine("rm", "-f", "talk")
        assert follower.wait(SECONDS) == 0


def test_the_warm_and_the_full_command_line_say_the_same(host: EngineHost, box: str) -> None:
    for arguments in (
        ["ps", "--no-trunc", "--format", "{{json .ID}} {{.Names}}"], ["inspect", box], ["network", "ls"], ["frob"],
        ["run", "--help"], ["images", "-q"], ["driver", "ls", "-q"], ["inspect", "none-such"],
    ):  # fmt: skip
        warm = host.engine(*arguments, check=False)
        full = host.run("env", "ENGINE_CLI=full", str(ENGINE), *arguments, check=False)
        assert (warm.returncode, warm.stdout, warm.stderr) == (full.returncode, full.stdout, full.stderr)


def test_objects(host: EngineHost, box: str) -> None:
    assert json.loads(host.engine("inspect", "busybox").stdout)[0]["RepoTags"] == ["busybox:latest"]
    assert host.engine("rename", box, "renamed").returncode == 0
    assert host.engine("ps", "--filter", "name=renamed", "--format", "{{.Names}}").stdout == "renamed\n"
    host.engine("rename", "renamed", box)
    host.engine("network", "create", "--subnet", "10.77.0.0/24", "-o", "mtu=1400", "net1")
    assert (
        host.engine("network", "inspect", "-f", "{{(index .IPAM.Config 0).Subnet}}", "net1").stdout == "10.77.0.0/24\n"
    )
    assert "link/host/br-" in host.engine("network", "plan", "net1").stdout
    host.engine("network", "rm", "net1")
    host.engine("volume", "create", "--label", "a=b", "vol1")
    assert host.engine("volume", "ls", "-q", "--filter", "label=a=b").stdout == "vol1\n"
    host.engine("volume", "rm", "vol1")
    assert host.engine("doctor").stdout == "Everything is as it should be.\n"


def test_net_driver(host: EngineHost) -> None:
    done = host.engine("--net-driver", "macvlan", "--net-opt", "parent=eth0", "run", "--rm", "busybox", "ip", "addr")
    assert "eth0" in done.stdout
    wrong = host.engine("run", "--rm", "--net-driver", "macvlna", "busybox", "true", check=False)
    assert wrong.returncode == 125
    assert "macvlan" in wrong.stderr
    text = host.engine("run", "--net-driver", "macvlan", "--help").stdout
    assert "mode=bridge|private|vepa|passthru" in text


EMBEDDED = """
mount -t tmpfs none {data} && mount -t tmpfs none {run} || exit 90
"{python}" -c '
import sys
from engine.cli import embedded
from engine.cli.app import main
embedded.IDLE_SECONDS = 1
sys.exit(main(["run", "--rm", "--network", "none", "engine.local/host", "sh", "-c", "echo inside; exit 5"]))
'
echo code $?
for i in $(seq 600); do [ -S {run}/engine.sock ] || break; sleep 0.1; done
[ -S {run}/engine.sock ] && echo still there
cat {data}/daemon.log
"""


def test_a_daemon_is_started_for_the_first_command(host: EngineHost) -> None:
    """In a mount namespace with the default directories empty: it serves the command, and stops when it is idle."""
    made = [path for path in (Path("/run/engine"), Path("/var/lib/engine")) if not path.exists()]
    for path in made:
        path.mkdir()
    script = EMBEDDED.format(data="/var/lib/engine", run="/run/engine", python=sys.executable)
    try:
        done = host.run(
            "env",
            "-u",
            "ENGINE_HOST",
            "unshare",
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            script,
            timeout=120,
        )
    finally:
        for path in made:
            path.rmdir()
    assert "inside\ncode 5\n" in done.stdout
    assert "ready after" in done.stdout
    assert "idle for" in done.stdout
    assert "still there" not in done.stdout
