"""From an errno of a mount to an error that says what was refused, why, and what to do."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Sequence
from pathlib import Path

from engine.reconcile.applier import BatchError
from engine.reconcile.filesystems import target_of
from engine.spec.errors import ApplyFailed, EngineError, Unavailable, Unsupported
from engine.spec.mounts import Bind, ImageMount, Mount, OverlayMount
from engine.spec.resource import Resource

_HINTS = {
    errno.EBUSY: "Another mount or process uses it: see `findmnt` and `fuser -vm`",
    errno.ENOENT: "Check that the source exists",
    errno.EINVAL: "The kernel does not take these options or this source: see `dmesg`",
    errno.EPERM: "Mounting needs root (CAP_SYS_ADMIN) in the host's mount namespace",
    errno.ENODEV: "This kernel does not have the file system: see /proc/filesystems and modprobe(8)",
    errno.ELOOP: "Directories overlap, or a symbolic link is in the way",
    errno.ENOSYS: "Linux 5.12 or newer is needed",
    errno.ENOTBLK: "The source is not a block device",
    errno.EXDEV: "A symbolic link leads out of the volume",
    errno.ETIMEDOUT: "Check that the server is up and can be reached",
    errno.EHOSTUNREACH: "Check the server's name and the route to it",
    errno.ECONNREFUSED: "Check that the server runs and exports the path",
}


def hint_for(code: int) -> str:
    """Return what a person can do about an errno of a mount; empty if nothing is known."""
    return _HINTS.get(code, "")


def refused(resource: Resource, err: OSError, created: Sequence[Resource], owner: str) -> BatchError:
    """Return the error of a mount that was refused, of the kind that says whether trying again can help."""
    code = err.errno or 0
    kind: type[EngineError] = {
        errno.ENODEV: Unsupported, errno.ETIMEDOUT: Unavailable, errno.EHOSTUNREACH: Unavailable,
        errno.ECONNREFUSED: Unavailable,
    }.get(code, ApplyFailed)  # fmt: skip
    details = {"resource": list(resource.key), "owner": owner, "errno": errno.errorcode.get(code, code), "left": []}
    cause = kind(
        f"cannot mount {target_of(resource)}", why=_reason(resource, err), hint=hint_for(code), details=details
    )
    cause.__cause__ = err
    return BatchError(resource, cause, created, exists=code == errno.EEXIST, errno=code)


def _reason(resource: Resource, err: OSError) -> str:
    """Say what the kernel said, and name the directory that is missing where it did not."""
    text = err.strerror or str(err)
    if err.errno == errno.ENOENT:
        missing = [path for path in _sources(resource) if not Path(path).exists()]
        if missing:
            return f"{missing[0]} does not exist"
    if isinstance(err.filename, str) and err.filename and err.filename not in text:
        text += f" ({err.filename})"
    return text


def _sources(resource: Resource) -> Iterable[str]:
    match resource:
        case OverlayMount():
            return [*resource.lower, *(p for p in (resource.upper, resource.work) if p)]
        case Bind():
            return [f"{resource.source}/{resource.subpath}".rstrip("/")]
        case ImageMount():
            return [resource.image]
        case Mount():
            return [resource.source] if resource.source.startswith("/") and not resource.source.startswith("//") else []
    return []
