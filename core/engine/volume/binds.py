"""What a person asked to mount: docker's `Binds`, `Mounts` and `Tmpfs` of a container's HostConfig, as values.

Source: Docker Engine API, HostConfig; the rules and messages of docker's volume/mounts parsers for Linux.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, cast

from pydantic import Field

from engine.spec.errors import InvalidParameter
from engine.spec.values import Frozen

Propagation = Literal["", "private", "rprivate", "shared", "rshared", "slave", "rslave"]
PROPAGATIONS = frozenset({"private", "rprivate", "shared", "rshared", "slave", "rslave"})
_LABELS = frozenset({"z", "Z"})
_CONSISTENCY = frozenset({"consistent", "cached", "delegated", "default"})
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+\Z")
_ANONYMOUS = re.compile(r"[0-9a-f]{64}\Z")
_DEFAULT_TMPFS_MODE = 0o1777


class MountRequest(Frozen):
    """One mount of a container, as it was asked for and checked."""

    type: Literal["bind", "volume", "tmpfs"]
    target: str
    """Absolute and normalised, in the container."""
    source: str = ""
    """bind: a path of the host. volume: a name, empty for an anonymous one."""
    read_only: bool = False
    propagation: Propagation = ""
    """bind only; empty is rprivate."""
    recursive: bool = True
    """bind only: with the mounts below the source."""
    create_host_path: bool = False
    """bind only: make a missing source as a directory (`-v` does, `--mount` does not)."""
    relabel: Literal["", "z", "Z"] = ""
    """SELinux relabelling, shared or private."""
    no_copy: bool = False
    """volume only: a new volume is not filled from the image."""
    subpath: str = ""
    """volume only: the part of the volume that is shown."""
    driver: str = ""
    """volume only: the driver of a volume that does not exist yet."""
    driver_options: Mapping[str, str] = Field(default_factory=dict)
    labels: Mapping[str, str] = Field(default_factory=dict)
    options: str = ""
    """tmpfs only: options of tmpfs(5), as docker's `Tmpfs` takes them: `size=64m,mode=1777`."""

    @property
    def anonymous(self) -> bool:
        """A volume that nobody named."""
        return self.type == "volume" and not self.source


def check_name(name: str) -> str:
    """Return a volume name that a person gave, or raise InvalidParameter."""
    if len(name) < 2:
        raise InvalidParameter("volume name is too short, names should be at least two alphanumeric characters")
    if not _NAME.match(name) or len(name) > 255:
        raise InvalidParameter(
            f"{name!r} includes invalid characters for a local volume name",
            why='only "[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed, 255 at most',
            hint="If you intended to pass a host directory, use an absolute path",
        )
    return name


def parse_bind(text: str) -> MountRequest:
    """Read one `-v` string: `[source:]target[:mode,...]`. Raises InvalidParameter."""
    parts = text.split(":")
    if not text or len(parts) > 3 or (len(parts) > 1 and not parts[0]):
        raise InvalidParameter(f"invalid volume specification: {text!r}", hint="Expected [SOURCE:]TARGET[:MODE]")
    if len(parts) == 1:
        return MountRequest(type="volume", target=_target(text, text))
    source, target = parts[0], _target(parts[1], text)
    bind = source.startswith("/")
    mode = _mode(parts[2], text, bind=bind) if len(parts) == 3 else {}
    if bind:
        return MountRequest(type="bind", target=target, source=_clean(source), create_host_path=True, **mode)
    return MountRequest(type="volume", target=target, source=check_name(source), **mode)


def _mode(text: str, spec: str, *, bind: bool) -> dict[str, Any]:
    """Read the words after the second colon. Each kind of word may come once."""
    found: dict[str, Any] = {}

    def put(name: str, value: object) -> None:
        if name in found:
            raise InvalidParameter(f"invalid mode: {text}", why=f"two words say the same thing in {spec!r}")
        found[name] = value

    for word in text.split(","):
        if word in ("ro", "rw"):
            put("read_only", word == "ro")
        elif word in _LABELS:
            put("relabel", word)
        elif word == "nocopy" and not bind:
            put("no_copy", True)
        elif word in PROPAGATIONS and bind:
            put("propagation", word)
        elif word in _CONSISTENCY:
            put("consistency", word)
        else:
            raise InvalidParameter(
                f"invalid mode: {text}",
                why=f"{word!r} is not one of ro, rw, z, Z, " + (", ".join(sorted(PROPAGATIONS)) if bind else "nocopy"),
            )
    found.pop("consistency", None)  # a word for Docker Desktop: without meaning on Linux, as in docker
    return found


def _clean(path: str) -> str:
    return posixpath.normpath("/" + path.lstrip("/"))


def _target(path: str, spec: str) -> str:
    if not path.startswith("/") or "\0" in path:
        why = f"invalid mount path: {path!r} mount path must be absolute"
        raise InvalidParameter(f"invalid volume specification: {spec!r}", why=why)
    cleaned = _clean(path)
    if cleaned == "/":
        raise InvalidParameter(f"invalid volume specification: {spec!r}", why="destination can't be '/'")
    return cleaned


def _wrong(field: str, why: str) -> InvalidParameter:
    return InvalidParameter("invalid mount config", why=f"{field} {why}")


