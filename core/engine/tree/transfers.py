"""What is to be brought into the store, and when: a queue that many threads work on.

There are three kinds of tasks: the upload of a file, the removal of an object, and a directory's sidecar. The journal
has them all; the queue only orders them. An object is never written and removed at the same time. A removal waits until
a later scan has been made (a file that was moved during a scan may be in neither place) and until the file is uploaded
under its new name; a sidecar waits for the files of its directory. While many files wait, small ones are uploaded
together. What fails is tried again, later and later; while nothing succeeds, one request at a time asks whether the
store is there again.
"""

from __future__ import annotations

import heapq
import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from engine.spec.errors import EngineError, Internal
from engine.tree.listing import parents
from engine.tree.parts import Parts
from engine.tree.rows import Removal, parent_of
from engine.tree.sending import Outcome
from engine.tree.sidecar import Sidecars
from engine.tree.together import MOST, Result, Together
from engine.tree.upload import Uploader

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
    alone: bool = False
    """It was no upload to be made together with others."""

    @property
    def sociable(self) -> bool:
        """Whether it may be done together with others."""
        return self.key[0] == "upload" and not self.alone and not self.tries and self.changes < _MOVING_AFTER


class _Wait:
    """Somebody who waits for tasks."""

    def __init__(self, left: set[Key], since: float) -> None:
        self.left = left
        self.since = since


class Transfers:
    """The queue and its threads. Times are of the monotonic clock: a clock that jumps changes nothing."""

    def __init__(self, parts: Parts, uploader: Uploader, together: Together, sidecars: Sidecars) -> None:
        self._parts = parts
        self._uploader = uploader
        self._together = together
        self._sidecars = sidecars
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        """There may be something to do. Each thread that takes something tells the next one."""
        self._progress = threading.Condition(self._lock)
        """Something that somebody waits for is done."""
        self._waits: list[_Wait] = []
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
        with self._lock:
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
        with self._lock:
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
            self._changed.notify()

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
        with self._lock:
            for key, task in self._tasks.items():
                if key not in self._running and task.due > now:
                    self._push(key, now)
            self._changed.notify()

    def tasks(self) -> set[Key]:
        """Return what is to be done or being done."""
        with self._lock:
            return set(self._tasks)

    def wait(self, wanted: set[Key], since: float, deadline: float) -> set[Key]:
        """Wait until each of these was begun and ended after `since`, or is not asked for any more.

        Both times are of the monotonic clock. Return those that were not done before the deadline.
        """

        with self._lock:
            left = {k for k in wanted if k in self._tasks and self._done.get(k, 0.0) < since}
            wait = _Wait(left, since)
            self._waits.append(wait)
            self._progress.wait_for(lambda: not wait.left, max(0.0, deadline - time.monotonic()))
            self._waits.remove(wait)
            return wait.left

    # Working

    def _work(self) -> None:
        while tasks := self._next():
            begun = time.monotonic()
            self._end(tasks, self._do_all(tasks), begun)

    def _next(self) -> list[_Task]:
        """Return a task that is due, or several that are done together; none at the end."""
        with self._lock:
            while not self._ending:
                now = time.monotonic()
                probing = self._failing and self._running
                tasks = [] if probing else self._take(now)
                if tasks:
                    self._changed.notify()
                    return tasks
                self._changed.wait(self._order[0][0] - now if self._order and not probing else None)
            return []

    def _take(self, now: float) -> list[_Task]:
        """Take what is due from the queue: as many small files as there are for each thread, up to a limit."""
        most = 1 if self._failing else min(MOST, len(self._order) // THREADS + 1)
        taken: list[_Task] = []
        while len(taken) < most and (task := self._first(now)) is not None:
            if taken and not task.sociable:
                break
            heapq.heappop(self._order)
            if self._wait_for_others(task, now):
                continue
            self._running.add(task.key)
            taken.append(task)
            if not task.sociable:
                break
        return taken

    def _first(self, now: float) -> _Task | None:
        """Return the first task of the queue if it is due."""
        while self._order:
            due, _, key = self._order[0]
            task = self._tasks.get(key)
            if task is not None and key not in self._running and task.due == due:
                return task if due <= now else None
            heapq.heappop(self._order)  # an older place of the same task
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

    def _do_all(self, tasks: Sequence[_Task]) -> Mapping[str, Result]:
        """Return what became of each task, by its path."""
        try:
            if len(tasks) > 1:
                return self._together.upload([task.key[1] for task in tasks])
            return {tasks[0].key[1]: self._do(tasks[0])}
        except (EngineError, OSError) as err:
            error: Result = err
        except BaseException as err:  # a panic of a client's native code is no Exception, and ends no thread here
            log.exception("%s of %r failed", *tasks[0].key)
            error = Internal("a request to the store failed", why=repr(err))
        return {task.key[1]: error for task in tasks}

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
            with self._lock:
                other = self._tasks.get(("upload", path))
                if other is None or not other.held:
                    return True
        return False

    def _end(self, tasks: Sequence[_Task], results: Mapping[str, Result], begun: float) -> None:
        with self._lock:
            for task in tasks:
                result = results[task.key[1]]
                self._running.discard(task.key)
                if isinstance(result, Outcome):
                    self._ended(task, result, begun)
                else:
                    self._failed(task, str(result))
                for wait in self._waits:
                    if task.key not in self._tasks or self._done.get(task.key, 0.0) >= wait.since:
                        wait.left.discard(task.key)
            self._changed.notify()
            if not all(wait.left for wait in self._waits):
                self._progress.notify_all()

    def _ended(self, task: _Task, outcome: Outcome, begun: float) -> None:
        """Go on after a try that did not fail."""
        kind, path = task.key
        now = time.monotonic()
        if outcome in (Outcome.DONE, Outcome.SENT):  # the others asked the store for nothing
            self._succeeded(task)
            self._done[task.key] = begun
        if outcome is Outcome.HELD:
            self._push(task.key, now + _RECHECK)
        elif outcome is Outcome.ALONE:
            task.alone = True
            self._push(task.key, now)
        elif outcome in (Outcome.CHANGED, Outcome.SENT):
            task.changes += 1
            self._push(task.key, now + min(1.0, 0.02 * 2 ** min(task.changes, 6)))
        elif task.again:
            task.again, task.changes = False, 0
            self._push(task.key, now)
        else:
            del self._tasks[task.key]
            self._done.pop(task.key, None)
            self._forget(kind, path)
        if kind != "sidecar" and outcome is not Outcome.HELD:
            self._ask(("sidecar", parent_of(path)), now)

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
