"""What is to be brought into the store, and when: a queue that many threads work on.

There are three kinds of tasks: the upload of a file, the removal of an object, and a directory's sidecar. The journal
has them all; the queue only orders them. An object is never written and removed at the same time. A removal waits until
a later scan has been made (a file that was moved during a scan may be in neither place) and until the file is uploaded
under its new name; a sidecar waits for the files of its directory. What fails is tried again, later and later; while
nothing succeeds, one request at a time asks whether the store is there again.
"""

from __future__ import annotations

import heapq
import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from engine.spec.errors import EngineError
from engine.tree.journal import Removal, parent_of
from engine.tree.listing import parents
from engine.tree.parts import Parts
from engine.tree.sidecar import Sidecars
from engine.tree.upload import Outcome, Uploader

log = logging.getLogger(__name__)

THREADS = 24
"""Tasks at one time. A small file is one request, and waits for the store and for the journal most of its time."""
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 15.0
"""Seconds between two tries of a task that failed: the first time, and at most."""
_RECHECK = 0.1
"""Seconds after which a task is looked at again that waits for another one."""
_SIDECAR_WAIT = 5.0
"""Seconds that a sidecar waits at most for files of its directory that keep changing."""
_MOVING_AFTER = 3
"""How often a file may change while it is read before it is uploaded as it is."""

Kind = Literal["upload", "remove", "sidecar"]
Key = tuple[Kind, str]


@dataclass
class _Task:
    key: Key
    since: float
    """When it was first asked for."""
    due: float
    tries: int = 0
    changes: int = 0
    again: bool = False
    """It was asked for while it ran."""
    held: bool = False
    removal: Removal | None = field(default=None)


