"""`./install` touches nothing that it did not make. (That it installs is tried by hand: it needs PyPI.)"""

from __future__ import annotations

import subprocess
import tomllib
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "install"


def install(*arguments: str) -> tuple[int, str]:
    done = subprocess.run([SCRIPT, *arguments], capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    lib, bin = tmp_path / "lib", tmp_path / "bin"
    bin.mkdir()
    return lib, bin


def options(places: tuple[Path, Path]) -> tuple[str, ...]:
    return ("--no-packages", "--lib", str(places[0]), "--bin", str(places[1]))


@pytest.mark.parametrize("arguments", [("--lib",), ("--lib", "here"), ("remove",), ("--prefix=/usr",)])
def test_wrong_command_lines(arguments: tuple[str, ...]) -> None:
    code, text = install(*arguments)
    assert (code, text.count("install: ")) == (1, 1)


def test_what_is_installed_has_the_clients_of_every_driver() -> None:
    project = tomllib.loads((SCRIPT.parent / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    (everything,) = extras["all"]
    named = set(everything.partition("[")[2].rstrip("]").split(","))
    assert named == extras.keys() - {"all", "testing", "dev"}
    assert '[all]"' in SCRIPT.read_text()


def test_help_changes_nothing() -> None:
    code, text = install("--help")
    assert code == 0
    assert "conmon crun skopeo" in text


@pytest.mark.parametrize("action", ["install", "uninstall"])
def test_what_somebody_else_put_there_is_left(places: tuple[Path, Path], action: str) -> None:
    lib, bin = places
    lib.mkdir()
    (lib / "notes").write_text("mine")
    code, text = install(action, *options(places))
    assert (code, "is no virtual environment" in text) == (1, True)
    (bin / "engine").write_text("mine")
    code, text = install(action, *options(places))
    assert (code, "is not from here" in text) == (1, True)
    assert ((lib / "notes").read_text(), (bin / "engine").read_text()) == ("mine", "mine")


def test_uninstall(places: tuple[Path, Path]) -> None:
    lib, bin = places
    (lib / "bin").mkdir(parents=True)
    (lib / "pyvenv.cfg").touch()
    (bin / "engine").symlink_to(lib / "bin" / "engine")
    (bin / "other").touch()
    assert install("uninstall", *options(places))[0] == 0
    assert (lib.exists(), [p.name for p in bin.iterdir()]) == (False, ["other"])
    assert install("uninstall", *options(places))[0] == 0, "there is nothing left to remove"
