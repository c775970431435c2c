"""The stub and the warm command line: what is imported, what the command sees, signals, and when it is refused."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from engine import cli as stub
from engine.cli.warm import Request

from .conftest import STUB, environment, wait_until
from .fake_daemon import SECONDS, Answer, FakeContainer, FakeDaemon, frame

HEAVY = {
    "typer", "click", "rich", "pydantic", "pluggy", "http", "http.client", "pyroute2", "asyncio", "json", "socket",
    "signal", "subprocess", "pathlib", "enum", "re", "typing", "collections", "argparse", "ssl", "selectors",
}  # fmt: skip


def _engine(
    daemon: FakeDaemon, *arguments: str, given: bytes = b"", cwd: Path | None = None, **env: str
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-c", STUB, "-H", daemon.host, *arguments],
        input=given, capture_output=True, cwd=cwd, env=environment(**env), timeout=SECONDS, check=False,
    )  # fmt: skip


def test_the_fast_path_imports_almost_nothing() -> None:
    """As the console script would, in an interpreter without site packages' own imports."""
    core = Path(stub.__file__).parents[2]
    code = (
        f"import sys; sys.path.insert(0, {str(core)!r}); before = set(sys.modules); import engine.cli as c;"
        "c._warm('/nonexistent/engine.sock', ['ps']); c._daemon_socket(['-H', 'unix:///x', 'ps']); c.world();"
        "print(*sorted(set(sys.modules) - before)); print(*sorted(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, timeout=SECONDS, check=True
    )
    added, all_of_them = (set(line.split()) for line in done.stdout.splitlines())
    assert added == {"engine", "engine.cli", "_socket"}
    assert not all_of_them & HEAVY


@pytest.mark.parametrize(
    ("arguments", "host", "expected"),
    [
        (["ps"], "", "/run/engine/engine.sock"),
        ([], "", "/run/engine/engine.sock"),
        (["-H", "unix:///a/b", "ps"], "", "/a/b"),
        (["-Hunix:///a/b", "ps"], "", "/a/b"),
        (["--host=unix:///a/b", "ps"], "unix:///other", "/a/b"),
        (["--host", "unix:///a/b", "ps"], "", "/a/b"),
        (["--net-driver", "macvlan", "-H", "unix:///a/b", "run"], "", "/a/b"),
        (["ps", "-H", "unix:///a/b"], "unix:///e", "/e"),
        (["ps"], "tcp://1.2.3.4:1", ""),
        (["-H", "tcp://1.2.3.4:1", "ps"], "unix:///e", ""),
        (["daemon"], "", ""),
        (["--net-driver", "daemon", "ps"], "", "/run/engine/engine.sock"),
        (["-H"], "", ""),
    ],
)
def test_which_daemon_a_command_is_for(
    arguments: list[str], host: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENGINE_HOST", host)
    if arguments == ["-H"]:
        expected = "/run/engine/engine.sock"  # the full command line, warm or not, says what is missing
    assert stub._daemon_socket(arguments) == expected


def test_output_exit_code_and_errors(daemon: FakeDaemon, warm: subprocess.Popen[bytes]) -> None:
    daemon.routes["GET /containers/json"] = Answer(200, [])
    listed = _engine(daemon, "ps")
    assert (listed.returncode, listed.stdout[:12], listed.stderr) == (0, b"CONTAINER ID", b"")
    wrong = _engine(daemon, "frobnicate")
    assert wrong.returncode == 1
    assert wrong.stderr.startswith(b"engine: unknown command")


def test_it_was_really_the_warm_one(daemon: FakeDaemon, warm: subprocess.Popen[bytes]) -> None:
    """The command's process is a child of the warm server."""
    parents = []

    def program(connection: socket.socket, _container: FakeContainer) -> int:
        children = Path(f"/proc/{warm.pid}/task/{warm.pid}/children").read_text().split()
        parents.extend(children)
        connection.sendall(frame(1, b"x"))
        connection.close()
        return 5

    FakeContainer(daemon, program).install()
    assert _engine(daemon, "run", "image").returncode == 5
    assert len(parents) >= 1
    assert daemon.requests


def test_the_command_sees_the_callers_world(daemon: FakeDaemon, warm: subprocess.Popen[bytes], tmp_path: Path) -> None:
    """stdin, environment, directory, umask."""

    def program(connection: socket.socket, _container: FakeContainer) -> int:
        data = b""
        while part := connection.recv(1000):
            data += part
        connection.sendall(frame(1, data.upper()))
        connection.close()
        return 0

    FakeContainer(daemon, program).install()
    before = os.umask(0o027)
    try:
        done = _engine(
            daemon, "run", "-i", "-e", "SEEN", "-v", "./sub:/x", "--cidfile", "cid", "image",
            given=b"hello\n", cwd=tmp_path, SEEN="value",
        )  # fmt: skip
    finally:
        os.umask(before)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"HELLO\n", b"")
    body = daemon.sent("POST", "/containers/create")[0].json
    assert body["Env"] == ["SEEN=value"]
    assert body["HostConfig"]["Binds"] == [f"{tmp_path}/sub:/x"]
    assert (tmp_path / "cid").stat().st_mode & 0o777 == 0o640


