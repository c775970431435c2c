"""Sessions on a real pseudo-terminal, by the warm command line and by the full one."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import socket
import struct
import subprocess
import sys
import termios
import time

import pytest

from .conftest import STUB, environment
from .fake_daemon import SECONDS, Answer, FakeContainer, FakeDaemon, Request


class Session:
    """A command whose controlling terminal is a pseudo-terminal of 40 rows and 100 columns."""

    def __init__(self, daemon: FakeDaemon, *arguments: str, full: bool) -> None:
        env = environment(**({"ENGINE_CLI": "full"} if full else {}))
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            size = struct.pack("HHHH", 40, 100, 0, 0)
            fcntl.ioctl(0, termios.TIOCSWINSZ, size)
            os.execve(sys.executable, [sys.executable, "-c", STUB, "-H", daemon.host, *arguments], env)
        self.seen = b""

    def expect(self, text: bytes) -> None:
        deadline = time.monotonic() + SECONDS
        while text not in self.seen:
            assert time.monotonic() < deadline, f"{text!r} did not come: {self.seen!r}"
            if select.select([self.fd], [], [], 0.1)[0]:
                self.seen += os.read(self.fd, 65536)

    def type(self, data: bytes) -> None:
        os.write(self.fd, data)

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def is_raw(self) -> bool:
        return not termios.tcgetattr(self.fd)[3] & (termios.ICANON | termios.ECHO)

    def end(self) -> int:
        """Read to the end and return the exit code."""
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            try:
                if select.select([self.fd], [], [], 0.1)[0]:
                    self.seen += os.read(self.fd, 65536)
            except OSError:
                break
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def _echo(connection: socket.socket, _container: FakeContainer) -> int:
    connection.sendall(b"ready ")
    while data := connection.recv(1000):
        connection.sendall(b"<" + data + b">")
        if b"q" in data:
            connection.close()
            return 9
    return 1


@pytest.fixture(params=["warm", "full"])
def full(request: pytest.FixtureRequest) -> bool:
    if request.param == "warm":
        request.getfixturevalue("warm")
    return bool(request.param == "full")


def test_terminal_session(daemon: FakeDaemon, full: bool) -> None:
    container = FakeContainer(daemon, _echo, tty=True).install()
    session = Session(daemon, "run", "-it", "image", full=full)
    session.expect(b"ready")
    assert container.until(lambda: (40, 100) in container.sizes)
    assert session.is_raw()
    session.type(b"a\x03\x04")
    session.expect(b"<a\x03\x04>")
    session.resize(33, 77)
    assert container.until(lambda: (33, 77) in container.sizes)
    session.type(b"q")
    session.expect(b"<q>")
    assert session.end() == 9
    assert container.signals == []


def test_a_start_that_takes_long_is_announced_and_given_up(daemon: FakeDaemon, full: bool) -> None:
    container = FakeContainer(daemon, _echo, tty=True).install()

    def start(_request: Request) -> Answer:
        assert container.until(lambda: bool(container.signals))
        return Answer(409, {"message": "given up"})

    daemon.routes["POST /containers/[^/]+/start"] = start
    session = Session(daemon, "run", "-it", "image", full=full)
    session.expect(b"is still starting")
    session.type(b"\x03")
    assert session.end() == 130
    assert container.signals == ["SIGINT"]


def test_the_terminal_is_restored(daemon: FakeDaemon, full: bool) -> None:
    """A shell keeps the terminal open: its settings are looked at after the command."""
    FakeContainer(daemon, _echo, tty=True).install()
    env = environment(**({"ENGINE_CLI": "full"} if full else {}))
    pid, fd = pty.fork()
    if pid == 0:
        command = f"'{sys.executable}' -c '{STUB}' -H {daemon.host} run -it image; echo code $?; read line"
        os.execve("/bin/sh", ["/bin/sh", "-c", command], env)
    session = Session.__new__(Session)
    session.pid, session.fd, session.seen = pid, fd, b""
    before = termios.tcgetattr(fd)
    session.expect(b"ready")
    assert session.is_raw()
    session.type(b"q")
    session.expect(b"code 9")
    assert termios.tcgetattr(fd) == before
    session.type(b"\n")
    assert session.end() == 0


def test_detaching(daemon: FakeDaemon, full: bool) -> None:
    """What was typed before the keys, even at once with them, has reached the container; the keys have not."""
    received: list[bytes] = []

    def program(connection: socket.socket, _container: FakeContainer) -> int:
        connection.sendall(b"ready ")
        while data := connection.recv(1000):
            received.append(data)
            if data.endswith(b"y"):
                connection.sendall(b"seen")
        return 1

    container = FakeContainer(daemon, program, tty=True).install()
    session = Session(daemon, "run", "-it", "image", full=full)
    session.expect(b"ready")
    session.type(b"x\x10y")
    session.expect(b"seen")
    session.type(b"last\x10\x11")
    assert session.end() == 0
    assert b"read escape sequence" in session.seen
    assert container.ended.wait(SECONDS)
    assert b"".join(received) == b"x\x10ylast"


def test_a_failed_start_restores_the_terminal(daemon: FakeDaemon, full: bool) -> None:
    FakeContainer(daemon, _echo, tty=True, start_error=Answer(500, {"message": "no such device"})).install()
    session = Session(daemon, "run", "-it", "image", full=full)
    assert session.end() == 125
    assert b"engine: no such device\r\n" in session.seen


def test_interrupt_without_a_terminal_in_the_container(daemon: FakeDaemon, full: bool) -> None:
    """ctrl-C on our terminal becomes SIGINT of the container's process."""

    def program(connection: socket.socket, container: FakeContainer) -> int:
        connection.sendall(b"\x01\0\0\0\0\0\0\x05ready")
        container.until(lambda: bool(container.signals))
        connection.close()
        return 3

    container = FakeContainer(daemon, program).install()
    session = Session(daemon, "run", "image", full=full)
    session.expect(b"ready")
    session.type(b"\x03")
    assert session.end() == 3
    assert container.signals == ["SIGINT"]


