"""Removes volumes: one, or all that nobody uses. What is removed half is removed wholly at the next try or start."""

from __future__ import annotations

import logging

from engine.filters import Filters
from engine.reconcile import data
from engine.spec.errors import ApplyFailed, Conflict, NotFound
from engine.volume import views
from engine.volume.encryption import Encryption
from engine.volume.mounting import Events, Mounting
from engine.volume.record import VolumeRecord
from engine.volume.store import VolumeStore
from engine.volume.vet import RECORD

log = logging.getLogger(__name__)

REMOVE_SECONDS = 2.0
"""A removal waits so long for the last uploads."""


class Removal:
    """The end of volumes."""

    def __init__(self, store: VolumeStore, mounting: Mounting, encryption: Encryption, events: Events) -> None:
        self._store, self._mounting, self._encryption, self._events = store, mounting, encryption, events

    def remove(self, name: str, force: bool = False) -> None:
        """Remove a volume with its data; with `force` one that does not exist is no error.

        What it keeps in a store stays there. Changes that are not there yet are a reason to refuse; with `force` they
        are lost, and the log says so. Raises Conflict that names its users, or who keeps it busy, NotFound,
        ApplyFailed.
        """
        if self._store.drop_unreadable(name):
            return
        found = self._store.find(name)
        if found is None:
            if force:
                return
            raise NotFound(f"get {name}: no such volume", hint="`engine volume ls` lists them")
        with self._store.lock(found.id):
            record = self._store.read(found.id)
            if record is None:
                return  # somebody else removed it just now
            if record.users:
                raise Conflict(
                    f"remove {name}: volume is in use - [{', '.join(record.users)}]",
                    hint="Remove these containers first",
                    details={"users": list(record.users)},
                )
            if record.applied is not None:
                self._check_uploaded(record, force)
                self._mounting.release(record)
            data.check_removable(self._store.data(record))
            record = record.with_(state="removing", applied=None)
            self._store.write(record)
            self.erase(record)
        self._events.emit("volume", "destroy", record.name, {"driver": record.driver})

    def _check_uploaded(self, record: VolumeRecord, force: bool) -> None:
        """Refuse to lose changes that are not in the volume's store yet. Raises Conflict."""
        if self._mounting.trees.drained(record, 0.0 if force else REMOVE_SECONDS):
            return
        pending = sum(s.pending_files + s.unstorable_files for s in self._mounting.trees.status(record))
        what = f"{pending or 'an unknown number of'} changes of volume {record.name} are not in its store yet"
        if not force:
            reasons = {s.reason or s.last_error for s in self._mounting.trees.status(record)} - {""}
            raise Conflict(
                f"remove {record.name}: {what}", why="; ".join(sorted(reasons)), driver=record.driver,
                hint=f"`engine volume sync {record.name}` waits for them; `engine volume rm --force` loses them",
                details={"pending": pending},
            )  # fmt: skip
        log.warning("%s, and are lost: it is removed by force", what)

    def prune(self, filters: Filters) -> tuple[list[str], int]:
        """Remove the volumes that nobody uses: anonymous ones, or all with the filter `all=true`.

        The filters `label` and `label!` are docker's. Return names and the bytes that came free. Raises
        InvalidParameter.
        """
        takes = views.prune_filter(filters)
        removed: list[str] = []
        free = 0
        for record in sorted(self._store.all(), key=lambda r: r.name):
            if record.state == "creating" or record.users or not takes(record):
                continue
            size = views.bytes_of(self._store.data(record))
            try:
                self.remove(record.name)
            except (Conflict, NotFound) as err:  # it was taken into use, or removed, in between
                log.info("volume %s is not pruned: %s", record.name, err)
                continue
            removed.append(record.name)
            free += max(size, 0)
        return removed, free

    def erase(self, record: VolumeRecord) -> None:
        """Remove a volume that nobody uses: what is mounted of it, what it holds, its directories, its record."""
        self._mounting.release(record)
        directory = self._store.data(record)
        try:
            (directory / RECORD).unlink(missing_ok=True)  # first: what is half removed is not to be found again
            data.remove_tree(directory)
        except OSError as err:
            raise ApplyFailed(
                f"volume {record.name} cannot be removed", why=str(err), driver=record.driver,
                hint="What is left of it is removed by the next try, or at the next start",
            ) from err  # fmt: skip
        self._encryption.forget(record)
        self._store.delete(record)
