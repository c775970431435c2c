"""From an errno of the kernel to an error that tells a person what was refused, why, and what to do."""

from __future__ import annotations

import errno as errnos
import os
from collections.abc import Iterable

from engine.reconcile.applier import BatchError
from engine.reconcile.probes import link_kind_supported
from engine.spec.errors import ApplyFailed, EngineError, Unavailable, Unsupported
from engine.spec.links import Extern, Link
from engine.spec.resource import Key, Resource

_HINTS: dict[tuple[str, int], str] = {
    ("link", errnos.EEXIST): "A link of that name (or a tunnel of that VNI) is there already; `ip link` shows it.",
    ("link", errnos.ENODEV): "A link that it hangs on (its parent or its bridge) does not exist.",
    ("link", errnos.ENOENT): "The sandbox is gone: perhaps its container has ended meanwhile.",
    ("link", errnos.EBUSY): "The parent is in use in a way that excludes this, for example it is a port of a bridge.",
    ("link", errnos.EINVAL): "Perhaps the parent cannot carry this kind, or another child took it in mode passthru.",
    ("link", errnos.EXFULL): "The bridge has as many ports as it can (1023); use a further network.",
    ("address", errnos.EEXIST): "The link has that address already.",
    ("address", errnos.EACCES): "IPv6 is off for the link (net.ipv6.conf.<link>.disable_ipv6).",
    ("route", errnos.EEXIST): "There is another route for that destination and metric.",
    ("route", errnos.ENETUNREACH): "The next hop is not in a network that the link has an address of.",
    ("route", errnos.EINVAL): "The next hop is an address of this host, or of another family.",
    ("sysctl", errnos.ENOENT): "This kernel has no such parameter, or its module is not loaded.",
    ("sysctl", errnos.EINVAL): "The kernel does not take that value.",
    ("sysctl", errnos.EROFS): "/proc/sys is read-only here.",
    ("port", errnos.EEXIST): "The port is published already.",
    ("masquerade", errnos.EEXIST): "The subnet overlaps with one of another network.",
}
_GENERAL: dict[int, str] = {
    errnos.EPERM: "Engine must run as root with CAP_NET_ADMIN and CAP_SYS_ADMIN.",
    errnos.ENOBUFS: "The kernel was short of buffers; try again.",
    errnos.ENOMEM: "The kernel was short of memory.",
}


def name_of(resource: Resource) -> str:
    """Return how a person would call a resource: its kind and natural name."""
    return " ".join((resource.kind, *(part for part in resource.key[2:] if part not in ("None", ""))))


def _why(err: BatchError) -> str:
    if not err.errno:
        return str(err.cause)
    symbol = errnos.errorcode.get(err.errno, str(err.errno))
    text = str(err.cause.strerror if isinstance(err.cause, OSError) else err.cause) or os.strerror(err.errno)
    return f"{text} ({symbol})"


def explain(err: BatchError, owner: str, left: Iterable[Key] = ()) -> EngineError:
    """Return the error to raise for a batch that failed and was undone, except for what is `left`."""
    resource = err.failed
    if isinstance(err.cause, EngineError):
        return err.cause
    details: dict[str, object] = {"resource": list(resource.key), "owner": owner, "left": [list(key) for key in left]}
    if err.errno:
        details["errno"] = errnos.errorcode.get(err.errno, err.errno)
    if isinstance(resource, Extern):
        return Unavailable(
            f"the link {resource.name} is not there", why=_why(err), details=details,
            hint="It is not Engine's: make it or plug it in, or name another one.",
        )  # fmt: skip
    if err.errno in (errnos.EOPNOTSUPP, errnos.EPROTONOSUPPORT, errnos.EAFNOSUPPORT) and not _has_kind(resource):
        return Unsupported(
            f"the kernel has no {resource.kind}", why=_why(err), details=details,
            hint=f"`modprobe {resource.kind}` may help if the kernel has it as a module.",
        )  # fmt: skip
    hint = _GENERAL.get(err.errno) or _HINTS.get((resource.key[0], err.errno), "")
    return ApplyFailed(f"cannot make {name_of(resource)}", why=_why(err), hint=hint, details=details)


def _has_kind(resource: Resource) -> bool:
    """Tell whether the kernel can make links of this kind, and so refused for another reason."""
    try:
        return isinstance(resource, Link) and link_kind_supported(resource.kind)
    except OSError:
        return False
