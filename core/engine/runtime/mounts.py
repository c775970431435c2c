"""The mounts of a container: docker's defaults, the caller's, and the order in which they must be made."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.runtime.model import HOST, ContainerSpec, Mount
from engine.spec.errors import InvalidParameter

_DEV = ("nosuid", "strictatime", "mode=755", "size=65536k")
_SAFE = ("nosuid", "noexec", "nodev")


def all_mounts(spec: ContainerSpec, *, init_binary: str = "") -> list[dict[str, Any]]:
    """OCI mounts of `spec`, parents before children; what the caller mounts replaces a default at the same place.

    Raises InvalidParameter for a target that is not absolute, is / itself, or is given twice.
    """
    chosen = {mount.target: mount for mount in _defaults(spec)}
    asked = [*spec.mounts, *_tmpfs(spec.tmpfs)]
    if init_binary:
        asked.append(Mount(target="/sbin/docker-init", source=init_binary, options=("bind", "ro")))
    seen: set[str] = set()
    for mount in asked:
        target = posixpath.normpath(mount.target)
        if not target.startswith("/") or target == "/":
            raise InvalidParameter(
                f"invalid mount target {mount.target!r}", why="it must be an absolute path other than /"
            )
        if target in seen:
            raise InvalidParameter(f"duplicate mount point {target}")
        seen.add(target)
        chosen.pop(target, None)
        chosen[target] = Mount(target=target, source=mount.source, type=mount.type, options=mount.options)
    # Sorting by depth is stable: parents come before children, and otherwise the given order is kept.
    ordered = sorted(chosen.values(), key=lambda mount: mount.target.count("/"))
    return [_oci(mount) for mount in ordered]


def _oci(mount: Mount) -> dict[str, Any]:
    options = mount.options
    if mount.type == "bind" and not {"bind", "rbind"} & set(options):
        options = ("rbind", *options)
    return {
        "destination": mount.target,
        "type": mount.type,
        "source": mount.source or mount.type,
        "options": list(options),
    }


def _defaults(spec: ContainerSpec) -> Sequence[Mount]:
    access = "rw" if spec.privileged else "ro"
    return (
        Mount(target="/proc", source="proc", type="proc", options=_SAFE),
        Mount(target="/dev", source="tmpfs", type="tmpfs", options=_DEV),
        Mount(
            target="/dev/pts", source="devpts", type="devpts",
            options=("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
        ),
        Mount(target="/sys", source="sysfs", type="sysfs", options=(*_SAFE, access)),
        Mount(target="/sys/fs/cgroup", source="cgroup", type="cgroup", options=(*_SAFE, access)),
        *_ipc_mounts(spec),
    )  # fmt: skip


def _ipc_mounts(spec: ContainerSpec) -> Sequence[Mount]:
    if spec.ipc == HOST:
        mqueue = Mount(target="/dev/mqueue", source="/dev/mqueue", options=("rbind", *_SAFE))
        return (
            *([mqueue] if Path(mqueue.source).is_dir() else []),  # not every host mounts it
            Mount(target="/dev/shm", source=spec.shm_path or "/dev/shm", options=("rbind", *_SAFE)),
        )
    mqueue = Mount(target="/dev/mqueue", source="mqueue", type="mqueue", options=_SAFE)
    if spec.shm_path:
        return (mqueue, Mount(target="/dev/shm", source=spec.shm_path, options=("rbind", *_SAFE)))
    shm = ("mode=1777", f"size={spec.shm_size}")
    return (mqueue, Mount(target="/dev/shm", source="shm", type="tmpfs", options=(*_SAFE, *shm)))


def _tmpfs(tmpfs: Mapping[str, str]) -> Sequence[Mount]:
    return [
        Mount(target=target, source="tmpfs", type="tmpfs", options=_tmpfs_options(text))
        for target, text in tmpfs.items()
    ]


def _tmpfs_options(text: str) -> tuple[str, ...]:
    """Docker's defaults (noexec, nosuid, nodev), each replaced by its contrary when that was given."""
    given = [option for option in text.split(",") if option]
    defaults = [option for option in _SAFE if option.removeprefix("no") not in given and option not in given]
    return (*defaults, *given)