def test_many_at_once(daemon: FakeDaemon, warm: subprocess.Popen[bytes]) -> None:
    daemon.routes["GET /containers/[^/]+/json"] = lambda r: Answer(200, {"Name": r.path.split("/")[2]})
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", STUB, "-H", daemon.host, "inspect", "-f", "{{.Name}}", f"c{n}"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(),
        )
        for n in range(8)
    ]  # fmt: skip
    for n, process in enumerate(processes):
        out, err = process.communicate(timeout=SECONDS)
        assert (process.returncode, out, err) == (0, b"c%d\n" % n, b"")


def _waiting(connection: socket.socket, container: FakeContainer) -> int:
    connection.sendall(frame(1, b"ready\n"))
    container.until(lambda: bool(container.signals))
    connection.close()
    return 42


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_signals_reach_the_container(
    daemon: FakeDaemon, warm: subprocess.Popen[bytes], number: signal.Signals, full: bool
) -> None:
    container = FakeContainer(daemon, _waiting).install()
    with subprocess.Popen(
        [sys.executable, "-c", STUB, "-H", daemon.host, "run", "image"],
        stdout=subprocess.PIPE, env=environment(**({"ENGINE_CLI": "full"} if full else {})),
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(number)
        assert process.wait(SECONDS) == 42
    assert container.signals == [number.name]


def test_interrupt_ends_other_commands(daemon: FakeDaemon, warm: subprocess.Popen[bytes]) -> None:
    held = threading.Event()
    asked = threading.Event()

    def events(_request: object) -> None:
        asked.set()
        held.wait(SECONDS)

    daemon.routes["GET /events"] = events
    with subprocess.Popen([sys.executable, "-c", STUB, "-H", daemon.host, "events"], env=environment()) as process:
        assert asked.wait(SECONDS)
        process.send_signal(signal.SIGINT)
        assert process.wait(SECONDS) == 130
    held.set()


def test_the_death_of_the_stub_ends_the_command(daemon: FakeDaemon, warm: subprocess.Popen[bytes]) -> None:
    closed = threading.Event()

    def program(connection: socket.socket, _container: FakeContainer) -> int:
        connection.sendall(frame(1, b"ready\n"))
        if not connection.recv(1):
            closed.set()
        return 0

    FakeContainer(daemon, program).install()
    with subprocess.Popen(
        [sys.executable, "-c", STUB, "-H", daemon.host, "run", "-i", "image"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment(),
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.kill()
        assert closed.wait(SECONDS)


def test_the_death_of_the_command_is_reported(daemon: FakeDaemon, warm: subprocess.Popen[bytes]) -> None:
    ready = threading.Event()

    def program(connection: socket.socket, _container: FakeContainer) -> int:
        ready.set()
        connection.recv(1)
        return 0

    FakeContainer(daemon, program).install()
    with subprocess.Popen(
        [sys.executable, "-c", STUB, "-H", daemon.host, "run", "-i", "image"], stdin=subprocess.PIPE, env=environment()
    ) as process:
        assert ready.wait(SECONDS)
        for child in Path(f"/proc/{warm.pid}/task/{warm.pid}/children").read_text().split():
            os.kill(int(child), signal.SIGKILL)
        assert process.wait(SECONDS) == 137
    assert _engine(daemon, "--version").returncode == 0  # it goes on, with a new child ahead


def _talk(path: Path, message: bytes, descriptors: list[int]) -> bytes:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.settimeout(SECONDS)
        connection.connect(str(path))
        if descriptors:
            socket.send_fds(connection, [message], descriptors)
        else:
            connection.send(message)
        return connection.recv(64)


def _request(daemon: FakeDaemon, **changed: str) -> bytes:
    fields = {"version": stub.VERSION, "host": str(daemon.path), "world": stub.world(), "umask": "18", "count": "1"}
    return "\0".join([*{**fields, **changed}.values(), "--version", "PATH=/bin"]).encode()


def test_another_world_is_refused(daemon: FakeDaemon, warm: subprocess.Popen[bytes]) -> None:
    path = daemon.path.with_name("cli.sock")
    null, here = os.open(os.devnull, os.O_RDWR), os.open("/", os.O_PATH)
    try:
        for changed in ({"host": "/other.sock"}, {"world": "mnt:[1] net:[2]"}, {"version": "0"}, {"umask": "x"}):
            assert _talk(path, _request(daemon, **changed), [null] * 4) == b"refused"
        assert _talk(path, _request(daemon), [null] * 3) == b"refused"
        assert _talk(path, _request(daemon), []) == b"refused"
        assert _talk(path, b"", [null] * 4) in (b"refused", b"")
        assert _talk(path, _request(daemon), [null] * 3 + [here]) == b"taken"
    finally:
        os.close(null)
        os.close(here)
    assert warm.poll() is None


def test_a_refusal_falls_back_to_the_full_command_line(daemon: FakeDaemon, warm: subprocess.Popen[bytes]) -> None:
    """A socket file of another daemon lies beside ours: the host differs, and the command still works."""
    daemon.routes["GET /containers/json"] = Answer(200, [])
    link = daemon.path.with_name("other.sock")
    link.symlink_to(daemon.path)
    done = subprocess.run(
        [sys.executable, "-c", STUB, "-H", f"unix://{link}", "ps"],
        capture_output=True, env=environment(), timeout=SECONDS, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout[:12]) == (0, b"CONTAINER ID")


def test_no_warm_one_and_too_long_a_line(daemon: FakeDaemon, warm: subprocess.Popen[bytes]) -> None:
    daemon.routes["GET /containers/json"] = Answer(200, [])
    done = _engine(daemon, "ps", BIG="x" * 100_000, BIG2="y" * 120_000, BIG3="z" * 120_000)
    assert done.returncode == 0
    assert warm.stdin is not None
    warm.stdin.close()
    warm.wait(SECONDS)
    assert not daemon.path.with_name("cli.sock").exists()
    assert _engine(daemon, "ps").returncode == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
def test_another_user_is_not_served(daemon: FakeDaemon, warm: subprocess.Popen[bytes]) -> None:
    path = daemon.path.with_name("cli.sock")
    path.chmod(0o666)
    daemon.path.parent.chmod(0o755)
    code = (
        f"import os, socket; os.setuid(65534); s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET);"
        f"s.settimeout({SECONDS}); s.connect({str(path)!r}); print(s.recv(10))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.stdout == "b''\n"


def test_it_ends_with_the_daemon(daemon: FakeDaemon) -> None:
    """Killed with SIGKILL, a daemon leaves no warm command line behind."""
    path = daemon.path.with_name("cli.sock")
    code = (
        "import subprocess, sys, time\n"
        f"p = subprocess.Popen([sys.executable, '-I', '-m', 'engine.cli.warm', {str(path)!r}, {daemon.host!r}],"
        " stdin=subprocess.PIPE)\n"
        "print(p.pid, flush=True); time.sleep(100)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        wait_until(path.exists)
        parent.kill()
    wait_until(lambda: not path.exists())
    wait_until(lambda: not Path(f"/proc/{pid}").exists() or "Z (zombie)" in Path(f"/proc/{pid}/status").read_text())


def test_requests_are_parsed_strictly() -> None:
    assert Request.parse(b"1\0/h\0w\00018\0001\0ps\0A=b=c\0\xff=\xfe") == Request(
        "/h", "w", 18, ["ps"], {"A": "b=c", "\udcff": "\udcfe"}
    )
    for bad in (b"", b"1", b"2\0h\0w\0001\0000", b"1\0h\0w\0x\0000", b"1\0h\0w\0001\0-1"):
        assert Request.parse(bad) is None
