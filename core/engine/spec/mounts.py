"""Resources of a volume: data that is made once, and mounts that follow its use.

Paths are absolute and come from the core (`volume.data`, `volume.run`), so that nothing has to be learned while a plan
is applied. Outside sources (a bind, a device) may only be what the operator gave in an option.
Kernel documents: mount(2), Documentation/filesystems/overlayfs.rst, loop(4).
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from engine.spec.resource import Key, Life, Resource, Scope

PHASE_DATA, PHASE_MOUNT = 10, 20


def _absolute(value: str) -> str:
    if not value.startswith("/") or "\0" in value:
        raise ValueError(f"{value!r} is not an absolute path")
    if ".." in value.split("/"):
        raise ValueError(f"{value!r} has '..' in it")
    return posixpath.normpath("/" + value.lstrip("/"))


AbsolutePath = Annotated[str, AfterValidator(_absolute)]
"""A normalised absolute path without `..`."""
MountOption = Literal["ro", "nosuid", "nodev", "noexec", "noatime", "nodiratime", "relatime", "sync", "dirsync"]
"""Mount flags that a plan may ask for. `nosuid` and `nodev` are the volume manager's default."""


class Directory(Resource):
    """A directory. `data`: made when the volume is created, and missed afterwards."""

    PHASE: ClassVar[int] = PHASE_DATA
    FAMILY: ClassVar[str] = "path"
    ID: ClassVar[tuple[str, ...]] = ("path",)
    LIFE: ClassVar[Life] = "data"

    kind: Literal["directory"] = "directory"
    path: AbsolutePath
    """Below the volume's `data`."""
    mode: int = Field(default=0o755, ge=0, le=0o7777)
    """Permissions when it is made."""
    uid: int = Field(default=0, ge=0)
    """Owner when it is made."""
    gid: int = Field(default=0, ge=0)
    """Group when it is made."""


class Image(Resource):
    """A sparse file with a file system in it: a hard size limit and usage without a walk."""

    PHASE: ClassVar[int] = PHASE_DATA
    FAMILY: ClassVar[str] = "path"
    ID: ClassVar[tuple[str, ...]] = ("path",)
    LIFE: ClassVar[Life] = "data"

    kind: Literal["image"] = "image"
    path: AbsolutePath
    """Below the volume's `data`."""
    size: int = Field(ge=1 << 20)
    """Bytes."""
    fs: Literal["ext4", "xfs", "btrfs"] = "ext4"
    """File system in it."""
    features: tuple[str, ...] = ()
    """Features of the file system, as `mkfs` names them: `encrypt`."""
    mode: int = Field(default=0o755, ge=0, le=0o7777)
    """Mode and owner of the file system's own directory."""
    uid: int = Field(default=0, ge=0)
    """Owner of the file system's root."""
    gid: int = Field(default=0, ge=0)
    """Group of the file system's root."""


class _Mounted(Resource):
    """Base of what is mounted at `target`. Mounts nest by path: the outer one comes first."""

    PHASE: ClassVar[int] = PHASE_MOUNT
    FAMILY: ClassVar[str] = "mount"
    ID: ClassVar[tuple[str, ...]] = ("target",)
    MUTABLE: ClassVar[frozenset[str]] = frozenset({"options"})

    target: AbsolutePath
    """Mount point: below the volume's `run`."""
    options: tuple[MountOption, ...] = ()
    """Flags of the mount."""

    def requires(self) -> Iterable[Key]:
        """Return the keys of mounts above the target: only those that are in the plan count."""
        parts = self.target.strip("/").split("/")
        return tuple(("mount", "host", "/" + "/".join(parts[:n])) for n in range(1, len(parts)))


def mounts_around(path: str) -> Iterable[Key]:
    """Return the keys of all mounts that a path may lie in: only those that are in the plan count."""
    parts = path.strip("/").split("/")
    for n in range(1, len(parts) + 1):
        yield ("mount", "host", "/" + "/".join(parts[:n]))


class ImageMount(_Mounted):
    """The file system in an `Image` file, mounted by a loop device that goes with the mount."""

    kind: Literal["image-mount"] = "image-mount"
    image: AbsolutePath
    """Path of the file."""
    fs: Literal["ext4", "xfs", "btrfs"] = "ext4"
    """File system in it."""

    def requires(self) -> Iterable[Key]:
        """The file, what it lies in, and the mounts above the target."""
        return (("path", "host", self.image), *mounts_around(self.image), *super().requires())


class Mount(_Mounted):
    """A file system of the kernel: nfs, cifs, a block device. `data` goes to the file system as it is."""

    kind: Literal["mount"] = "mount"
    fstype: str = Field(pattern=r"^[a-z0-9_.-]+$")
    """Type of the file system, as in mount(8)."""
    source: str
    """What is mounted: as the operator gave it in an option."""
    data: str = ""
    """Options of the file system, separated by commas."""


class Tmpfs(_Mounted):
    """A file system in memory; `size` in bytes, 0 for the kernel's default (half of the memory)."""

    kind: Literal["tmpfs"] = "tmpfs"
    size: int = Field(default=0, ge=0)
    """Bytes."""
    mode: int = Field(default=0o1777, ge=0, le=0o7777)
    """Permissions of its root."""
    uid: int = Field(default=0, ge=0)
    """Owner of its root."""
    gid: int = Field(default=0, ge=0)
    """Group of its root."""
    data: str = ""
    """Further options of tmpfs(5), for example `nr_inodes=1k`."""


class Bind(_Mounted):
    """A directory or file that is seen at a second place."""

    kind: Literal["bind"] = "bind"
    source: AbsolutePath
    """What is seen: below the volume, or as the operator gave it in an option."""
    recursive: bool = True
    """With the mounts below the source; `options` then hold for them as well."""
    subpath: str = ""
    """What of the source is shown, relative to it. Links that lead out of the source are refused when it is mounted."""

    def requires(self) -> Iterable[Key]:
        """What the source lies in, and the mounts above the target."""
        return (*(k for k in mounts_around(self.source)), ("path", "host", self.source), *super().requires())


class OverlayMount(_Mounted):
    """Directories laid over each other: `lower` top-most first, changes go to `upper`. Without `upper` read-only."""

    SCOPE: ClassVar[Scope] = "shared"

    kind: Literal["overlay"] = "overlay"
    lower: tuple[AbsolutePath, ...]
    """Layers that are only read, the top-most first."""
    upper: AbsolutePath | None = None
    """Where changes go."""
    work: AbsolutePath | None = None
    """Empty directory on the file system of `upper`, for the kernel's use."""

    def requires(self) -> Iterable[Key]:
        """What the layers lie in, and the mounts above the target."""
        layers = (*self.lower, *((self.upper,) if self.upper else ()))
        return (*(k for layer in layers for k in mounts_around(layer)), *super().requires())