def test_the_password_is_not_echoed(daemon: FakeDaemon, full: bool, tmp_path: object) -> None:
    daemon.routes["POST /auth"] = Answer(200, {"Status": "Login Succeeded"})
    os.environ["XDG_CONFIG_HOME"] = str(daemon.path.parent / "config")
    try:
        session = Session(daemon, "login", "r.example", full=full)
    finally:
        del os.environ["XDG_CONFIG_HOME"]
    session.expect(b"Username: ")
    session.type(b"alice\n")
    session.expect(b"Password: ")
    session.type(b"secret\n")
    assert session.end() == 0, session.seen
    assert b"secret" not in session.seen
    assert daemon.requests[-1].json["password"] == "secret"


def test_pull_redraws_a_line_for_each_layer(daemon: FakeDaemon, full: bool) -> None:
    def line(identifier: str, current: int) -> bytes:
        return b'{"status":"Downloading","id":"%s","progressDetail":{"current":%d,"total":100}}\n' % (
            identifier.encode(), current,
        )  # fmt: skip

    daemon.routes["POST /images/create"] = Answer(
        200, [line("aa", 10), line("bb", 20), line("aa", 50), line("aa", 100)]
    )
    session = Session(daemon, "pull", "r.example/i", full=full)
    assert session.end() == 0
    assert b"aa: Downloading [" in session.seen
    assert b"\x1b[2A\r\x1b[2Kaa: Downloading [" in session.seen
    assert b"100B/100B" in session.seen


def test_the_answer_to_prune_is_no_by_default(daemon: FakeDaemon, full: bool) -> None:
    session = Session(daemon, "volume", "prune", full=full)
    session.expect(b"[y/N]")
    session.type(b"\n")
    assert session.end() == 0
    assert not daemon.requests


def test_input_of_a_pipe_is_no_terminal(daemon: FakeDaemon) -> None:
    done = subprocess.run(
        [sys.executable, "-c", STUB, "-H", daemon.host, "run", "-it", "image"],
        stdin=subprocess.DEVNULL, capture_output=True, env=environment(), timeout=SECONDS, check=False,
    )  # fmt: skip
    assert (done.returncode, b"no terminal" in done.stderr) == (125, True)
