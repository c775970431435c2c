"""A directory and a store, kept in agreement.

`open` makes the two agree; then a thread looks for changes (on hints, and on a timer) and many threads upload. What the
volume's option `durability` means, exactly:

close   a change is looked at as soon as the file that was written is closed, and is uploaded at once
fsync   a second later: what is written and closed many times in a row is uploaded once
async   five seconds later

In all three write(2), close(2) and fsync(2) return when the local file system has done its part; what fsync(2) has
acknowledged is on the local disk and survives a power failure. No change is lost by the end of any process: what was
not uploaded is found by the next scan and uploaded then. `barrier` returns when the store has everything
that was written before it was called.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from engine.spec.errors import EngineError, Forbidden, InvalidParameter, NotFound, Unavailable, Unsupported
from engine.spec.storage import Store
from engine.spec.trees import SyncedTree, TreeProgress, TreeState, TreeStatus
from engine.tree import changes, listing, lost
from engine.tree.arrival import Arrival
from engine.tree.beneath import Root
from engine.tree.conflict import Conflicts
from engine.tree.disk import Disk
from engine.tree.eager import EagerHydration
from engine.tree.health import Health
from engine.tree.hydration import Hydration
from engine.tree.journal import Journal
from engine.tree.names import STAGING
from engine.tree.parts import Parts
from engine.tree.placing import Placer
from engine.tree.scan import STAYS_LOCAL, Found, Scanner
from engine.tree.sidecar import Sidecars
from engine.tree.spelling import spelling_of
from engine.tree.together import Together
from engine.tree.transfers import Key, Transfers
from engine.tree.upload import Uploader
from engine.tree.watch import Watch
from engine.tree.written import Written

log = logging.getLogger(__name__)

DELAYS = {"close": 0.0, "fsync": 1.0, "async": 5.0}
"""Seconds between a change that was seen and its upload, by durability."""
SCAN_EVERY = 10.0
"""Seconds between scans of the whole tree, at least."""
_SCAN_SHARE = 20
"""A scan of the whole tree takes a twentieth of the time at most."""
_TOGETHER = 0.05
"""Seconds in which hints are collected."""
_RELIST = 15.0
"""Seconds between tries to list a store that could not be listed, or is not what it was."""
_READY = "ready"
_END = 5.0
"""Seconds for threads to end."""


class Tree:
    """One volume's directory. `open` first, `close` last; the others from any thread."""

    def __init__(self, resource: SyncedTree, store: Store, *, host: str, hydration: Hydration | None = None) -> None:
        """`host`: a short name of this machine for conflict copies. `hydration`: instead of what `mode` says."""
        self._resource = resource
        self._store = store
        self._host = host
        self._chosen = hydration
        self._health = Health()
        self._written = Written()
        self._state: TreeState = "loading"
        self._wake = threading.Event()
        self._ending = threading.Event()
        self._unlisted = threading.Event()
        """The store is to be listed again."""
        self._scanning = threading.Lock()
        self._listing = threading.Lock()
        self._seen_removal = 0
        self._opened = False
        self._cleanup = contextlib.ExitStack()

    # Opening

    def open(self) -> None:
        """Read the journal, list the store, and make the local files what they have to be.

        If the store does not answer, a tree that was open before is ready with its local files, and degraded; one that
        is new raises. Raises EngineError; the tree can then only be closed.
        """
        try:
            self._open()
        except OSError as err:
            raise Unavailable(f"{self._resource.path} cannot be opened", why=str(err)) from err

    def _open(self) -> None:
        root = Root(self._resource.path, spelling_of(self._store.caps))
        self._cleanup.callback(root.close)
        records = Journal(self._resource.journal)
        self._cleanup.callback(records.close)
        if records.set_aside:
            self._health.note("the journal was damaged and begun anew", records.set_aside, "it is kept")
        self._hydration = self._chosen or self._make_hydration(root)
        self._parts = self._assemble(root, records)
        self._placer = Placer(self._parts)
        self._placer.open()
        self._start_hydration(root)
        self._watch = Watch(self._wake.set)
        self._cleanup.callback(self._watch.close)
        self._scanner = Scanner(self._parts, self._watch)
        uploader = Uploader(self._parts, Conflicts(self._parts, self._placer))
        sidecars = Sidecars(
            self._store, records, self._written, self._doubt, partial(self._health.note, STAYS_LOCAL)
        )  # fmt: skip
        together = Together(self._parts, Disk(root))
        self._transfers = Transfers(self._parts, uploader, together, sidecars)
        self._scan(deep=True)
        self._list()
        self._scan(deep=True)
        self._transfers.refresh([r.path for r in records.pending()], delay=0.0, settled=0)
        self._transfers.start()
        self._cleanup.callback(lambda: self._transfers.close(_END))
        self._state = "ready"
        self._opened = True
        keeper = threading.Thread(target=self._keep, name="tree", daemon=True)
        keeper.start()
        self._cleanup.callback(lambda: keeper.join(_END))

    def _assemble(self, root: Root, records: Journal) -> Parts:
        return Parts(
            root, _staging(self._resource, root), self._store, records, self._hydration, self._health, self._written,
            self._host, self._resource.usual,
        )  # fmt: skip

    def _make_hydration(self, root: Root) -> Hydration:
        if self._resource.mode == "sync":
            return EagerHydration(root)
        from engine.tree.on_demand import OnDemandHydration

        record = Path(self._resource.journal + ".filled")
        return OnDemandHydration(
            Path(self._resource.run), record, budget=self._resource.cache_size, patience=self._resource.patience
        )

    def _start_hydration(self, root: Root) -> None:
        """Start the strategy; where the host cannot fetch on demand, everything is fetched at once."""
        try:
            self._hydration.start(self._placer)
        except Unsupported as err:
            if isinstance(self._hydration, EagerHydration):
                raise
            log.warning("the mode is sync instead of on-demand: %s", err)
            self._health.note("fetched at once instead of on demand", self._resource.path, str(err))
            self._hydration = EagerHydration(root)
            self._parts = self._assemble(root, self._parts.journal)
            self._placer = Placer(self._parts)
            self._hydration.start(self._placer)
        self._cleanup.callback(self._hydration.close)

    def _list(self) -> None:
        """Bring in what changed in the store; if that cannot be done, it is to be done later."""
        with self._listing:
            self._unlisted.clear()
            self._bring_in()

    def _bring_in(self) -> None:
        try:
            with self._written.meanwhile() as meanwhile:
                found = listing.read(self._store, self._show_listing)
                Arrival(self._parts, self._placer, found, meanwhile).apply()
        except Exception as err:
            self._unlisted.set()
            if not isinstance(
                err, (Unavailable, Forbidden, NotFound, InvalidParameter)
            ) or not self._parts.journal.note(_READY):
                raise
            log.warning("the store cannot be listed, local files are served: %s", err)
            self._health.trouble("listing", str(err))
            return
        finally:
            self._health.progress = None
        self._health.trouble("listing", "")
        self._parts.journal.change(lambda database: changes.write_note(database, _READY, "1"))

    def _doubt(self) -> None:
        """List the store soon: it is not as it should be."""
        self._unlisted.set()
        self._wake.set()

    def _show_listing(self, number: int) -> None:
        self._health.progress = TreeProgress(step="listing", done=number, unit="files")

    # Looking for changes

    def _scan(self, *, deep: bool, directories: frozenset[str] = frozenset()) -> Found:
        """Scan, and hand over what was found. A removal may be carried out when a later scan has begun."""
        with self._scanning:
            if self._ending.is_set():
                raise Unavailable(f"{self._resource.path} cannot be looked through", why="its helper is ending")
            settled = self._seen_removal
            found = self._scanner.everything() if deep else self._scanner.some(directories)
            self._seen_removal = self._parts.journal.last_removal()
        self._transfers.refresh(found.files, delay=DELAYS[self._resource.durability], settled=settled)
        return found

    def _keep(self) -> None:
        """Look for changes until the end."""
        next_scan, next_list = time.monotonic(), time.monotonic() + _RELIST
        while not self._ending.is_set():
            next_look = min(next_scan, next_list) if self._unlisted.is_set() else next_scan
            self._wake.wait(max(0.0, next_look - time.monotonic()))
            self._ending.wait(_TOGETHER)
            self._wake.clear()
            if self._ending.is_set():
                return
            try:
                next_scan = self._look(next_scan)
                if self._unlisted.is_set() and time.monotonic() >= next_list:
                    next_list = time.monotonic() + _RELIST
                    self._list()
                self._health.trouble("scan", "")
            except (EngineError, OSError) as err:
                log.warning("looking for changes failed: %s", err)
                self._health.trouble("scan", str(err))
            except Exception as err:
                log.exception("looking for changes failed")
                self._health.trouble("scan", repr(err))

    def _look(self, next_scan: float) -> float:
        """Look where hints point to, or everywhere if it is time; return when everything is looked at next."""
        touched, lost = self._watch.take()
        begun = time.monotonic()
        if lost or begun >= next_scan:
            found = self._scan(deep=True)
            took = time.monotonic() - begun
            next_scan = time.monotonic() + max(SCAN_EVERY, took * _SCAN_SHARE)
        else:
            found = self._scan(deep=False, directories=frozenset(touched))
        if found.others:
            self._wake.set()  # removals wait for one more look
        return next_scan

    # Asking

    def status(self) -> TreeStatus:
        """Return the state; also while `open` runs. Raises nothing."""
        if not self._opened:
            return TreeStatus(state=self._state, reason=self._health.reason(), progress=self._health.progress)
        try:
            counts, conflicts = self._parts.journal.counts(), self._parts.journal.conflicts()
        except EngineError as err:
            return TreeStatus(state="degraded", reason=str(err), last_error=self._health.last_error)
        usage = self._hydration.usage()
        reason = self._health.reason()
        return TreeStatus(
            state="degraded" if reason and self._state == "ready" else self._state,
            reason=reason,
            files=counts.files,
            bytes=counts.bytes,
            hydrated_bytes=usage.hydrated_bytes if usage else counts.hydrated_bytes,
            pending_files=counts.pending_files,
            pending_bytes=counts.pending_bytes,
            unstorable_files=self._health.count(STAYS_LOCAL),
            conflicts=conflicts,
            last_error=self._health.last_error,
            progress=self._health.progress,
        )

    def descriptors(self) -> Sequence[int]:
        """Return what whoever runs a container on the tree holds open as long as that runs."""
        return self._hydration.descriptors()

    def barrier(self, deadline: float) -> int:
        """Have the store hold all that was written before this call.

        Return how many changes are left when `deadline` (seconds) has passed, and how many files cannot be stored, or
        how many the store has lost: 0 means that it has everything. Files that are written on and on count as done when
        they were uploaded once since the call.
        """
        begun = time.monotonic()
        end = begun + deadline
        self._wake.set()
        try:
            for _ in range(2):  # the second scan lets the removals that the first one saw be carried out
                self._scan(deep=True)
            left = self._finish(begun, end, sidecars=False)
            if not left and lost.count(self._parts.journal):
                self._list()  # it may have them again
            if not left:  # what was uploaded and removed has changed sidecars
                left = self._finish(time.monotonic(), end, sidecars=True)
            return len(left) + self._health.count(STAYS_LOCAL) or lost.count(self._parts.journal)
        except OSError as err:
            raise Unavailable(f"{self._resource.path} cannot be looked through", why=str(err)) from err

    def _finish(self, since: float, end: float, *, sidecars: bool) -> set[Key]:
        """Have all tasks done that there are now, or only the sidecars; return those that are left at the end."""
        self._transfers.refresh((), delay=0.0, settled=0)
        self._transfers.hurry()
        wanted = {key for key in self._transfers.tasks() if key[0] == "sidecar" or not sidecars}
        return self._transfers.wait(wanted, since, end)

    def close(self, deadline: float) -> int:
        """Upload for at most `deadline` seconds, and end; return how many changes are left for the next time."""
        left = 0
        try:
            if self._opened:
                left = self.barrier(deadline) if deadline > 0 else self._parts.journal.counts().pending_files
        except EngineError as err:
            log.warning("closing %s: %s", self._resource.path, err)
            left = max(1, left)
        finally:
            self._opened = False
            self._ending.set()
            self._wake.set()
            if self._scanning.acquire(timeout=_END):  # one that is under way reads what is closed now
                self._scanning.release()
            self._cleanup.close()
        return left


def _staging(resource: SyncedTree, root: Root) -> Path:
    """Return where unfinished files are: beside the journal, or in the tree if the journal is on another disk."""
    beside = Path(resource.journal + ".staging")
    return beside if os.stat(beside.parent).st_dev == root.device else Path(resource.path) / STAGING
