"""Writes the package of a new driver: a small driver that works, its tests, and what is needed to publish it.

`engine driver new network NAME` calls `create`. The files are templates of `string.Template` beside this module.
"""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import NamedTuple

from engine_sdk import Conflict, Driver, InvalidParameter, IpamDriver, NetworkDriver, StorageDriver, VolumeDriver
from engine_sdk.contract import __all__ as contract_names

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_LONGEST = 40


class _Kind(NamedTuple):
    specification: type[Driver]
    short: str
    """As in names of distributions: `engine-net-NAME`."""
    run: str
    """How an operator uses a driver of this kind."""


KINDS = {
    "network": _Kind(NetworkDriver, "net", "engine run --net-driver $name IMAGE"),
    "ipam": _Kind(IpamDriver, "ipam", "engine network create --ipam-driver $name NETWORK"),
    "volume": _Kind(VolumeDriver, "vol", "engine volume create --driver $name VOLUME"),
    "storage": _Kind(StorageDriver, "store", "engine driver show $name"),
}
"""The kinds of drivers that can be begun."""
_FILES = {
    "pyproject.toml": "pyproject.toml",
    "README.md": "README.md",
    "LICENSE": "LICENSE",
    "tox.ini": "tox.ini",
    "test.yml": ".github/workflows/test.yml",
    "{kind}.py": "src/{module}/__init__.py",
    "{kind}_test_conformance.py": "tests/test_conformance.py",
    "{kind}_test_options.py": "tests/test_options.py",
}
"""By template: the file that it becomes."""


def create(kind: str, name: str, directory: Path | None = None) -> list[Path]:
    """Write the package of a new driver into a directory (by default `./engine-net-NAME`), and return its files.

    Raises InvalidParameter for an unknown kind or a bad name, Conflict if the directory has something in it.
    """
    if kind not in KINDS:
        raise InvalidParameter(f"there are no {kind!r} drivers", hint=f"Kinds: {', '.join(KINDS)}")
    if len(name) > _LONGEST or not _NAME.fullmatch(name):
        raise InvalidParameter(
            f"{name!r} is no name for a driver",
            hint=f"Use at most {_LONGEST} lower-case letters, digits and single dashes, for example my-driver",
        )
    words = _words(kind, name)
    if {f"{words['driver']}Driver", f"{words['driver']}Options"} & set(contract_names):
        raise InvalidParameter(f"{name!r} says too little", hint="Choose a name that tells what the driver does")
    root = directory or Path(words["distribution"])
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise Conflict(f"{root} exists and is not an empty directory", hint="Name another directory")
    written = []
    for source, target in _FILES.items():
        template = Template(_template(source.format(kind=kind)).read_text(encoding="utf-8"))
        path = root / target.format(module=words["module"])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(template.substitute(words), encoding="utf-8")
        written.append(path)
    return written


def _words(kind: str, name: str) -> dict[str, str]:
    """Return what the templates' placeholders stand for."""
    chosen = KINDS[kind]
    distribution = f"engine-{chosen.short}-{name}"
    return {
        "name": name,
        "kind": kind,
        "distribution": distribution,
        "module": distribution.replace("-", "_"),
        "driver": "".join(part.capitalize() for part in name.split("-")),
        "group": chosen.specification.GROUP,
        "run": Template(chosen.run).substitute(name=name),
        "check": "pytest" if kind == "storage" else f"pytest --{kind}-driver {name}",
    }


def _template(name: str) -> Path:
    return Path(str(files(__package__))) / "templates" / f"{name}.tmpl"
