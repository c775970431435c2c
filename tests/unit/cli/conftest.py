"""A fake daemon, and the command line in this process or as a program."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer

from engine.cli.app import build, run_command

from .fake_daemon import SECONDS, FakeDaemon


@dataclass
class Result:
    code: int
    out: str
    err: str


Cli = Callable[..., Result]


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A directory whose path is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="cli-") as name:
        yield Path(name)


@pytest.fixture
def daemon(short_path: Path) -> Iterator[FakeDaemon]:
    with FakeDaemon(short_path / "engine.sock") as running:
        yield running


@pytest.fixture(scope="session")
def command() -> Any:
    return typer.main.get_command(build())


@pytest.fixture
def cli(daemon: FakeDaemon, command: Any, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Run a command line in this process against the fake daemon."""
    monkeypatch.delenv("ENGINE_HOST", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(daemon.path.parent / "config"))
    monkeypatch.setenv("DOCKER_CONFIG", str(daemon.path.parent / "docker"))

    def run(*arguments: str) -> Result:
        code = run_command(command, ["-H", daemon.host, *arguments])
        out, err = capfd.readouterr()
        return Result(code, out, err)

    return run


STUB = "import sys; from engine.cli import main; sys.exit(main())"


def environment(**more: str) -> dict[str, str]:
    """Our environment for a program, without a daemon that the user may have."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("ENGINE_")}
    return {**kept, **more}


@pytest.fixture
def warm(daemon: FakeDaemon) -> Iterator[subprocess.Popen[bytes]]:
    """A warm command line beside the fake daemon."""
    path = daemon.path.with_name("cli.sock")
    with subprocess.Popen(
        [sys.executable, "-I", "-m", "engine.cli.warm", str(path), daemon.host],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as process:  # fmt: skip
        wait_until(path.exists)
        yield process
        assert process.stdin is not None
        process.stdin.close()
        process.wait(SECONDS)


def wait_until(condition: Callable[[], Any], seconds: float = SECONDS) -> Any:
    """Wait for a condition; fails when it does not come true."""
    import time

    deadline = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.01)
