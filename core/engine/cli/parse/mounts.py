"""Mounts: `-v`, `--mount` and `--tmpfs`."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from engine.cli.errors import BadValue, did_you_mean
from engine.cli.parse.amounts import size

_TYPES = ("bind", "volume", "tmpfs")
_PROPAGATIONS = ("private", "rprivate", "shared", "rshared", "slave", "rslave")
_MODES = {*_PROPAGATIONS, "ro", "rw", "z", "Z", "nocopy", "consistent", "cached", "delegated"}
_KEYS = {
    "type": "type", "source": "source", "src": "source", "target": "target", "destination": "target", "dst": "target",
    "readonly": "readonly", "ro": "readonly", "consistency": "consistency", "bind-propagation": "bind-propagation",
    "bind-nonrecursive": "bind-nonrecursive", "volume-nocopy": "volume-nocopy", "volume-label": "volume-label",
    "volume-driver": "volume-driver", "volume-opt": "volume-opt", "volume-subpath": "volume-subpath",
    "tmpfs-size": "tmpfs-size", "tmpfs-mode": "tmpfs-mode",
}  # fmt: skip
_BARE = {"readonly", "volume-nocopy", "bind-nonrecursive"}


def volume(flag: str, text: str, cwd: Path) -> tuple[str, str | None]:
    """Parse one `-v`: (bind string, None) for binds and named volumes, ("", path) for an anonymous volume.

    A relative source (`./x`, `../x`, `.`, `~` is left to the shell) is resolved against `cwd`. Raises BadValue.
    """
    parts = text.split(":")
    if len(parts) > 3:
        raise BadValue(flag, text, "expected [SOURCE:]TARGET[:OPTIONS]")
    if len(parts) == 1:
        _absolute(flag, text, text)
        return "", text
    source, target, *rest = parts
    if not source:
        raise BadValue(flag, text, "the source is empty")
    _absolute(flag, text, target)
    for mode in rest[0].split(",") if rest else ():
        if mode not in _MODES:
            raise BadValue(flag, text, f"unknown mount option {mode!r}{did_you_mean(mode, _MODES)}")
    if source == "." or source.startswith(("./", "../")) or source == "..":
        source = str((cwd / source).resolve())
    return ":".join([source, target, *rest]), None


def _absolute(flag: str, text: str, target: str) -> None:
    if not target.startswith("/"):
        raise BadValue(flag, text, f"the path in the container must be absolute, {target!r} is not")
    if not target.strip("/"):
        raise BadValue(flag, text, "the path in the container must not be /")


def mount(flag: str, text: str, cwd: Path) -> dict[str, Any]:
    """Parse one `--mount type=…,source=…,target=…` to the API's Mount object. Raises BadValue."""
    fields: dict[str, str] = {}
    labels: dict[str, str] = {}
    options: dict[str, str] = {}
    for item in next(csv.reader([text])):
        name, equals, value = item.partition("=")
        key = _KEYS.get(name.strip().lower())
        if key is None:
            raise BadValue(flag, text, f"unknown key {name!r}{did_you_mean(name, _KEYS)}")
        if not equals and key not in _BARE:
            raise BadValue(flag, text, f"{name!r} needs a value: {name}=…")
        if key in ("volume-label", "volume-opt"):
            left, _, right = value.partition("=")
            (labels if key == "volume-label" else options)[left] = right
        elif key in fields:
            raise BadValue(flag, text, f"{name!r} is given twice")
        else:
            fields[key] = value if equals else "true"
    return _mount_object(flag, text, fields, labels, options, cwd)


def _mount_object(
    flag: str, text: str, fields: dict[str, str], labels: dict[str, str], options: dict[str, str], cwd: Path
) -> dict[str, Any]:
    kind = fields.get("type", "volume")
    if kind not in _TYPES:
        raise BadValue(flag, text, f"unknown type {kind!r}{did_you_mean(kind, _TYPES)}; use bind, volume or tmpfs")
    target, source = fields.get("target", ""), fields.get("source", "")
    if not target:
        raise BadValue(flag, text, "target=PATH is missing")
    _absolute(flag, text, target)
    foreign = [k for k in fields if k.partition("-")[0] in _TYPES and k.partition("-")[0] != kind and k != "type"]
    if labels or options:
        foreign += ["volume-label or volume-opt"] if kind != "volume" else []
    if foreign:
        raise BadValue(flag, text, f"{foreign[0]} does not go with type={kind}")
    found: dict[str, Any] = {"Type": kind, "Target": target, "ReadOnly": _flag(flag, text, fields, "readonly")}
    if "consistency" in fields:
        found["Consistency"] = fields["consistency"]
    if kind == "bind":
        if not source:
            raise BadValue(flag, text, "source=PATH is missing")
        found["Source"] = source if source.startswith("/") else str((cwd / source).resolve())
        found["BindOptions"] = _bind_options(flag, text, fields)
    elif kind == "tmpfs":
        if source:
            raise BadValue(flag, text, "a tmpfs has no source")
        found["TmpfsOptions"] = _tmpfs_options(flag, text, fields)
    else:
        found["Source"] = source
        found["VolumeOptions"] = {
            "NoCopy": _flag(flag, text, fields, "volume-nocopy"),
            "Labels": labels,
            "DriverConfig": {"Name": fields.get("volume-driver", ""), "Options": options},
        }
        if "volume-subpath" in fields:
            found["VolumeOptions"]["Subpath"] = fields["volume-subpath"]
    return found


def _flag(flag: str, text: str, fields: dict[str, str], key: str) -> bool:
    value = fields.get(key, "false").lower()
    if value not in ("true", "false", "1", "0"):
        raise BadValue(flag, text, f"{key} is true or false, not {value!r}")
    return value in ("true", "1")


def _bind_options(flag: str, text: str, fields: dict[str, str]) -> dict[str, Any]:
    propagation = fields.get("bind-propagation", "")
    if propagation and propagation not in _PROPAGATIONS:
        raise BadValue(flag, text, f"unknown propagation {propagation!r}{did_you_mean(propagation, _PROPAGATIONS)}")
    return {"Propagation": propagation, "NonRecursive": _flag(flag, text, fields, "bind-nonrecursive")}


def _tmpfs_options(flag: str, text: str, fields: dict[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if "tmpfs-size" in fields:
        try:
            found["SizeBytes"] = size(flag, fields["tmpfs-size"])
        except BadValue:
            raise BadValue(flag, text, f"tmpfs-size={fields['tmpfs-size']} is no size") from None
    if "tmpfs-mode" in fields:
        try:
            found["Mode"] = int(fields["tmpfs-mode"], 8)
        except ValueError:
            raise BadValue(flag, text, f"tmpfs-mode={fields['tmpfs-mode']} is no octal mode") from None
    return found


def tmpfs(flag: str, text: str) -> tuple[str, str]:
    """Parse one `--tmpfs PATH[:OPTIONS]`. Raises BadValue."""
    path, _, options = text.partition(":")
    _absolute(flag, text, path)
    return path, options
