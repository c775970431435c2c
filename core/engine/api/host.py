"""What `/info` and `/version` say of the machine."""

from __future__ import annotations

import os
import platform
import time
from datetime import UTC, datetime
from pathlib import Path

_GO_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}


def architecture() -> str:
    """Return the machine's architecture in Go's words, such as "amd64"."""
    machine = platform.machine()
    return _GO_ARCHITECTURES.get(machine, machine)


def memory_bytes() -> int:
    """Return the machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def operating_system() -> tuple[str, str]:
    """Return (name, version) of the distribution."""
    try:
        found = platform.freedesktop_os_release()
    except OSError:
        return "Linux", ""
    return found.get("PRETTY_NAME", "Linux"), found.get("VERSION_ID", "")


def open_files() -> int:
    """Return how many descriptors this process has."""
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names only, on a hot path of nothing


def cgroup_version() -> str:
    """Return "2" on a unified hierarchy, else "1"."""
    return "2" if Path("/sys/fs/cgroup/cgroup.controllers").exists() else "1"


def now() -> str:
    """Return the time in RFC 3339 with nanoseconds."""
    nanoseconds = time.time_ns()
    moment = datetime.fromtimestamp(nanoseconds // 10**9, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{nanoseconds % 10**9:09d}Z"
