"""Capability sets: docker's defaults, what is added and dropped, and what this process can pass on at all."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from engine.spec.errors import InvalidParameter, Unsupported

# In the order of their numbers in linux/capability.h.
_NAMES = """
CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE
NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN
SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE
MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE
"""
ALL = tuple(f"CAP_{name}" for name in _NAMES.split())

# Docker's default set (docs.docker.com, "Runtime privilege and Linux capabilities").
DEFAULT = (
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID", "CAP_SETUID",
    "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
)  # fmt: skip


@cache
def available() -> frozenset[str]:
    """The capabilities of this process, which are all that a container of ours can have (capabilities(7), CapBnd
    and CapPrm).
    """
    fields = dict(
        line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("Cap")
    )
    held = int(fields["CapBnd"], 16) & int(fields["CapPrm"], 16)
    return frozenset(name for number, name in enumerate(ALL) if held >> number & 1)


def normalise(name: str) -> str:
    """`net_admin`, `NET_ADMIN` and `CAP_NET_ADMIN` are one capability; `ALL` stays `ALL`. Raises InvalidParameter."""
    upper = name.strip().upper()
    if upper == "ALL":
        return upper
    full = upper if upper.startswith("CAP_") else f"CAP_{upper}"
    if full not in ALL:
        raise InvalidParameter(f"unknown capability {name!r}", hint="See capabilities(7) for the names")
    return full


def effective(add: Sequence[str], drop: Sequence[str], *, privileged: bool = False) -> tuple[str, ...]:
    """The container's capabilities in the order of their numbers.

    `ALL` may stand in `add` or `drop`. Raises InvalidParameter for an unknown name, Unsupported for one asked for by
    name that this process does not hold itself.
    """
    added = {normalise(name) for name in add}
    dropped = {normalise(name) for name in drop}
    held = available()
    missing = sorted(added - held - {"ALL"})
    if missing and not privileged:
        raise Unsupported(
            f"cannot give the container {', '.join(missing)}",
            why="the engine itself does not hold it",
            hint="Start the engine with that capability, or leave out --cap-add",
        )
    if privileged or "ALL" in added:
        base = set(held)
    elif "ALL" in dropped:
        base = set()
    else:
        base = set(DEFAULT) & held
    chosen = (base if privileged else base - dropped) | (added - {"ALL"})
    return tuple(name for name in ALL if name in chosen & held)