class Transfers:
    """The queue and its threads. Times are of the monotonic clock: a clock that jumps changes nothing."""

    def __init__(self, parts: Parts, uploader: Uploader, sidecars: Sidecars) -> None:
        self._parts = parts
        self._uploader = uploader
        self._sidecars = sidecars
        self._changed = threading.Condition()
        self._tasks: dict[Key, _Task] = {}
        self._order: list[tuple[float, int, Key]] = []
        self._number = 0
        self._running: set[Key] = set()
        self._busy: Counter[str] = Counter()
        self._removing: dict[str, Removal] = {}
        self._above_removed: Counter[str] = Counter()
        self._done: dict[Key, float] = {}
        self._failing = 0
        self._settled = 0
        self._ending = False
        self._threads = [threading.Thread(target=self._work, name=f"upload-{n}", daemon=True) for n in range(THREADS)]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def close(self, seconds: float) -> None:
        """End; requests that are under way may still be when it returns."""
        with self._changed:
            self._ending = True
            self._changed.notify_all()
        end = time.monotonic() + seconds
        for thread in self._threads:
            if thread.is_alive():
                thread.join(max(0.0, end - time.monotonic()))

    # Asking

    def refresh(self, files: Iterable[str], *, delay: float, settled: int) -> None:
        """Take over what a scan found: files to upload, and what the journal has to be removed and to be written.

        `settled` is the number of the last removal that the scan before this one knew: up to it they may be done.
        """
        removals = self._parts.journal.removals()
        directories = self._parts.journal.changed_directories()
        now = time.monotonic()
        with self._changed:
            self._settled = max(self._settled, settled)
            self._removing = {r.path: r for r in removals}
            self._above_removed = Counter(parent for r in removals for parent in parents(r.path))
            for path in files:
                self._ask(("upload", path), now + delay)
            for removal in removals:
                if removal.seq <= self._settled:
                    self._ask(("remove", removal.path), now)
            for directory in directories:
                self._ask(("sidecar", directory), now)
            self._changed.notify_all()

    def _ask(self, key: Key, due: float) -> None:
        task = self._tasks.get(key)
        if task is not None:
            task.again = key in self._running
            return
        self._tasks[key] = _Task(key, time.monotonic(), due)
        if key[0] == "upload":
            self._busy[parent_of(key[1])] += 1
        self._push(key, due)

    def _push(self, key: Key, due: float) -> None:
        self._number += 1
        self._tasks[key].due = due
        heapq.heappush(self._order, (due, self._number, key))

    def hurry(self) -> None:
        """Try everything now, whatever failed before and however long it was to wait."""
        now = time.monotonic()
        with self._changed:
            for key, task in self._tasks.items():
                if key not in self._running and task.due > now:
                    self._push(key, now)
            self._changed.notify_all()

    def tasks(self) -> set[Key]:
        """Return what is to be done or being done."""
        with self._changed:
            return set(self._tasks)

    def wait(self, wanted: set[Key], since: float, deadline: float) -> set[Key]:
        """Wait until each of these was begun and ended after `since`, or is not asked for any more.

        Both times are of the monotonic clock. Return those that were not done before the deadline.
        """

        def left() -> set[Key]:
            return {k for k in wanted if k in self._tasks and self._done.get(k, 0.0) < since}

        with self._changed:
            self._changed.wait_for(lambda: not left(), max(0.0, deadline - time.monotonic()))
            return left()

    # Working

    def _work(self) -> None:
        while (task := self._next()) is not None:
            begun = time.monotonic()
            outcome, error = Outcome.CHANGED, ""
            try:
                outcome = self._do(task)
            except (EngineError, OSError) as err:
                error = str(err)
            except BaseException as err:  # a panic of a client's native code is no Exception, and ends no thread here
                log.exception("%s of %r failed", *task.key)
                error = repr(err)
            self._end(task, outcome, error, begun)

    def _next(self) -> _Task | None:
        """Return a task that is due; None at the end."""
        with self._changed:
            while not self._ending:
                now = time.monotonic()
                probing = self._failing and self._running
                if self._order and not probing:
                    due, _, key = self._order[0]
                    task = self._tasks.get(key)
                    if task is None or key in self._running or task.due != due:
                        heapq.heappop(self._order)  # an older place of the same task
                        continue
                    if due <= now:
                        heapq.heappop(self._order)
                        if self._wait_for_others(task, now):
                            continue
                        self._running.add(key)
                        return task
                    self._changed.wait(due - now)
                else:
                    self._changed.wait()
            return None

    def _wait_for_others(self, task: _Task, now: float) -> bool:
        """Put a task off that must not be done yet."""
        kind, path = task.key
        if kind == "upload":
            # A store may not be able to have both `a` and `a/b`: what is in the way goes first.
            task.held = path in self._above_removed or self._below_removed(path) or ("sidecar", path) in self._tasks
            task.held |= path in self._removing  # by another file, see `take_removal`
        elif kind == "sidecar":
            task.held = self._busy[path] > 0 and now < task.since + _SIDECAR_WAIT
            task.held |= path in self._removing or self._below_removed(path)
        # A file that came back while its object is removed, or went while it was uploaded: one after the other.
        other = {"upload": "remove", "remove": "upload"}.get(kind)
        if task.held or (other, path) in self._running:
            self._push(task.key, now + _RECHECK)
            return True
        return False

    def _below_removed(self, path: str) -> bool:
        """Whether an object is still there, and is to be removed, that has the name of a directory of this path."""
        return any(p in self._removing for p in parents(path))

    def _do(self, task: _Task) -> Outcome:
        kind, path = task.key
        if kind == "upload":
            return self._uploader.upload(path, moving=task.changes >= _MOVING_AFTER)
        if kind == "sidecar":
            self._sidecars.write(path)
            return Outcome.DONE
        removal = self._parts.journal.removal(path)
        if removal is None:
            return Outcome.DONE
        if self._moved(removal) or self._parts.journal.removal(path) != removal:  # the file was renamed again just now
            return Outcome.HELD
        return self._uploader.remove(removal)

    def _moved(self, removal: Removal) -> bool:
        """Whether the removed file has another name under which it is still to be uploaded."""
        for path in self._parts.journal.unsaved_names(removal.ino):
            with self._changed:
                other = self._tasks.get(("upload", path))
                if other is None or not other.held:
                    return True
        return False

    def _end(self, task: _Task, outcome: Outcome, error: str, begun: float) -> None:
        kind, path = task.key
        with self._changed:
            self._running.discard(task.key)
            if error:
                self._failed(task, error)
            elif outcome in (Outcome.DONE, Outcome.SENT):  # the others asked the store for nothing
                self._succeeded(task)
            if outcome in (Outcome.DONE, Outcome.SENT):
                self._done[task.key] = begun
            if error:
                pass
            elif outcome is Outcome.HELD:
                self._push(task.key, time.monotonic() + _RECHECK)
            elif outcome in (Outcome.CHANGED, Outcome.SENT):
                task.changes += 1
                self._push(task.key, time.monotonic() + min(1.0, 0.02 * 2 ** min(task.changes, 6)))
            elif task.again:
                task.again, task.changes = False, 0
                self._push(task.key, time.monotonic())
            else:
                del self._tasks[task.key]
                self._done.pop(task.key, None)
                self._forget(kind, path)
            self._changed.notify_all()
        if kind != "sidecar" and not error and outcome is not Outcome.HELD:
            self._want_sidecars(path)

    def _want_sidecars(self, path: str) -> None:
        with self._changed:
            self._ask(("sidecar", parent_of(path)), time.monotonic())
            self._changed.notify_all()

    def _forget(self, kind: Kind, path: str) -> None:
        if kind == "upload":
            self._busy[parent_of(path)] -= 1
        elif kind == "remove" and self._removing.pop(path, None) is not None:
            self._above_removed -= Counter(parents(path))

    def _succeeded(self, task: _Task) -> None:
        task.tries = 0
        if self._failing:
            self._failing = 0
            self._parts.health.trouble("store", "")

    def _failed(self, task: _Task, error: str) -> None:
        self._failing += 1
        task.tries += 1
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (task.tries - 1)) * random.uniform(0.75, 1.25)
        log.warning("%s of %r failed, next try in %.1f s: %s", *task.key, pause, error)
        self._parts.health.trouble("store", error)
        self._push(task.key, time.monotonic() + pause)
