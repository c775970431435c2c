"""Brings volumes into order after a start of the engine: what an earlier daemon had begun is completed or undone."""

from __future__ import annotations

import logging
from collections.abc import Collection

from engine.alone import UNREADABLE, reason
from engine.spec.errors import EngineError, Unavailable
from engine.volume.mounting import Mounting, PlanReconciler
from engine.volume.record import VolumeRecord
from engine.volume.removal import Removal
from engine.volume.store import VolumeStore

log = logging.getLogger(__name__)


class Restart:
    """What a start does with the volumes that it finds."""

    def __init__(self, store: VolumeStore, mounting: Mounting, reconciler: PlanReconciler, removal: Removal) -> None:
        self._store, self._mounting, self._reconciler, self._removal = store, mounting, reconciler, removal

    def restore(self, live_users: Collection[str], known_users: Collection[str] | None = None) -> list[EngineError]:
        """Bring everything into order after a start, before anything else and before `Reconciler.collect`.

        `live_users` are those whose containers run: their mounts are adopted and repaired, the others' released.
        `known_users` are those that exist at all: references of others are forgotten. Half-made volumes are undone,
        half-removed ones removed, and those whose record was lost are found again by the copy in their directory. What
        fails is returned, and hinders nothing else.
        """
        problems: list[EngineError] = []
        self._store.find_lost()
        for record in self._store.all():
            try:
                with self._store.lock(record.id):
                    self._restore(record, live_users, known_users)
            except EngineError as err:
                log.error("volume %s: %s", record.name, err)
                problems.append(err)
            except (OSError, *UNREADABLE) as err:
                log.error("volume %s: %s", record.name, reason(err))
                problems.append(Unavailable(f"volume {record.name} is not in order", why=reason(err)))
        return problems

    def _restore(self, record: VolumeRecord, live: Collection[str], known: Collection[str] | None) -> None:
        if record.state != "ready":
            self._removal.erase(record)
            return
        mounts = {user: parts for user, parts in record.mounts.items() if user in live}
        references = record.references if known is None else tuple(u for u in record.references if u in known)
        after = record.with_(mounts=mounts, references=references)
        if mounts:
            self._follow(record, after)
        elif record.exposed and record.applied is not None:  # the rest is uploaded, then it is released
            self._store.write(after)
            self._follow(record, after)
        elif record.applied is not None:
            self._mounting.release(record)
            after = after.with_(applied=None)
        else:
            self._store.forget_run(record)
        if after != record:
            self._store.write(after)

    def _follow(self, before: VolumeRecord, after: VolumeRecord) -> None:
        """Take up what an earlier daemon had mounted; what its containers used that have ended since goes."""
        self._store.run(before).mkdir(mode=0o711, exist_ok=True)
        self._reconciler.adopt(before.owner, self._mounting.whole_plan(before))
        self._mounting.tending.watch(after)
        self._reconciler.apply(before.owner, self._mounting.whole_plan(after))
