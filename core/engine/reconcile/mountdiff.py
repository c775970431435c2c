"""How a mount that is there differs from the one that is wanted."""

from __future__ import annotations

import stat
from pathlib import Path

from engine.reconcile import loops, mountapi
from engine.reconcile.filesystems import options_of
from engine.reconcile.mountinfo import Mounted
from engine.spec.encryption import GocryptMount
from engine.spec.mounts import Bind, ImageMount, Mount, OverlayMount, Tmpfs
from engine.spec.resource import Resource

_COMPARED = ("ro", "nosuid", "nodev", "noexec")


def identity_difference(resource: Resource, mounted: Mounted) -> dict[str, tuple[object, object]]:
    """Return the fields in which a mount is another thing than the one wanted: it has to be replaced."""
    match resource:
        case OverlayMount(upper=None, lower=(only,)):
            return _shown(Bind(target=resource.target, source=only), mounted)
        case OverlayMount():
            return _overlay(resource, mounted)
        case Bind():
            return _shown(resource, mounted)
        case Tmpfs():
            return _fstype("tmpfs", mounted)
        case ImageMount():
            backing = loops.status(mounted.source) if mounted.source.startswith("/dev/loop") else None
            wanted = _identity(resource.image)
            same = backing is not None and (backing.backing_device, backing.backing_inode) == wanted
            return _fstype(resource.fs, mounted) or ({} if same else {"image": (resource.image, mounted.source)})
        case GocryptMount():
            fields = _fstype("fuse.gocryptfs", mounted)
            same = mounted.source == resource.store
            return fields or ({} if same else {"store": (resource.store, mounted.source)})
        case Mount():
            fields = _fstype(resource.fstype, mounted)
            return fields or ({} if _same_source(resource, mounted) else {"source": (resource.source, mounted.source)})
    return {"kind": (resource.kind, mounted.fstype)}


def option_difference(resource: Resource, mounted: Mounted) -> dict[str, tuple[object, object]]:
    """Return {"options": (wanted, seen)} if a mount lacks an option, or cannot be written to though it should."""
    wanted = set(options_of(resource))
    seen = {option for option in _COMPARED if option in mounted.options}
    lacking = {option for option in _COMPARED if option in wanted} - seen
    locked = "ro" in seen and "ro" not in wanted and not may_be_read_only(resource)
    return {"options": (tuple(sorted(wanted)), tuple(sorted(seen)))} if lacking or locked else {}


def may_be_read_only(resource: Resource) -> bool:
    """Tell whether a mount may be read-only unasked: by its source, or for want of an upper layer."""
    return isinstance(resource, Bind | OverlayMount)


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = mountapi.identify(path)
    except FileNotFoundError:
        return None
    return found.device, found.inode


def _shown(resource: Bind, mounted: Mounted) -> dict[str, tuple[object, object]]:
    wanted, seen = _identity(resource.source), _identity(mounted.target)
    if resource.subpath and wanted and seen:
        # A container may have moved it since, or put a link there: what was opened then is what is to be shown.
        wanted, seen = (wanted[0], 0), (seen[0], 0)
    return {} if wanted is not None and wanted == seen else {"source": (resource.source, mounted.root)}


def _fstype(wanted: str, mounted: Mounted) -> dict[str, tuple[object, object]]:
    family = {"nfs4": "nfs", "smb3": "cifs"}
    same = family.get(wanted, wanted) == family.get(mounted.fstype, mounted.fstype)
    return {} if same else {"fstype": (wanted, mounted.fstype)}


def _same_source(resource: Mount, mounted: Mounted) -> bool:
    if mounted.source == resource.source:
        return True
    try:
        info = Path(resource.source).stat()
    except OSError:
        return False
    return stat.S_ISBLK(info.st_mode) and info.st_rdev == mounted.device


def _overlay(resource: OverlayMount, mounted: Mounted) -> dict[str, tuple[object, object]]:
    fields = _fstype("overlay", mounted)
    if fields:
        return fields
    lower: list[str] = []
    other: dict[str, str] = {}
    for option in mounted.super_options:
        name, _, value = option.partition("=")
        if name == "lowerdir+":
            lower.append(value)
        elif name == "lowerdir":
            lower += value.split(":")
        else:
            other[name] = value
    if lower and not lower[0].startswith("/proc/self/fd/") and tuple(lower) != resource.lower:
        fields["lower"] = (resource.lower, tuple(lower))
    for name, wanted in (("upperdir", resource.upper), ("workdir", resource.work)):
        if other.get(name) != wanted:
            fields[name.removesuffix("dir")] = (wanted, other.get(name))
    return fields
