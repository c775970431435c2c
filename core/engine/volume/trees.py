"""Volumes whose content is kept in a store: what the manager asks of their helpers.

Nothing here is done with a volume's lock held: listings, downloads and uploads take their time, and who only looks at
a volume has to be answered meanwhile.
"""

from __future__ import annotations

import difflib
import logging
import os
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from engine.helper.client import HelperClient
from engine.helper.config import HelperConfig
from engine.helper.launch import check_store
from engine.helper.messages import HelperGone
from engine.helper.place import HelperPlace
from engine.reconcile.convergence import Report
from engine.spec.errors import DeadlineExceeded, EngineError, InvalidParameter, Unavailable
from engine.spec.options import Options, store_options_field
from engine.spec.resource import Plan
from engine.spec.trees import StoreSpec, SyncedTree, TreeStatus
from engine.spec.volume import VolumePlan
from engine.storage.stores import StorePlan
from engine.volume.record import VolumeRecord

log = logging.getLogger(__name__)

CHECK_SECONDS = 15.0
"""For the start of a process that checks a store, beside the tree's own patience."""
STALL_SECONDS = 60.0
"""A mount is given up when nothing was fetched for so long, or for three times the tree's patience."""
DRAIN_SECONDS = 10.0
"""The last unmount waits so long for what is still to be uploaded; the rest goes on in the background."""
DEGRADED_SECONDS = 2.0
"""It waits no longer than that for a store that does not answer."""
STATUS_SECONDS = 2.0
"""For a question that somebody waits for, with nothing to wait for."""
_DEATHS = 3
_END_SECONDS = 5.0
"""For a helper that says that it is ending."""
_REPORT_SECONDS = 10.0
Progress = Callable[[TreeStatus], object]


class StoreConfigs(Protocol):
    """What trees need of engine.helper.config.HelperConfigs."""

    def plan(self, store: StoreSpec) -> StorePlan:
        """Return the drivers of a store, their options checked."""

    def option_names(self, store: StoreSpec) -> Sequence[str]:
        """Return the options that the drivers of a store's URL have."""

    def of_store(self, store: StoreSpec, patience: float) -> HelperConfig:
        """Return the configuration of a check."""


class Repairer(Protocol):
    """What trees need of engine.reconcile.reconciler.Reconciler."""

    def repair(self, owner: str | None = None) -> Report:
        """Correct every difference that can be corrected."""

    def plan_of(self, owner: str) -> Plan | None:
        """Return what is wanted for an owner."""


def trees_of(plan: Plan | None) -> tuple[SyncedTree, ...]:
    """Return the trees of a plan."""
    return () if plan is None else tuple(r for r in plan.resources if isinstance(r, SyncedTree))


def trees_in_use(record: VolumeRecord) -> tuple[SyncedTree, ...]:
    """Return the trees of a volume that should have a helper now."""
    return trees_of(record.applied.plan if record.applied else None)


