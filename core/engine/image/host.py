"""The built-in image `engine.local/host`: this host's own root file system, read-only below a container's overlay.

Overlayfs refuses an upper directory that lies below its lower directory "/". So two are stacked (the kernel allows
two): a read-only overlay of a *mask* over "/", whose merged view is what containers get as their lower directory. The
mask lies on a small private tmpfs (a directory below "/" on the same file system would be refused as overlapping) and
hides, by opaque directories, what must be empty or must not leak.
Other file systems that are mounted below "/" (/home, /proc ...) do not show: overlayfs does not follow mounts.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from engine import directories
from engine.image.manifest import Platform
from engine.image.model import Image
from engine.image.reference import BUILTIN_REGISTRY
from engine.image.unpack import OPAQUE
from engine.spec.mounts import OverlayMount, Tmpfs

BUILTIN_HOST = f"{BUILTIN_REGISTRY}/host:latest"
"""The name of the built-in image of the host's root file system."""

EMPTIED = {
    "/dev": 0o755,
    "/proc": 0o555,
    "/run": 0o755,
    "/sys": 0o555,
    "/tmp": 0o1777,
    "/var/tmp": 0o1777,
}
"""Directories that a container sees empty, with their modes; the engine's own roots are emptied besides (mode 0700)."""


def image() -> Image:
    """The image; its id depends on nothing but the platform."""
    platform = Platform.host()
    config = {
        "architecture": platform.architecture,
        "os": platform.os,
        "config": {
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "Cmd": ["/bin/sh"],
            "Labels": {"engine.builtin": "host"},
        },
        "rootfs": {"type": "layers", "diff_ids": []},
        "history": [{"created_by": "the root file system of this host", "empty_layer": True}],
    }
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()
    dated = {**config, "created": _release_date()}
    return Image(id=f"sha256:{digest}", config=dated, layers=(), size=0, repo_tags=(BUILTIN_HOST,), builtin=True)


def _release_date() -> str:
    """Return when this host's release was made, as far as its files say."""
    release = Path("/etc/os-release")
    found = (release if release.exists() else Path("/")).stat()
    return datetime.fromtimestamp(int(found.st_mtime), UTC).isoformat().replace("+00:00", "Z")


@dataclass(frozen=True)
class HostRoot:
    """What is mounted for containers of the built-in image: first `tmpfs`, then `write_mask()`, then `overlay`."""

    base: Path
    """Directory of ours below the exec root."""
    private: tuple[Path, ...]
    """The engine's own roots: never shown to a container."""

    @property
    def merged(self) -> Path:
        """Where `overlay` is mounted: the lower directory of containers."""
        return self.base / "root"

    @property
    def mask(self) -> Path:
        """The upper of the two layers of `overlay`."""
        return self.base / "mask"

    @property
    def tmpfs(self) -> Tmpfs:
        """The file system of the mask; it stays while the daemon runs."""
        return Tmpfs(target=str(self.base), size=1 << 20, mode=0o700)

    @property
    def overlay(self) -> OverlayMount:
        """The masked root file system, read-only; shared by the containers that use it."""
        return OverlayMount(target=str(self.merged), lower=(str(self.mask), "/"))

    def write_mask(self) -> None:
        """Make the mask; doing it again changes nothing."""
        self.merged.mkdir(exist_ok=True)
        self.mask.mkdir(exist_ok=True)
        _copy_attributes(Path("/"), self.mask)
        for emptied, mode in EMPTIED.items():
            self._empty(Path(emptied), mode)
        for path in _outermost(Path(os.path.realpath(path)) for path in self.private):
            self._empty(path, 0o700)

    def _empty(self, path: Path, mode: int) -> None:
        at, real = self.mask, Path("/")
        for part in path.parts[1:]:
            at, real = at / part, real / part
            if real.is_symlink():  # for example /var/run: its target is emptied on its own
                return
            if not at.exists():
                directories.make_public(at)
                if real.is_dir():
                    _copy_attributes(real, at)
        at.chmod(mode)
        os.setxattr(at, OPAQUE, b"y")


def _outermost(paths: Iterable[Path]) -> list[Path]:
    """Those that no other of them and no emptied directory holds already."""
    covered = {Path(path) for path in EMPTIED}
    wanted = sorted(set(paths))
    return [path for path in wanted if not covered.union(wanted).intersection(path.parents) and path not in covered]


def _copy_attributes(source: Path, target: Path) -> None:
    found = source.stat()
    os.chown(target, found.st_uid, found.st_gid)
    target.chmod(found.st_mode & 0o7777)
