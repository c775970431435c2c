"""Where the cgroup hierarchies are, and what is in one cgroup (v1 and v2)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_MOUNT = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """Mounted hierarchies: with `unified` all controllers are in `root`, else `controllers` maps each to its
    directory, and the empty name to that of v2 in hybrid mode.
    """

    unified: bool
    root: Path
    controllers: Mapping[str, Path]

    def directory(self, controller: str, path: str) -> Path | None:
        """Directory of the cgroup `path` for `controller` (`cpu`, `memory`, `name=systemd` ...); None when it is
        not mounted.
        """
        base = self.root if self.unified else self.controllers.get(controller)
        return None if base is None else base / path.lstrip("/")

    def directories(self, path: str) -> list[Path]:
        """Every directory that together make the cgroup `path`."""
        bases = [self.root] if self.unified else list(dict.fromkeys(self.controllers.values()))
        return [base / path.lstrip("/") for base in bases]


@cache
def hierarchy() -> Hierarchy:
    """The hierarchies of this host, found once."""
    return parse_hierarchy(Path("/proc/self/mountinfo").read_text())


def parse_hierarchy(mountinfo: str) -> Hierarchy:
    """Read them from the text of /proc/self/mountinfo (proc_pid_mountinfo(5))."""
    controllers: dict[str, Path] = {}
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        target = Path(before.split()[4].replace("\\040", " "))
        kind, _, options = after.split(" ", 2)
        if kind == "cgroup2" and target == _MOUNT:
            return Hierarchy(unified=True, root=target, controllers={})
        if kind == "cgroup2":  # hybrid mode: v2 beside v1, without controllers, but with processes
            controllers[""] = target
        if kind == "cgroup":
            for option in options.split(","):
                if option not in ("rw", "ro", "xattr", "noprefix", "clone_children") and not option.startswith(
                    "release_agent"
                ):
                    controllers[option] = target
    return Hierarchy(unified=False, root=_MOUNT, controllers=controllers)


def processes(path: str) -> list[int]:
    """Pids in the cgroup `path` and below it; empty when it does not exist."""
    controller = next((name for name in ("pids", "memory", "freezer") if name in hierarchy().controllers), "")
    directory = hierarchy().directory(controller, path)
    if directory is None:
        return []
    pids: set[int] = set()
    for file in _procs_files(directory):
        with contextlib.suppress(OSError):  # removed since it was listed
            pids.update(int(line) for line in file.read_text().split())
    return sorted(pids)


def _procs_files(directory: Path) -> Iterator[Path]:
    for parent, _, files in os.walk(directory):
        if "cgroup.procs" in files:
            yield Path(parent, "cgroup.procs")


def frozen(path: str) -> bool | None:
    """Whether the cgroup `path` itself (not one above it) is frozen or about to be; None when it does not exist, or
    nothing freezes cgroups here. Source: Documentation/admin-guide/cgroup-v1/freezer-subsystem.rst and cgroup-v2.rst.
    """
    for controller, file in (("freezer", "freezer.self_freezing"), ("", "cgroup.freeze")):
        directory = hierarchy().directory(controller, path)
        with contextlib.suppress(FileNotFoundError):
            if directory is not None:
                return (directory / file).read_text().strip() == "1"
    return None


def own_paths() -> dict[str, str]:
    """Controller (empty string for v2) to the cgroup of this process."""
    paths: dict[str, str] = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        for name in names.split(","):
            paths[name] = path
    return paths


def remove(path: str) -> None:
    """Remove the cgroup `path` and its empty children in every hierarchy; one with processes in it stays."""
    for directory in hierarchy().directories(path):
        for parent, _, _ in os.walk(directory, topdown=False):
            with contextlib.suppress(OSError):
                Path(parent).rmdir()