class Trees:
    """Asks and waits for helpers. Methods may be called from any thread."""

    def __init__(self, configs: StoreConfigs, reconciler: Repairer) -> None:
        self._configs, self._reconciler = configs, reconciler

    # Creating

    def check(self, record: VolumeRecord, options: Options, answer: VolumePlan) -> None:
        """Refuse a new volume whose stores cannot be used: unknown options, wrong credentials, a missing bucket.

        Raises InvalidParameter, Unsupported, and what opening the store raises.
        """
        trees = trees_of(answer.plan)
        field = store_options_field(type(options))
        for name in getattr(options, field) if field else ():
            known = {n for tree in trees for n in self._configs.option_names(tree.store)}
            if name.replace("_", "-") not in known:
                own = {n.replace("_", "-") for n in type(options).model_fields if n != field}
                close = difflib.get_close_matches(name, sorted(known | own), n=1)
                hint = f"Did you mean {close[0]!r}?" if close else f"Options: {', '.join(sorted(known | own))}"
                raise InvalidParameter(f"unknown option {name!r}", driver=record.driver, hint=hint)
        for tree in trees:
            self._configs.plan(tree.store).require("writable", "durable")
            check_store(self._configs.of_store(tree.store, tree.patience), tree.patience + CHECK_SECONDS)

    # Mounting

    def wait_ready(self, record: VolumeRecord) -> None:
        """Wait until containers may see the trees. Raises Unavailable with the reason, DeadlineExceeded if it hangs."""
        for tree in trees_in_use(record):
            self._wait_ready(record, tree)

    def _wait_ready(self, record: VolumeRecord, tree: SyncedTree) -> None:
        client = HelperClient(HelperPlace(tree.run))
        stall = max(STALL_SECONDS, 3 * tree.patience)
        moved = reported = time.monotonic()
        last, deaths, pause = None, 0, 0.01
        while True:
            status = None
            try:
                status = client.status(STATUS_SECONDS)
            except DeadlineExceeded:
                pass  # it is busy; when it hangs, nothing moves
            except HelperGone as err:
                deaths += 1
                self._again(record, tree, deaths, err)
            if status is not None and status.state in ("ready", "degraded"):
                return
            if status is not None and status.state == "failed":
                raise Unavailable(f"volume {record.name} cannot be mounted", why=status.reason, driver=record.driver)
            now = time.monotonic()
            if status is not None and status != last:
                last, moved = status, now
            elif now - moved > stall:
                why = f"no progress for {stall:g} s ({_so_far(last)})"
                raise DeadlineExceeded(f"volume {record.name} cannot be mounted", why=why, driver=record.driver)
            if now - reported > _REPORT_SECONDS:
                reported = now
                log.info("volume %s: still %s", record.name, _so_far(last))
            time.sleep(pause)
            pause = min(pause * 1.5, 0.25)

    def _again(self, record: VolumeRecord, tree: SyncedTree, deaths: int, err: EngineError) -> None:
        """Start a helper that ended, or is ending. Raises Unavailable if that does not help."""
        HelperPlace(tree.run).gone(_END_SECONDS)
        if deaths > _DEATHS:
            raise Unavailable(
                f"volume {record.name} cannot be used", driver=record.driver,
                why=f"its helper ends again and again: {HelperPlace(tree.run).last_words() or err}",
            ) from err  # fmt: skip
        self.restart(record)

    def restart(self, record: VolumeRecord) -> None:
        """Start the helpers that do not run. Raises why that cannot be."""
        errors = self._reconciler.repair(record.owner).errors
        if errors:
            raise errors[0]

    # Asking

    def status(self, record: VolumeRecord, seconds: float = STATUS_SECONDS) -> list[TreeStatus]:
        """Return what the helpers say. One that does not answer is degraded: local files need no helper."""
        found = []
        for tree in trees_in_use(record):
            try:
                found.append(HelperClient(HelperPlace(tree.run)).status(seconds))
            except EngineError as err:
                found.append(TreeStatus(state="degraded", reason=str(err), last_error=str(err)))
        return found

    def descriptors(self, record: VolumeRecord) -> list[int]:
        """Return what the monitor of a container on the volume is to hold open; the caller closes them.

        Raises Unavailable if a helper has ended just now.
        """
        found: list[int] = []
        try:
            for tree in trees_in_use(record):
                found += HelperClient(HelperPlace(tree.run)).descriptors()
        except BaseException:
            for descriptor in found:
                os.close(descriptor)
            raise
        return found

    def barrier(self, record: VolumeRecord, seconds: float, progress: Progress | None = None) -> int:
        """Wait until what is changed now is in the store; return how many changes are left after so many seconds.

        Helpers that ended are started again, but for those of a volume that was released meanwhile: that is done when
        all of it is in the store. Raises Unavailable with the reason when a tree cannot be opened, or a
        helper does not answer.
        """
        end = time.monotonic() + seconds
        return sum(self._barrier(record, tree, end, progress) for tree in trees_in_use(record))

    def _barrier(self, record: VolumeRecord, tree: SyncedTree, end: float, progress: Progress | None) -> int:
        client = HelperClient(HelperPlace(tree.run))
        deaths = 0
        while True:
            remaining = max(0.0, end - time.monotonic())
            try:
                left = client.barrier(remaining if progress is None else min(remaining, 1.0))
                status = client.status(STATUS_SECONDS) if left and progress is not None else None
                if status is None or left == status.unstorable_files or time.monotonic() >= end:
                    return left
                if progress is not None:
                    progress(status)
            except DeadlineExceeded:
                if remaining == 0.0 or progress is None:
                    raise
                progress(TreeStatus(state="loading"))  # not open yet
            except HelperGone as err:
                if self._reconciler.plan_of(record.owner) is None:
                    return 0
                deaths += 1
                self._again(record, tree, deaths, err)

    def drained(self, record: VolumeRecord, seconds: float = DRAIN_SECONDS) -> bool:
        """Wait for a while until nothing is left to be uploaded; tell whether it is so."""
        if not record.exposed:
            return True  # nobody has written
        if all(status.state == "degraded" for status in self.status(record)):
            seconds = min(seconds, DEGRADED_SECONDS)
        try:
            left = self.barrier(record, seconds)
        except EngineError as err:
            log.warning("volume %s: what is changed cannot be uploaded now: %s", record.name, err)
            return False
        if left:
            log.info("volume %s: %d changes are still to be uploaded", record.name, left)
        return left == 0


def _so_far(status: TreeStatus | None) -> str:
    if status is None:
        return "its helper has not answered"
    if status.progress is None:
        return status.state
    progress = status.progress
    of = "" if progress.total is None else f" of {progress.total}"
    return f"{progress.step}: {progress.done}{of} {progress.unit}"


def status_json(found: Sequence[TreeStatus]) -> dict[str, Any]:
    """Return the part of a volume's `Status` that is about its store: the worst state, and sums."""
    worst = max(found, key=lambda s: ("ready", "loading", "degraded", "failed").index(s.state))
    progress = worst.progress or next((s.progress for s in found if s.progress), None)
    return {
        "State": worst.state,
        "Reason": worst.reason,
        "Files": sum(s.files for s in found),
        "Bytes": sum(s.bytes for s in found),
        "LocalBytes": sum(s.hydrated_bytes for s in found),
        "PendingFiles": sum(s.pending_files for s in found),
        "UnstorableFiles": sum(s.unstorable_files for s in found),
        "PendingBytes": sum(s.pending_bytes for s in found),
        "Conflicts": [path for s in found for path in s.conflicts],
        "LastError": worst.last_error or next((s.last_error for s in found if s.last_error), ""),
        "Progress": None if progress is None else progress.model_dump(mode="json"),
    }
