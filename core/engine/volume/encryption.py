"""What an operator does with the keys of encrypted volumes, and what `inspect` says of them.

A volume is encrypted if its directory has key slots; no driver is known here.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from engine.secrets.keys import VolumeKeys
from engine.secrets.slots import SlotFile
from engine.spec.encryption import PROMPT, SLOTS_FILE
from engine.spec.errors import EngineError, InvalidParameter, Locked
from engine.volume.record import VolumeRecord
from engine.volume.store import VolumeStore

if TYPE_CHECKING:  # the API imports this module, and must load no applier
    from engine.reconcile.convergence import Report

log = logging.getLogger(__name__)


class Repairer(Protocol):
    """What is needed of engine.reconcile.reconciler.Reconciler."""

    def repair(self, owner: str | None = None) -> Report:
        """Correct every difference that can be corrected."""


class NewKey(NamedTuple):
    """A key for a slot: what a person gave, or where it is read."""

    slot: str
    """Name of the slot; one that is there gets this key in the place of its own."""
    source: str = PROMPT
    """`file:/PATH`, `secret:NAME`, `command:/PROGRAM ...`, `env:NAME`, or `prompt`."""
    given: bytes | None = None
    """With `prompt`: the passphrase."""
    form: Literal["text", "bytes"] = "text"
    """`text`: the end of a line does not count."""


class Encryption:
    """The keys of all volumes. Methods may be called from any thread."""

    def __init__(self, store: VolumeStore, keys: VolumeKeys, reconciler: Repairer) -> None:
        self._store, self._keys, self._reconciler = store, keys, reconciler

    def path(self, record: VolumeRecord) -> str:
        """Return the place of a volume's key slots."""
        return str(self._store.data(record) / SLOTS_FILE)

    def is_encrypted(self, record: VolumeRecord) -> bool:
        """Tell whether a volume has key slots."""
        return (self._store.data(record) / SLOTS_FILE).is_file()

    def status(self, record: VolumeRecord) -> dict[str, Any]:
        """Return the part of a volume's `Status` that is about its keys; empty if it has none. It reads no key."""
        if not self.is_encrypted(record):
            return {}
        try:
            names, needs = self._keys.file(self.path(record)).names(), self._keys.needs(self.path(record))
        except EngineError as err:
            return {"Encrypted": True, "Locked": True, "Needs": str(err), "KeySlots": []}
        locked = bool(needs) and not record.mounts
        return {"Encrypted": True, "Locked": locked, "Needs": needs if locked else "", "KeySlots": list(names)}

    def offered(self, record: VolumeRecord, key: bytes | None) -> _Offer:
        """Return a context in which a new volume can be made with a key that a person gave."""
        return _Offer(self._keys, self.path(record), key)

    def named(self, record: VolumeRecord, err: Locked) -> Locked:
        """Return the error of a locked volume with its name."""
        hint = f"Give its key: engine volume unlock {record.name}"
        return Locked(f"volume {record.name} is locked", why=err.why, hint=hint, driver=record.driver)

    def unlock(self, name: str, key: bytes) -> str:
        """Keep a volume's key until the engine ends, and return which slot it opened; helpers that wait for it start.

        Raises NotFound, InvalidParameter for a volume without keys, Forbidden for a wrong key.
        """
        record = self._encrypted(name)
        slot = self._keys.unlock(self.path(record), key)
        if record.applied is not None:
            for error in self._reconciler.repair(record.owner).errors:
                log.warning("volume %s, now unlocked: %s", record.name, error)
        return slot

    def lock(self, name: str) -> None:
        """Forget a key that a person gave. What is mounted stays; the next mount asks again."""
        self._keys.lock(self.path(self._encrypted(name)))

    def slots(self, name: str) -> list[dict[str, str]]:
        """Return the name and the source of each key slot."""
        return _described(self._keys.file(self.path(self._encrypted(name))))

    def rekey(self, name: str, new: NewKey | None, remove: str = "", old: bytes | None = None) -> list[dict[str, str]]:
        """Add a key slot or change its key, then remove another one; no content is written. Return the slots.

        `old` is a key that opens the volume, where it cannot be had without a person. Raises Locked, Forbidden,
        NotFound, Conflict for the last slot, InvalidParameter.
        """
        if new is None and not remove:
            raise InvalidParameter("nothing to change", hint="Give a new key, or a slot to remove")
        with self._store.locked(name) as record:
            path = self.path(self._encrypted(name))
            try:
                if new is not None:
                    self._keys.set_slot(path, new.slot, new.source, new.given, new.form, old)
                    old = new.given or old
                if remove:
                    self._keys.remove_slot(path, remove, old)
            except Locked as err:
                raise self.named(record, err) from err
            return _described(self._keys.file(path))

    def password(self, name: str) -> bytes:
        """Return the password with which other programs open the volume's store. Raises NotFound, Locked, Forbidden."""
        return self._keys.password(self.path(self._encrypted(name)))

    def forget(self, record: VolumeRecord) -> None:
        """Forget the key of a volume that is gone."""
        self._keys.lock(self.path(record))

    def users_of_secret(self, name: str) -> list[str]:
        """Return the volumes that name one of the engine's secrets, in an option or as the key of a slot."""
        reference = f"secret:{name}"
        found = []
        for record in self._store.all():
            sources: set[str] = set()
            if self.is_encrypted(record):
                try:
                    sources = {slot.source for slot in self._keys.file(self.path(record)).slots}
                except EngineError as err:
                    log.warning("volume %s: %s", record.name, err)
            if reference in sources or reference in _texts(record.options):
                found.append(f"volume {record.name}")
        return found

    def _encrypted(self, name: str) -> VolumeRecord:
        record = self._store.get(name)
        if not self.is_encrypted(record):
            raise InvalidParameter(f"volume {name} has no keys", why="it is not encrypted")
        return record


class _Offer:
    """Offers a key while a volume is made."""

    def __init__(self, keys: VolumeKeys, path: str, key: bytes | None) -> None:
        self._keys, self._path, self._key = keys, path, key

    def __enter__(self) -> None:
        if self._key is not None:
            self._keys.offer(self._path, self._key)

    def __exit__(self, *exc: object) -> None:
        self._keys.withdraw(self._path)


def _texts(value: object) -> set[str]:
    """Return all texts in a JSON value."""
    if isinstance(value, str):
        return {value}
    if isinstance(value, Mapping):
        return set().union(*map(_texts, value.values()))
    return set()


def _described(file: SlotFile) -> list[dict[str, str]]:
    return [{"Name": slot.name, "Source": slot.source} for slot in file.slots]