def parse_mount(mount: Mapping[str, Any]) -> MountRequest:
    """Read one object of HostConfig.Mounts. Raises InvalidParameter."""
    known = {"Type", "Target", "Source", "ReadOnly", "Consistency", "BindOptions", "VolumeOptions", "TmpfsOptions"}
    kind = mount.get("Type")
    if kind not in ("bind", "volume", "tmpfs"):
        raise _wrong("Type:", f"mount type unknown: {kind!r} (bind, volume and tmpfs are known)")
    for field in mount:
        if field not in known:
            raise _wrong(field, "is not a field of a mount")
    for field, owner in (("BindOptions", "bind"), ("VolumeOptions", "volume"), ("TmpfsOptions", "tmpfs")):
        if mount.get(field) and kind != owner:
            raise _wrong(field, f"must not be given for type {kind}")
    target = str(mount.get("Target") or "")
    if not target:
        raise _wrong("Target", "must not be empty")
    if not target.startswith("/"):
        raise _wrong("Target:", f"invalid mount path: {target!r} mount path must be absolute")
    common: dict[str, Any] = {"target": _target(target, target), "read_only": bool(mount.get("ReadOnly"))}
    source = str(mount.get("Source") or "")
    if kind == "bind":
        return _bind_object(source, mount.get("BindOptions") or {}, common)
    if kind == "volume":
        return _volume_object(source, mount.get("VolumeOptions") or {}, common)
    if source:
        raise _wrong("Source", "must not be given for type tmpfs")
    return MountRequest(type="tmpfs", options=_tmpfs_options(mount.get("TmpfsOptions") or {}), **common)


def _bind_object(source: str, options: Mapping[str, Any], common: Mapping[str, Any]) -> MountRequest:
    if not source:
        raise _wrong("Source", "must not be empty")
    if not source.startswith("/"):
        raise _wrong("Source:", f"invalid mount path: {source!r} mount path must be absolute")
    propagation = str(options.get("Propagation") or "")
    if propagation and propagation not in PROPAGATIONS:
        raise _wrong("Propagation:", f"invalid propagation mode: {propagation}")
    return MountRequest(
        type="bind",
        source=_clean(source),
        propagation=cast(Propagation, propagation),
        recursive=not options.get("NonRecursive"),
        create_host_path=bool(options.get("CreateMountpoint")),
        **common,
    )


def _volume_object(source: str, options: Mapping[str, Any], common: Mapping[str, Any]) -> MountRequest:
    subpath = str(options.get("Subpath") or "")
    if subpath.startswith("/") or ".." in subpath.split("/"):
        raise _wrong("Subpath:", f"{subpath!r} must be a relative path inside the volume")
    if subpath and not source:
        raise _wrong("Subpath", "must not be given for an anonymous volume")
    driver = options.get("DriverConfig") or {}
    return MountRequest(
        type="volume",
        source=check_name(source) if source else "",
        no_copy=bool(options.get("NoCopy")),
        subpath=posixpath.normpath(subpath) if subpath else "",
        driver=str(driver.get("Name") or ""),
        driver_options=dict(driver.get("Options") or {}),
        labels=dict(options.get("Labels") or {}),
        **common,
    )


def _tmpfs_options(options: Mapping[str, Any]) -> str:
    size, mode = int(options.get("SizeBytes") or 0), int(options.get("Mode") or _DEFAULT_TMPFS_MODE)
    if size < 0:
        raise _wrong("SizeBytes", "must not be negative")
    if not 0 <= mode <= 0o7777:
        raise _wrong("Mode", f"{mode:o} is not a file mode")
    words = [f"mode={mode:o}", *([f"size={size}"] if size else [])]
    for option in options.get("Options") or ():
        words.append("=".join(option))
    return ",".join(words)


_TMPFS_FLAGS = frozenset(
    "ro rw suid nosuid dev nodev exec noexec sync async dirsync remount mand nomand atime noatime diratime nodiratime"
    " bind rbind unbindable runbindable private rprivate shared rshared slave rslave relatime norelatime"
    " strictatime nostrictatime defaults".split()
)
_TMPFS_VALUES = frozenset("mode uid gid nr_inodes nr_blocks mpol size".split())


def parse_tmpfs(target: str, options: str) -> MountRequest:
    """Read one entry of HostConfig.Tmpfs: `--tmpfs TARGET[:OPTIONS]`. Raises InvalidParameter."""
    for word in filter(None, options.split(",")):
        name, equals, value = word.partition("=")
        if (name in _TMPFS_VALUES) if equals else (name in _TMPFS_FLAGS):
            if name in ("uid", "gid") and not value.isdecimal():
                raise InvalidParameter(f"invalid tmpfs option {word!r}", why=f"{name} must be a number")
            continue
        known = ", ".join(sorted(_TMPFS_VALUES))
        raise InvalidParameter(f"invalid tmpfs option {word!r}", hint=f"Options with a value: {known}")
    return MountRequest(type="tmpfs", target=_target(target, target), options=options)


def parse_all(
    binds: Sequence[str] = (),
    mounts: Sequence[Mapping[str, Any]] = (),
    tmpfs: Mapping[str, str] | None = None,
    image_volumes: Iterable[str] = (),
) -> tuple[MountRequest, ...]:
    """Read all mounts of a container; a target of the image's VOLUME that is mounted otherwise is not made again.

    Raises InvalidParameter, also for one target that is mounted twice.
    """
    asked = [*map(parse_bind, binds), *map(parse_mount, mounts), *(parse_tmpfs(t, o) for t, o in (tmpfs or {}).items())]
    taken: set[str] = set()
    for request in asked:
        if request.target in taken:
            raise InvalidParameter(f"Duplicate mount point: {request.target}")
        taken.add(request.target)
    for target in image_volumes:
        request = MountRequest(type="volume", target=_target(target, target))
        if request.target not in taken:
            taken.add(request.target)
            asked.append(request)
    return tuple(asked)


def is_anonymous_name(name: str) -> bool:
    """Tell whether a name is one that the engine made up: 64 hex digits."""
    return _ANONYMOUS.match(name) is not None
