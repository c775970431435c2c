"""The applier of mounts: bind, tmpfs, overlay, images and file systems of the kernel, below the engine's own roots.

No journal is needed: whatever is mounted strictly below the roots is ours. A mount that is in use is never taken away
lazily: that would hide its users and keep its loop device, key or server connection.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from engine.reconcile import filesystems, gocryptfs, mountapi, mountinfo
from engine.reconcile.applier import BatchError, Context, Difference
from engine.reconcile.encryption import NoKeys, VolumeKeys
from engine.reconcile.filesystems import options_of, target_of
from engine.reconcile.mountdiff import identity_difference, may_be_read_only, option_difference
from engine.reconcile.mountfailures import refused
from engine.spec.encryption import GocryptMount
from engine.spec.errors import EngineError
from engine.spec.mounts import Bind
from engine.spec.resource import Key, Resource

BUSY_DEADLINE = 1.0
"""Seconds that a busy mount is tried again: the last references of a process go a little after it."""


class MountApplier:
    """Applier of the family "mount".

    `roots` are directories in which every mount is this engine's (such as `<exec-root>/vol`): mount points are made
    below them only, and what is mounted there and not wanted is garbage. A root itself may be a mount of others.
    """

    families: ClassVar[frozenset[str]] = frozenset({"mount"})

    def __init__(self, roots: Sequence[str | os.PathLike[str]], keys: VolumeKeys | None = None) -> None:
        """Take the roots, which need not exist yet, and where the keys of encrypted mounts are."""
        self._keys = keys or NoKeys()
        self._roots = tuple((str(Path(root).absolute()), str(Path(root).resolve())) for root in roots)

    # Applier

    def create(self, batch: Sequence[Resource], context: Context) -> Sequence[Resource]:
        """Mount things on places where nothing is mounted. Raises BatchError."""
        created: list[Resource] = []
        for resource in batch:
            try:
                self._create(resource)
            except OSError as err:
                raise refused(resource, err, created, context.owner) from err
            except EngineError as err:
                raise BatchError(resource, err, created) from err
            created.append(resource)
        return created

    def update(self, old: Resource, new: Resource, context: Context) -> None:
        """Change the options of a mount in place. Raises BatchError."""
        wanted = options_of(new)
        dropped = {*options_of(old), *(() if may_be_read_only(new) else ("ro",))} - set(wanted)
        root, relative = self._place(target_of(new))
        try:
            mount = mountapi.open_below(root, relative)
            try:
                recursive = isinstance(new, Bind) and new.recursive
                mountapi.set_attributes(mount, wanted, clear=dropped, recursive=recursive)
            finally:
                os.close(mount)
        except OSError as err:
            raise refused(new, err, (), context.owner) from err

    def remove(self, batch: Sequence[Resource], context: Context) -> list[tuple[Resource, Exception]]:
        """Unmount things and remove their mount points. A busy one is tried for a second."""
        left: list[tuple[Resource, Exception]] = []
        for resource in batch:
            try:
                root, relative = self._place(target_of(resource))
                self._unmount(f"{root}/{relative}", submounts=isinstance(resource, Bind) and resource.recursive)
            except PermissionError as err:
                # The engine was started with other roots since; after a reboot, say, there is nothing to do.
                if any(mounted.target == target_of(resource) for mounted in mountinfo.read()):
                    left.append((resource, err))
            except OSError as err:
                left.append((resource, err))
        return left

    def diff(self, wanted: Mapping[Key, Resource], contexts: Mapping[Key, Context]) -> list[Difference]:
        """Compare with one reading of mountinfo."""
        seen = {mounted.target: mounted for mounted in mountinfo.read()}  # of several on one place the last is on top
        found: list[Difference] = []
        for key, resource in wanted.items():
            owner = contexts[key].owner if key in contexts else ""
            mounted = seen.get(self._real(target_of(resource)))
            if mounted is None:
                found.append(Difference(key, "missing", owner=owner, resource=resource))
                continue
            fields = identity_difference(resource, mounted)
            if not fields and isinstance(resource, GocryptMount) and gocryptfs.is_dead(mounted.target):
                fields = {"process": ("running", "ended")}
            state = "replace" if fields else "differs"
            fields = fields or option_difference(resource, mounted)
            if fields:
                found.append(Difference(key, state, fields, owner, resource))
        return found

    def unwanted(self, wanted: Mapping[Key, Resource]) -> list[Difference]:
        """Return the mounts below our roots that nobody wants, the last one first. Namespaces (nsfs) are left out."""
        targets = [self._real(target_of(r)) for r in wanted.values() if r.key[0] in self.families]
        keep = set(targets)
        trees = [self._real(target_of(r)) for r in wanted.values() if isinstance(r, Bind) and r.recursive]
        found: dict[str, Difference] = {}
        for mounted in reversed(mountinfo.read()):
            if mounted.fstype == "nsfs" or not any(mountinfo.is_below(mounted.target, root) for _, root in self._roots):
                continue
            if mounted.target in keep or any(mountinfo.is_below(mounted.target, tree) for tree in trees):
                continue
            found.setdefault(mounted.target, Difference(("mount", "host", mounted.target), "unwanted"))
        return list(found.values())

    def discard(self, difference: Difference) -> None:
        """Unmount what `unwanted` returned. Raises OSError."""
        root, relative = self._place(difference.key[2])
        self._unmount(f"{root}/{relative}", submounts=False)

    # One mount

    def _create(self, resource: Resource) -> None:
        root, relative = self._place(target_of(resource))
        kind = "directory" if filesystems.is_directory(resource) else "file"
        target = mountapi.open_below(root, relative, make=kind)
        try:
            if mountapi.identify(target).mount_root:
                raise FileExistsError(errno.EEXIST, "something is mounted there already", target_of(resource))
            mount = filesystems.make(resource, target, self._keys)
            if mount is not None:
                _attach(mount, target)
                return
        except (OSError, EngineError):
            self._forget_place(f"{root}/{relative}")
            raise
        finally:
            os.close(target)
        mount = mountapi.open_below(root, relative)
        try:
            mountapi.set_attributes(mount, private=True)
        finally:
            os.close(mount)

    def _unmount(self, path: str, *, submounts: bool) -> None:
        """Unmount everything that is stacked on a place, then remove the empty mount point."""
        deadline = time.monotonic() + BUSY_DEADLINE
        pause = 0.001
        while True:
            try:
                mountapi.unmount(path)
                pause = 0.001
            except OSError as err:
                if err.errno in (errno.EINVAL, errno.ENOENT):  # nothing is mounted there (any more)
                    break
                if err.errno != errno.EBUSY:
                    raise
                if submounts and _unmount_below(path):
                    continue
                if time.monotonic() > deadline:
                    raise OSError(errno.EBUSY, _who_holds(path), path) from err
                time.sleep(pause)
                pause = min(pause * 2, 0.1)
        self._forget_place(path)

    def _forget_place(self, path: str) -> None:
        """Remove an empty mount point. One that is not empty has hidden data: it stays."""
        try:
            Path(path).rmdir()
        except NotADirectoryError:
            info = Path(path).lstat()
            if stat.S_ISREG(info.st_mode) and info.st_size == 0:
                Path(path).unlink()
        except OSError as err:
            if err.errno not in (errno.ENOENT, errno.ENOTEMPTY, errno.EBUSY):
                raise

    # Places

    def _place(self, target: str) -> tuple[str, str]:
        """Return (resolved root, path below it). Raises PermissionError for what is not below a root."""
        for given, real in self._roots:
            for root in (given, real):
                if mountinfo.is_below(target, root):
                    return real, target[len(root) :].strip("/")
        roots = ", ".join(given for given, _ in self._roots)
        why = f"a mount point has to be below the engine's own directories ({roots})"
        raise PermissionError(errno.EACCES, why, target)

    def _real(self, target: str) -> str:
        """Return a target as mountinfo spells it."""
        try:
            return "/".join(self._place(target))
        except PermissionError:  # made by an engine with other roots: looked at, not touched
            return target


def _attach(mount: int, target: int) -> None:
    """Make a detached mount visible, then take it and what it brings along out of any peer group."""
    try:
        mountapi.attach(mount, target)
        mountapi.set_attributes(mount, private=True, recursive=True)  # attaching below a shared mount shared it
    finally:
        os.close(mount)


def _unmount_below(path: str) -> bool:
    """Unmount what a recursive bind brought along; tell whether anything went away."""
    gone = False
    for mounted in reversed(mountinfo.below(path)):
        try:
            mountapi.unmount(mounted.target)
            gone = True
        except OSError as err:
            if err.errno not in (errno.EBUSY, errno.EINVAL, errno.ENOENT):
                raise
    return gone


def _who_holds(path: str) -> str:
    mounts = mountinfo.read()
    inner = [m.target for m in mounts if mountinfo.is_below(m.target, path)]
    if inner:
        return f"other things are mounted below it: {', '.join(inner[:5])}"
    users = [who for m in mounts if m.target == path for who in mountinfo.holders(m)]
    return f"it is in use by {', '.join(users[:10])}" if users else "it is in use by the kernel"


def make_private(root: str | os.PathLike[str]) -> None:
    """Make sure that mounts below a directory are not seen in, and not held by, other mount namespaces.

    Where the directory lies in a shared mount (the default of systemd), it becomes a private bind mount of itself, with
    `nosuid`: root file systems are mounts of their own. Does nothing the second time. Raises OSError.
    """
    path = str(Path(root).resolve())
    Path(path).mkdir(mode=0o700, parents=True, exist_ok=True)
    holding = max(
        (m for m in mountinfo.read() if m.target == path or mountinfo.is_below(path, m.target)),
        key=lambda m: len(m.target),
    )
    if not holding.shared:
        return
    source = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        mount = mountapi.clone(source, recursive=True)
        mountapi.set_attributes(mount, ("nosuid",))
        _attach(mount, source)
    finally:
        os.close(source)
