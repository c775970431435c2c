"""The appliers of keys: the file of a volume's key slots, and its key in the kernel.

What is there is seen without the key: a restarted engine that cannot have it leaves a mounted volume as it is.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Protocol

from engine.reconcile import fscrypt
from engine.reconcile.applier import BatchError, Context, Difference
from engine.spec.encryption import EncryptedDirectory, FscryptKey, KeySlots
from engine.spec.errors import ApplyFailed, EngineError, Forbidden, Unsupported
from engine.spec.resource import Key, Resource

BUSY_DEADLINE = 1.0
"""Seconds in which a process that ends lets go of its last files."""


class VolumeKeys(Protocol):
    """What appliers need of engine.secrets.keys.VolumeKeys."""

    def create(self, resource: KeySlots) -> None:
        """Make the file of the key slots."""

    def read(self, path: str) -> bytes:
        """Return a volume's key by the file of its slots."""

    def fscrypt_identifier(self, path: str) -> bytes:
        """Return what the kernel calls that key."""


class NoKeys:
    """Stands where an engine has no encrypted volumes: raises Unsupported."""

    def create(self, resource: KeySlots) -> None:
        """Refuse."""
        raise Unsupported("there are no keys of volumes here")

    def read(self, path: str) -> bytes:
        """Refuse."""
        raise Unsupported("there are no keys of volumes here")

    def fscrypt_identifier(self, path: str) -> bytes:
        """Refuse."""
        raise Unsupported("there are no keys of volumes here")


class KeySlotsApplier:
    """Applier of the family "keyslots": data, made once."""

    families: ClassVar[frozenset[str]] = frozenset({"keyslots"})

    def __init__(self, keys: VolumeKeys) -> None:
        self._keys = keys

    def create(self, batch: Sequence[Resource], context: Context) -> Sequence[Resource]:
        """Make files of key slots that do not exist yet. Raises BatchError."""
        return _each(batch, self._create)

    def _create(self, resource: Resource) -> None:
        assert isinstance(resource, KeySlots)
        self._keys.create(resource)

    def update(self, old: Resource, new: Resource, context: Context) -> None:
        """Data is never changed by a plan: raises Unsupported."""
        raise Unsupported(f"{'/'.join(new.key)} cannot be changed in place")

    def remove(self, batch: Sequence[Resource], context: Context) -> list[tuple[Resource, Exception]]:
        """Do nothing: data stays when its plan goes."""
        return []

    def diff(self, wanted: Mapping[Key, Resource], contexts: Mapping[Key, Context]) -> list[Difference]:
        """Return what is missing."""
        absent = ((key, r) for key, r in wanted.items() if isinstance(r, KeySlots) and not Path(r.path).is_file())
        return [Difference(key, "missing", owner=_owner(key, contexts), resource=r) for key, r in absent]

    def unwanted(self, wanted: Mapping[Key, Resource]) -> list[Difference]:
        """Data is never garbage."""
        return []

    def discard(self, difference: Difference) -> None:
        """Never called, because nothing is unwanted: raises Unsupported."""
        raise Unsupported(f"{'/'.join(difference.key)} is data: it is not collected")


