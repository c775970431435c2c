"""Device nodes of a container, and the rules of its device cgroup."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from engine.runtime.model import Device
from engine.spec.errors import InvalidParameter

_RULE = re.compile(r"^([abc]) ([0-9]+|\*):([0-9]+|\*) ([rwm]{1,3})$")
# Directories and files of the host's /dev that a container has of its own (as moby's devices.HostDevices).
_NOT_DEVICES = frozenset({"pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev", "console"})

# Docker's device cgroup: nothing, except making nodes and the harmless ones (null, zero, full, tty, random, urandom,
# ptys).
DEFAULT_RULES: tuple[dict[str, Any], ...] = (
    {"allow": False, "access": "rwm"},
    {"allow": True, "type": "c", "access": "m"},
    {"allow": True, "type": "b", "access": "m"},
    *({"allow": True, "type": "c", "major": 1, "minor": minor, "access": "rwm"} for minor in (3, 5, 7, 8, 9)),
    *({"allow": True, "type": "c", "major": 5, "minor": minor, "access": "rwm"} for minor in (0, 1, 2)),
    {"allow": True, "type": "c", "major": 136, "access": "rwm"},
)
ALLOW_ALL: tuple[dict[str, Any], ...] = ({"allow": True, "access": "rwm"},)


def resolve(devices: Sequence[Device]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """OCI device nodes and cgroup rules.

    Raises InvalidParameter for what is no device or a malformed access string.
    """
    nodes: list[dict[str, Any]] = []
    rules: list[dict[str, Any]] = []
    for device in devices:
        if not device.access or set(device.access) - set("rwm"):
            raise InvalidParameter(f"invalid device access {device.access!r}", hint="Use a combination of r, w and m")
        for host, container in _expand(device):
            node = _node(host, container)
            nodes.append(node)
            rules.append(
                {
                    "allow": True,
                    "type": node["type"],
                    "major": node["major"],
                    "minor": node["minor"],
                    "access": device.access,
                }
            )
    return nodes, rules


def host_devices() -> list[dict[str, Any]]:
    """Every device node below the host's /dev, for privileged containers."""
    return [_node(path, path) for path in _walk(Path("/dev"))]


def cgroup_rule(text: str) -> dict[str, Any]:
    """`--device-cgroup-rule`: `c 42:* rmw`. Raises InvalidParameter."""
    match = _RULE.match(text)
    if match is None:
        raise InvalidParameter(
            f"invalid device cgroup rule {text!r}", hint="Write `TYPE MAJOR:MINOR ACCESS`, for example `c 42:* rmw`"
        )
    kind, major, minor, access = match.groups()
    rule: dict[str, Any] = {"allow": True, "type": kind, "access": access}
    if major != "*":
        rule["major"] = int(major)
    if minor != "*":
        rule["minor"] = int(minor)
    return rule


def _expand(device: Device) -> Iterator[tuple[Path, Path]]:
    host = Path(device.host)
    container = Path(device.container or device.host)
    try:
        is_directory = host.is_dir()
        resolved = host.resolve(strict=True)
    except OSError as err:
        # Not in the system's words: clients take those for a sign that the command is missing.
        why = "the host has none of that name" if isinstance(err, FileNotFoundError) else err.strerror or str(err)
        raise InvalidParameter(f"cannot use the device {device.host}", why=why) from err
    if not is_directory:
        yield resolved, container
        return
    for path in _walk(resolved):
        yield path, container / path.relative_to(resolved)


def _walk(directory: Path) -> Iterator[Path]:
    for entry in sorted(os.scandir(directory), key=lambda e: e.name):
        if entry.name in _NOT_DEVICES:
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(Path(entry.path))
        else:
            mode = entry.stat(follow_symlinks=False).st_mode
            if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
                yield Path(entry.path)


def _node(host: Path, container: Path) -> dict[str, Any]:
    info = host.stat()
    if stat.S_ISCHR(info.st_mode):
        kind = "c"
    elif stat.S_ISBLK(info.st_mode):
        kind = "b"
    else:
        raise InvalidParameter(f"{host} is not a device node")
    return {
        "path": str(container), "type": kind, "major": os.major(info.st_rdev), "minor": os.minor(info.st_rdev),
        "fileMode": stat.S_IMODE(info.st_mode), "uid": info.st_uid, "gid": info.st_gid,
    }  # fmt: skip
