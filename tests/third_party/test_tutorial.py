"""Runs the tutorial: every file is written, every command runs, and says what the page says that it says.

Fenced blocks say in their info string what they are:
    console            commands after `$`; the lines below a command are in its output, in this order
    console fails      ... the last command fails
    console root       ... only where there is root
    console daemon     ... a daemon runs
    LANGUAGE file=F same     the file is exactly so
    LANGUAGE file=F part     the file has these lines
    LANGUAGE file=F run      the file is written
    LANGUAGE file=F replace  these lines, which are in the file, become those of the next block (`by`)
"""

from __future__ import annotations

import os
import re
import site as python_site
import subprocess
import sys
import time
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "tutorials" / "first-network-driver.md"
_FENCE = re.compile(r"^```(?P<info>.+?)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
_COMMAND_SECONDS = 110
ROOT = os.geteuid() == 0


class Block(NamedTuple):
    info: list[str]
    body: str

    @property
    def file(self) -> str:
        return next((word.removeprefix("file=") for word in self.info if word.startswith("file=")), "")


class Reader:
    """Somebody who follows the tutorial, in a virtual environment of their own."""

    def __init__(self, home: Path) -> None:
        self.where = home / "work"
        self.where.mkdir()
        self._environment = _virtual_environment(home / "venv") | {"ENGINE_HOST": f"unix://{home}/e.sock"}
        self._home = home
        self._daemon: subprocess.Popen[bytes] | None = None
        self._replace: str | None = None

    def follow(self, block: Block) -> None:
        if block.info[0] == "console":
            if "root" in block.info and not ROOT:
                return
            if "daemon" in block.info:
                self._start_daemon()
            self._console(block)
        elif block.file:
            self._write(block)
        else:
            pytest.fail(f"nothing is known about a block {' '.join(block.info)}")

    def _console(self, block: Block) -> None:
        commands = [part.splitlines() for part in re.split(r"^\$ ", block.body, flags=re.MULTILINE)[1:]]
        for number, (command, *expected) in enumerate(commands, 1):
            if command.startswith("cd "):
                self.where /= command.removeprefix("cd ")
                continue
            done = subprocess.run(
                ["bash", "-c", command],
                cwd=self.where,
                env=self._environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=_COMMAND_SECONDS,
                check=False,
            )
            fails = "fails" in block.info and number == len(commands)
            assert (done.returncode != 0) == fails, f"{command}: status {done.returncode}\n{done.stdout}"
            _check_output(command, expected, done.stdout)

    def _write(self, block: Block) -> None:
        path = self.where / block.file
        if "run" in block.info:
            path.write_text(block.body)
        elif "same" in block.info:
            assert path.read_text() == block.body
        elif "part" in block.info:
            assert block.body in path.read_text()
        elif "replace" in block.info:
            assert path.read_text().count(block.body) == 1
            self._replace = block.body
        else:
            assert self._replace is not None
            path.write_text(path.read_text().replace(self._replace, block.body))
            self._replace = None

    def _start_daemon(self) -> None:
        """Start a daemon with roots of its own, in a network namespace of its own."""
        if self._daemon:
            return
        roots = ("--data-root", str(self._home / "data"), "--exec-root", str(self._home / "run"))
        argv = ["unshare", "--net", "engine", "daemon", *roots, "--host", self._environment["ENGINE_HOST"]]
        with (self._home / "daemon.log").open("wb") as log:
            self._daemon = subprocess.Popen(argv, env=self._environment, stdout=log, stderr=log)
        end = time.monotonic() + 60
        while not (self._home / "e.sock").exists():
            if self._daemon.poll() is not None or time.monotonic() > end:
                pytest.fail(f"the daemon did not start:\n{(self._home / 'daemon.log').read_text()}")
            time.sleep(0.05)

    def leave(self) -> None:
        if self._daemon:
            self._daemon.terminate()
            self._daemon.wait(60)


def _check_output(command: str, expected: list[str], output: str) -> None:
    """Expect lines (or their beginnings) in this order; spaces do not count, and without root the kit runs less."""
    lines = [" ".join(line.split()) for line in output.splitlines()]
    for want in (" ".join(line.split()) for line in expected if line.strip() not in ("", "...")):
        if not ROOT and ": conformant to" in want:
            want = want.replace(": conformant to", ": partly conformant to").partition(" spec 1.")[0]
        while lines and not lines[0].startswith(want) and want not in lines[0]:
            lines.pop(0)
        assert lines, f"{command}: {want!r} is not in its output (or not in this place):\n{output}"


def _virtual_environment(directory: Path) -> dict[str, str]:
    """Make a virtual environment that sees what this Python has installed; packages are built offline."""
    venv.create(directory, with_pip=False, symlinks=True)
    packages = Path(next((directory / "lib").glob("python3*"))) / "site-packages"
    seen = [p for p in sys.path if p and Path(p).is_dir() and (Path(p).name in ("site-packages", "dist-packages"))]
    lines = "".join(f"import site; site.addsitedir({path!r})\n" for path in (*seen, *python_site.getsitepackages()))
    (packages / "seen.pth").write_text(lines)
    scripts = {
        "pip": "from pip._internal.cli.main import main",
        "pytest": "from pytest import main",
        "engine": "from engine.cli import main",
    }
    for name, line in scripts.items():
        script = directory / "bin" / name
        script.write_text(f"#!{directory}/bin/python\nimport sys\n{line}\nsys.exit(main())\n")
        script.chmod(0o755)
    return {
        **os.environ,
        "PATH": f"{directory}/bin:{os.environ['PATH']}",
        "PIP_NO_INDEX": "1",
        "PIP_NO_DEPS": "1",
        "PIP_NO_BUILD_ISOLATION": "0",  # in the environment, 0 turns isolation off
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PYTEST_ADDOPTS": "-p no:cacheprovider",
    }


def blocks() -> Iterator[Block]:
    for found in _FENCE.finditer(PAGE.read_text()):
        yield Block(found["info"].split(), found["body"])


@pytest.mark.timeout(300)
def test_the_tutorial_works(tmp_path):
    reader = Reader(tmp_path)
    try:
        for block in blocks():
            reader.follow(block)
    finally:
        reader.leave()


def test_every_fence_is_understood():
    assert PAGE.read_text().count("\n```") == 2 * len(list(blocks()))