class FscryptApplier:
    """Applier of the family "fscrypt": keys that the kernel has, one for each file system that needs it."""

    families: ClassVar[frozenset[str]] = frozenset({"fscrypt"})

    def __init__(self, keys: VolumeKeys) -> None:
        self._keys = keys

    def create(self, batch: Sequence[Resource], context: Context) -> Sequence[Resource]:
        """Give the kernel keys. Raises BatchError; its cause is Locked or Forbidden where a key cannot be had."""
        return _each(batch, self._create)

    def _create(self, resource: Resource) -> None:
        assert isinstance(resource, FscryptKey)
        wanted = self._keys.fscrypt_identifier(resource.slots)
        secret = self._keys.read(resource.slots)
        with fscrypt.opened(resource.path) as directory:
            found = fscrypt.add_key(directory, secret)
            if found != wanted:
                fscrypt.remove_key(directory, found)
                raise Forbidden("the volume's key is wrong", why=f"{resource.slots} says that it is another one")

    def update(self, old: Resource, new: Resource, context: Context) -> None:
        """Nothing of it can be changed: raises Unsupported."""
        raise Unsupported(f"{'/'.join(new.key)} cannot be changed in place")

    def remove(self, batch: Sequence[Resource], context: Context) -> list[tuple[Resource, Exception]]:
        """Take keys away. One whose files are in use is tried for a second."""
        left: list[tuple[Resource, Exception]] = []
        for resource in batch:
            assert isinstance(resource, FscryptKey)
            try:
                self._remove(resource)
            except (OSError, EngineError) as err:
                left.append((resource, err))
        return left

    def _remove(self, resource: FscryptKey) -> None:
        if not Path(resource.path).is_dir() or not Path(resource.slots).is_file():
            return  # the file system is gone, and its keys with it
        identifier = self._keys.fscrypt_identifier(resource.slots)
        deadline = time.monotonic() + BUSY_DEADLINE
        with fscrypt.opened(resource.path) as directory:
            if not fscrypt.supported(directory):
                return  # not what was mounted there
            while not fscrypt.remove_key(directory, identifier):
                if time.monotonic() > deadline:
                    raise OSError(errno.EBUSY, "files of the encrypted directory are still open", resource.path)
                time.sleep(0.02)

    def diff(self, wanted: Mapping[Key, Resource], contexts: Mapping[Key, Context]) -> list[Difference]:
        """Return the keys that the kernel does not have."""
        found: list[Difference] = []
        for key, resource in wanted.items():
            assert isinstance(resource, FscryptKey)
            if not self._present(resource):
                found.append(Difference(key, "missing", owner=_owner(key, contexts), resource=resource))
        return found

    def _present(self, resource: FscryptKey) -> bool:
        try:
            with fscrypt.opened(resource.path) as directory:
                return fscrypt.has_key(directory, self._keys.fscrypt_identifier(resource.slots))
        except (FileNotFoundError, EngineError):
            return False
        except OSError as err:
            if err.errno in (errno.EOPNOTSUPP, errno.ENOTTY, errno.ENOTDIR):  # its file system is not mounted there
                return False
            raise

    def unwanted(self, wanted: Mapping[Key, Resource]) -> list[Difference]:
        """Keys go with the file systems of images, which the applier of mounts collects."""
        return []

    def discard(self, difference: Difference) -> None:
        """Never called, because nothing is unwanted: raises Unsupported."""
        raise Unsupported(f"{'/'.join(difference.key)} is not collected")


def make_directory(resource: EncryptedDirectory, keys: VolumeKeys) -> None:
    """Make an encrypted directory; its key is in the kernel. Raises OSError, and what reading the slots raises."""
    path = Path(resource.path)
    path.mkdir(mode=0o700)
    try:
        with fscrypt.opened(resource.path) as directory:
            fscrypt.set_policy(directory, keys.fscrypt_identifier(resource.slots))
            os.fchown(directory, resource.uid, resource.gid)
            os.fchmod(directory, resource.mode)
    except BaseException:
        path.rmdir()
        raise


def directory_difference(resource: EncryptedDirectory, keys: VolumeKeys) -> dict[str, tuple[object, object]]:
    """Return in what a directory that is there is not the encrypted one: another key, or none at all."""
    with fscrypt.opened(resource.path) as directory:
        wanted, seen = keys.fscrypt_identifier(resource.slots), fscrypt.policy_of(directory)
    return {} if seen == wanted else {"key": (wanted.hex(), seen.hex() if seen else "none: it is not encrypted")}


def _each(batch: Sequence[Resource], make: Callable[[Resource], None]) -> Sequence[Resource]:
    created: list[Resource] = []
    for resource in batch:
        try:
            make(resource)
        except EngineError as err:
            raise BatchError(resource, err, created) from err
        except OSError as err:
            exists = err.errno == errno.EEXIST
            raise BatchError(resource, _refused(resource, err), created, exists=exists, errno=err.errno or 0) from err
        created.append(resource)
    return created


def _refused(resource: Resource, err: OSError) -> ApplyFailed:
    hints = {
        errno.EOPNOTSUPP: "The kernel or the file system has no fscrypt; the other way is -o method=gocryptfs",
        errno.ENOSPC: "The disk is full",
    }
    return ApplyFailed(
        f"cannot make the {resource.kind} {resource.key[-1]}", why=err.strerror or str(err),
        hint=hints.get(err.errno or 0, ""), details={"resource": list(resource.key)},
    )  # fmt: skip


def _owner(key: Key, contexts: Mapping[Key, Context]) -> str:
    return contexts[key].owner if key in contexts else ""
