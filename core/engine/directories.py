"""Directories of the engine, and those that it makes for others: with the mode that is meant, whatever the umask.

The daemon runs with umask 077, so that what nobody thought of is nobody else's business.
"""

from __future__ import annotations

from pathlib import Path

UMASK = 0o077
"""Of the daemon and what it starts; containers and their monitors have `CONTAINER_UMASK`."""
CONTAINER_UMASK = 0o022
"""What a container's first process, its execs, and the mount points that are made in its root file system have: that
of a login, and of Docker.
"""


def make_private(root: Path) -> None:
    """Make a root of the engine, which root only may enter; one that is there and open to others is tightened.

    Whoever else of the host could enter it could run setuid programs of containers (CVE-2021-41091), and read what
    they write.
    """
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    if root.stat().st_mode & 0o777 != 0o700:
        root.chmod(0o700)


def make_public(path: Path) -> None:
    """Make a directory and what is missing above it, 0755, for others than the engine. Raises OSError."""
    missing = [p for p in (path, *path.parents) if not p.exists()]
    for directory in reversed(missing):
        try:
            directory.mkdir()
        except FileExistsError:
            continue  # somebody was faster: it is theirs
        directory.chmod(0o755)
