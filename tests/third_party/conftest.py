"""Builds packages of drivers and installs them beside ours, without a network."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

_SECONDS = 110


@dataclass(frozen=True)
class Site:
    """A directory of installed packages, and a place to run programs that see them."""

    packages: Path
    work: Path

    @property
    def environment(self) -> dict[str, str]:
        """The environment in which the packages are found, and `engine` and `pytest` are those of this Python."""
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        return {**os.environ, "PYTHONPATH": str(self.packages), "PATH": path, "PYTEST_ADDOPTS": "-p no:cacheprovider"}

    def run(self, *argv: str, check: bool = True, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run a program; fail with its output if it fails."""
        done = subprocess.run(
            argv,
            env=self.environment,
            cwd=cwd or self.work,
            text=True,
            capture_output=True,
            timeout=_SECONDS,
            check=False,
        )
        if check and done.returncode:
            pytest.fail(f"{' '.join(argv)}: status {done.returncode}\n{done.stdout}\n{done.stderr}", pytrace=False)
        return done

    def install(self, source: Path) -> None:
        """Build a wheel of a package as it is, and install it."""
        copy = self.work / "sources" / source.name
        shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__"))
        wheels = self.work / "wheels" / source.name
        pip = (sys.executable, "-m", "pip", "-q", "--disable-pip-version-check", "--no-input")
        offline = ("--no-deps", "--no-index")
        self.run(*pip, "wheel", *offline, "--no-build-isolation", "-w", str(wheels), str(copy))
        self.run(*pip, "install", *offline, "--target", str(self.packages), *map(str, wheels.iterdir()))


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """Return an empty site."""
    for name in ("packages", "work"):
        (tmp_path / name).mkdir()
    return Site(tmp_path / "packages", tmp_path / "work")
