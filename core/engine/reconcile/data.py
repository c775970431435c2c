"""The applier of data: directories and images are made once, while their volume is created, and then only looked at.

Nothing here corrects, recreates or removes: an idempotent "make sure" would put a new, empty image in the place of one
whose disk is not mounted. What is half made when the engine dies lies in a volume that nobody was told of; its manager
removes it whole.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from engine import treewalk
from engine.reconcile import encryption, gocryptfs, loops, mountapi, mountinfo
from engine.reconcile.applier import BatchError, Context, Difference
from engine.reconcile.encryption import NoKeys, VolumeKeys
from engine.spec.encryption import EncryptedDirectory, GocryptStore
from engine.spec.errors import ApplyFailed, Conflict, EngineError, Unsupported
from engine.spec.mounts import Directory, Image
from engine.spec.resource import Key, Resource

MKFS_DEADLINE = 120.0
"""Seconds for making a file system; with lazy initialisation it takes well below one, whatever its size."""
_MKFS = {
    # 4 KiB blocks also for small images: a loop device with sectors of 4 KiB does not take smaller ones.
    "ext4": ("mkfs.ext4", "-q", "-F", "-b", "4096", "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard"),
    "xfs": ("mkfs.xfs", "-q", "-f", "-K"),
    "btrfs": ("mkfs.btrfs", "-q", "-f", "-K"),
}
_PACKAGES = {"ext4": "e2fsprogs", "xfs": "xfsprogs", "btrfs": "btrfs-progs"}
_FEATURES = {"ext4": "-O", "xfs": "-m", "btrfs": "-O"}


class DataApplier:
    """Applier of the family "path": directories, images with a file system, and encrypted directories of both kinds."""

    families: ClassVar[frozenset[str]] = frozenset({"path"})

    def __init__(self, keys: VolumeKeys | None = None) -> None:
        """Take where the keys of encrypted directories are."""
        self._keys = keys or NoKeys()

    def create(self, batch: Sequence[Resource], context: Context) -> Sequence[Resource]:
        """Make data that does not exist yet. Raises BatchError."""
        created: list[Resource] = []
        for resource in batch:
            try:
                _create(resource, self._keys)
            except (OSError, EngineError) as err:
                raise _refused(resource, err, created, context.owner) from err
            created.append(resource)
        return created

    def update(self, old: Resource, new: Resource, context: Context) -> None:
        """Data is never changed by a plan: raises Unsupported."""
        raise Unsupported(f"{'/'.join(new.key)} cannot be changed in place")

    def remove(self, batch: Sequence[Resource], context: Context) -> list[tuple[Resource, Exception]]:
        """Do nothing: data stays when its plan goes. Its manager removes it with the volume."""
        return []

    def diff(self, wanted: Mapping[Key, Resource], contexts: Mapping[Key, Context]) -> list[Difference]:
        """Return what is missing, or is there as another kind of file."""
        found: list[Difference] = []
        for key, resource in wanted.items():
            owner = contexts[key].owner if key in contexts else ""
            path = _path(resource)
            if not path.exists():
                found.append(Difference(key, "missing", owner=owner, resource=resource))
            elif path.is_dir() is isinstance(resource, Image):
                seen = "directory" if path.is_dir() else "file"
                found.append(Difference(key, "foreign", {"kind": (resource.kind, seen)}, owner, resource))
            elif isinstance(resource, EncryptedDirectory) and (
                fields := encryption.directory_difference(resource, self._keys)
            ):
                found.append(Difference(key, "foreign", fields, owner, resource))
        return found

    def unwanted(self, wanted: Mapping[Key, Resource]) -> list[Difference]:
        """Data is never garbage: volumes without a record are reported by the manager."""
        return []

    def discard(self, difference: Difference) -> None:
        """Never called, because nothing is unwanted: raises Unsupported."""
        raise Unsupported(f"{'/'.join(difference.key)} is data: it is not collected")


def _path(resource: Resource) -> Path:
    assert isinstance(resource, Directory | Image | EncryptedDirectory | GocryptStore)
    return Path(resource.path)


def _create(resource: Resource, keys: VolumeKeys) -> None:
    match resource:
        case Directory():
            path = Path(resource.path)
            path.mkdir(mode=0o700)
            os.chown(path, resource.uid, resource.gid)
            path.chmod(resource.mode)  # mkdir's mode is cut by the umask, and chown clears setgid
        case Image():
            _create_image(resource)
        case EncryptedDirectory():
            encryption.make_directory(resource, keys)
        case GocryptStore():
            gocryptfs.make_store(resource, keys.read(resource.slots))
        case _:
            raise Unsupported(f"data of kind {resource.kind!r} is not known here")
    _sync_directory(_path(resource).parent)


def _create_image(resource: Image) -> None:
    path = Path(resource.path)
    if path.exists():
        raise FileExistsError(errno.EEXIST, "it is there already", str(path))
    unfinished = path.with_name(path.name + ".new")
    unfinished.unlink(missing_ok=True)
    try:
        unfinished.touch(mode=0o600, exist_ok=False)
        os.truncate(unfinished, resource.size)
        _make_filesystem(resource, unfinished)
        _set_root(resource, unfinished)
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        unfinished.rename(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def _make_filesystem(resource: Image, path: Path) -> None:
    program, *arguments = _MKFS[resource.fs]
    found = shutil.which(program, path="/usr/sbin:/sbin:/usr/bin:/bin")
    if found is None:
        raise Unsupported(f"{program} is not installed", hint=f"Install the package {_PACKAGES[resource.fs]}")
    if resource.features:
        arguments += [_FEATURES[resource.fs], ",".join(resource.features)]
    try:
        done = subprocess.run(
            [found, *arguments, str(path)],
            capture_output=True,
            text=True,
            timeout=MKFS_DEADLINE,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired as err:
        raise TimeoutError(errno.ETIMEDOUT, f"{program} did not end within {MKFS_DEADLINE:g} seconds") from err
    if done.returncode != 0:
        raise OSError(errno.EINVAL, f"{program} failed: {done.stderr.strip()[-500:]}", str(path))


def _set_root(resource: Image, path: Path) -> None:
    """Give the file system's own directory its owner and mode, and take lost+found away: programs want it empty.

    The mount is seen nowhere, and goes with this process.
    """
    with path.open("r+b") as file:
        device, keep = loops.attach(file.fileno())
    try:
        mount = mountapi.filesystem(resource.fs, [("source", device)])
    finally:
        os.close(keep)
    try:
        root = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=mount)
        try:
            try:
                os.rmdir("lost+found", dir_fd=root)
            except FileNotFoundError:
                pass  # only ext4 has it
            os.fchown(root, resource.uid, resource.gid)
            os.fchmod(root, resource.mode)
        finally:
            os.close(root)
    finally:
        os.close(mount)


def write_file(path: Path, text: str) -> None:
    """Put a file in place of another one, readable by root only: after a crash one of the two is there, whole.

    Raises OSError.
    """
    unfinished = path.with_name(path.name + ".new")
    unfinished.unlink(missing_ok=True)
    unfinished.touch(mode=0o600, exist_ok=False)
    with unfinished.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    unfinished.rename(path)
    _sync_directory(path.parent)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _refused(resource: Resource, err: OSError | EngineError, created: Sequence[Resource], owner: str) -> BatchError:
    if isinstance(err, EngineError):
        return BatchError(resource, err, created)
    code = err.errno or 0
    hints = {
        errno.ENOSPC: "The disk is full",
        errno.EEXIST: "Something of that name is there already; it is left as it is",
        errno.EROFS: "The data root is read-only",
    }
    cause = ApplyFailed(
        f"cannot make the {resource.kind} {_path(resource)}",
        why=err.strerror or str(err),
        hint=hints.get(code, ""),
        details={"resource": list(resource.key), "owner": owner, "errno": errno.errorcode.get(code, code), "left": []},
    )
    cause.__cause__ = err
    return BatchError(resource, cause, created, exists=code == errno.EEXIST, errno=code)


def check_removable(path: Path) -> None:
    """Raise Conflict if anything is mounted in a directory: that would be somebody else's data."""
    inside = [m.target for m in mountinfo.read() if m.target == str(path) or mountinfo.is_below(m.target, str(path))]
    if inside:
        raise Conflict(
            f"{path} cannot be removed",
            why=f"{', '.join(inside[:5])} is mounted",
            hint="Unmount it first; nothing was removed",
        )


def remove_tree(path: Path) -> None:
    """Remove a directory with all that is in it; one that is gone already is no error.

    Raises Conflict if anything is mounted in it, and OSError.
    """
    check_removable(path)
    treewalk.remove_tree(path)
