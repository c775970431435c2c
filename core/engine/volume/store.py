"""Where volumes are kept: records in the database, directories on the disk, one lock for each volume."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from engine.alone import UNREADABLE, reason
from engine.spec.errors import Conflict, Internal, NotFound
from engine.state import State
from engine.volume.record import VolumeRecord
from engine.volume.vet import RECORD

log = logging.getLogger(__name__)
KIND = "volume"


class VolumeStore:
    """Records and places of volumes.

    `root` holds one directory for each volume, named by its id; `run_root` the mount points.
    """

    def __init__(self, state: State, root: Path, run_root: Path) -> None:
        self._state = state
        self._root, self._run_root = root.resolve(), run_root.resolve()
        self._guard = threading.Lock()
        self._locks: dict[str, threading.RLock] = {}
        for directory in (self._root, self._run_root):
            directory.mkdir(mode=0o711, parents=True, exist_ok=True)

    @property
    def root(self) -> Path:
        """The directory of all volumes."""
        return self._root

    def data(self, record: VolumeRecord) -> Path:
        """Return the directory of what outlives containers."""
        return self._root / record.id

    def run(self, record: VolumeRecord) -> Path:
        """Return the directory of the volume's mount points."""
        return self._run_root / record.id

    def forget_run(self, record: VolumeRecord) -> None:
        """Remove the directory of the mount points, which are gone."""
        for directory in (self.run(record) / "sub", self.run(record)):
            try:
                directory.rmdir()
            except FileNotFoundError:
                pass

    def lock(self, id: str) -> threading.RLock:
        """Return the lock of a volume: who makes, mounts or removes it holds it."""
        with self._guard:
            return self._locks.setdefault(id, threading.RLock())

    def read(self, id: str) -> VolumeRecord | None:
        """Return the record of an id."""
        return self._parsed(id, lambda: self._state.get(KIND, id))

    def find(self, name: str) -> VolumeRecord | None:
        """Return the record of a name, in whatever state it is."""
        return self._parsed(name, lambda: self._state.by_name(KIND, name))

    def _parsed(self, ref: str, read: Callable[[], dict[str, Any] | None]) -> VolumeRecord | None:
        try:
            doc = read()
            return None if doc is None else VolumeRecord.model_validate(doc)
        except UNREADABLE as err:
            hint = f"Forget it, and keep its files: engine volume rm {ref}"
            raise Internal(f"the record of volume {ref} cannot be read", why=reason(err), hint=hint) from err

    def drop_unreadable(self, ref: str) -> bool:
        """Forget a volume whose record cannot be read, by id or name, and keep its files; False if there is none."""
        return self._state.drop_unreadable(KIND, ref)

    def get(self, name: str) -> VolumeRecord:
        """Return the volume of that name. Raises NotFound, also while it is being made."""
        record = self.find(name)
        if record is None or record.state == "creating":
            raise NotFound(f"get {name}: no such volume", hint="`engine volume ls` lists them")
        return record

    def all(self) -> list[VolumeRecord]:
        """Return all records that can be read, in whatever state they are."""
        return self._state.read(KIND, VolumeRecord.model_validate)

    def write(self, record: VolumeRecord) -> None:
        """Write a record. Raises Conflict if another volume has the name."""
        self._state.put(KIND, record.id, record.doc(), name=record.name)

    def delete(self, record: VolumeRecord) -> None:
        """Remove a record and its lock."""
        self._state.delete(KIND, record.id)
        with self._guard:
            self._locks.pop(record.id, None)

    @contextmanager
    def locked(self, name: str) -> Iterator[VolumeRecord]:
        """Hold the lock of a volume that is ready. Raises NotFound, and Conflict while it is being removed."""
        id = self.get(name).id
        with self.lock(id):
            record = self.read(id)
            if record is None:
                raise NotFound(f"get {name}: no such volume")
            if record.state != "ready":
                raise being_removed(record)
            yield record

    def find_lost(self) -> None:
        """Take volumes whose record is missing or unreadable back, by the copies in their directories."""
        known = {record.id for record in self.all()}
        for copy in sorted(self._root.glob(f"*/{RECORD}")):
            if copy.parent.name in known:
                continue
            try:
                self.write(VolumeRecord.model_validate_json(copy.read_text()))
                log.warning("a volume was not in the database; found again in %s", copy.parent)
            except (*UNREADABLE, Conflict) as err:
                log.error("%s is left alone: it cannot be taken back (%s)", copy.parent, err)

    def orphans(self) -> list[Path]:
        """Return directories that no record knows. They may be somebody's data: nothing removes them."""
        known = {record.id for record in self.all()} | {row.id for row in self._state.unreadable(KIND)}
        return sorted(path for path in self._root.iterdir() if path.name not in known)


def being_removed(record: VolumeRecord) -> Conflict:
    """Return the error for a volume whose removal has begun."""
    return Conflict(f"volume {record.name} is being removed", hint=f"Finish it: engine volume rm {record.name}")
