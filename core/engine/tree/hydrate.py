"""Files are fetched when they are opened: who opens one that is not here waits until all of it is.

A file is shown only when its own attribute says that it is filled. Whatever else is found (no attribute, one that
cannot be read, an object that is gone), the access fails with EIO. If the object is another one than was listed, the
file becomes a placeholder of that one while everybody waits. Files are fetched whole before
anybody gets at them: a program that asks the file system where a file has holes (cp does) raises no event, and would
take a part that is not fetched for zeroes.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial

from engine.spec.errors import EngineError, NotFound, Unavailable
from engine.spec.storage import ShortRead
from engine.tree import content as contents
from engine.tree.content import UnknownContent
from engine.tree.fanotify import DENIABLE, Group
from engine.tree.filling import Changed, Filling, Range
from engine.tree.fills import Fills
from engine.tree.hydration import Site
from engine.tree.quiet import QuietMount
from engine.tree.workers import Urgency, Workers

log = logging.getLogger(__name__)

THREADS = 16
"""Requests to the store at one time."""
_WINDOW = 8
"""Chunks of one file that are on their way at one time."""
AHEAD_SIZE = 1 << 20
"""Bytes up to which a file is fetched ahead, when another small one of its directory is opened."""
_RENEWALS = 8
"""How often a file is begun again whose object somebody changes meanwhile."""
_PAUSE = 0.25
"""Seconds after which a request that failed is tried again; twice as long each time, up to 16 times that."""
Release = Callable[[int], None]
"""Lets somebody who waits for a file go on (0), or fail with an errno."""


class _Job:
    """A file that is wanted: who waits for it, and how far it is."""

    def __init__(self, handle: bytes) -> None:
        self.handle = handle
        self.waiting: list[tuple[Release, float]] = []
        self.started = False
        self.wanted = False
        self.fd = -1
        self.todo: deque[Range] = deque()
        self.running = 0
        self.ended = False
        self.moved = time.monotonic()
        self.tries = 0
        self.renewals = 0
        self.error: Exception | None = None


class Hydrator:
    """Fills files. `patience`: seconds without any progress after which those who wait for a file get EIO."""

    def __init__(self, group: Group, quiet: QuietMount, fills: Fills, site: Site, *, patience: float) -> None:
        self._group = group
        self._quiet = quiet
        self._fills = fills
        self._site = site
        self._patience = patience
        self._workers = Workers("hydrate", THREADS)
        self._lock = threading.Lock()
        self._jobs: dict[bytes, _Job] = {}
        self._held: dict[bytes, list[Release]] = {}
        self._closed = False
        self.filled_bytes = 0
        """Bytes that were fetched since the start."""
        self.last_error = ""
        """Why a file could not be fetched, the last time."""
        self.on_full: Callable[[int], bool] = lambda needed: False
        """Called when the disk is full, with the bytes that are needed; returns whether there is room now."""
        self.on_small: Callable[[int], None] = lambda fd: None
        """Called with the descriptor of a small file that somebody waits for."""

    def demand(self, handle: bytes, release: Release) -> None:
        """Have a file filled, and call `release` when it is, or with an errno when it cannot be."""
        with self._lock:
            if handle in self._held:
                self._held[handle].append(release)
                return
            job = None if self._closed else self._want(handle, Urgency.WANTED)
            if job is not None:
                job.waiting.append((release, time.monotonic()))
        if job is None:
            release(errno.EIO)

    def ahead(self, handle: bytes) -> None:
        """Have a file filled that nobody waits for yet."""
        with self._lock:
            if not self._closed and handle not in self._held and handle not in self._jobs:
                self._want(handle, Urgency.AHEAD)

    def _want(self, handle: bytes, urgency: Urgency) -> _Job:
        job = self._jobs.get(handle)
        if job is None:
            job = self._jobs[handle] = _Job(handle)
        elif job.started or job.wanted or urgency is Urgency.AHEAD:
            return job
        job.wanted = urgency is Urgency.WANTED
        self._workers.submit(partial(self._begin, job), urgency)
        return job

    def fetches(self, handle: bytes) -> bool:
        """Return whether a file is just being filled, or noted as filled."""
        with self._lock:
            job = self._jobs.get(handle)
            return job is not None and job.started

    def hold(self, handle: bytes) -> bool:
        """Let nobody get at a file until `let_go`; False if it is being filled right now. For eviction."""
        with self._lock:
            if self._closed or handle in self._jobs or handle in self._held:
                return False
            self._held[handle] = []
            return True

    def let_go(self, handle: bytes) -> None:
        """End a `hold`: those who came meanwhile are served."""
        with self._lock:
            waiting = self._held.pop(handle)
        for release in waiting:
            self.demand(handle, release)

    def tick(self) -> None:
        """Let those go whose patience has ended; to be called several times a second."""
        late: list[Release] = []
        with self._lock:
            for job in self._jobs.values():
                if job.waiting and not self._patient(job):
                    late += [release for release, _ in job.waiting]
                    job.waiting.clear()
                    self.last_error = str(job.error or f"no answer in {self._patience:g} seconds")
        for release in late:
            release(errno.EIO)

    def _patient(self, job: _Job) -> bool:
        """Whether somebody waits for a file who would still wait; progress renews the patience of all."""
        now = time.monotonic()
        return any(now - max(job.moved, since) < self._patience for _, since in job.waiting)

    def close(self, deadline: float) -> None:
        """Give everything up; who waits gets EIO."""
        with self._lock:
            self._closed = True
            jobs = list(self._jobs.values())
            waiting = [release for job in jobs for release, _ in job.waiting]
            for job in jobs:
                job.waiting.clear()
        for release in waiting:
            release(errno.EIO)
        self._workers.close(deadline)

    def _begin(self, job: _Job) -> None:
        with self._lock:
            if job.started:
                return
            job.started = True
        try:
            if self._is_here(job.handle):
                self._end(job)
                return
            job.fd = self._quiet.open_handle(job.handle, os.O_RDWR)
            filling = Filling(job.fd, self._site.store)
            filling.begin()
        except (UnknownContent, OSError) as err:
            self._end(job, err)
            return
        if job.waiting and filling.content.size <= AHEAD_SIZE:
            self.on_small(job.fd)
        job.todo.extend(filling.ranges)
        self._go_on(job, filling)

    def _is_here(self, handle: bytes) -> bool:
        """Whether a file needs nothing, and then no mark either.

        It is not opened for writing: it may be executed just now (ETXTBSY), or is about to be.
        """
        fd = self._quiet.open_handle(handle, os.O_RDONLY)
        try:
            found = contents.read(fd)
            if found is None or not self._fills.present(found, os.fstat(fd).st_ino):
                return False
            self._group.unmark(fd)
            return True
        finally:
            os.close(fd)

    def _go_on(self, job: _Job, filling: Filling) -> None:
        """Ask for more ranges, or finish when all are there."""
        with self._lock:
            if job.error:
                job.todo.clear()
            parts = [job.todo.popleft() for _ in range(min(_WINDOW - job.running, len(job.todo)))]
            job.running += len(parts)
            ended = not job.running and not job.ended  # two threads may bring the last two parts
            job.ended = job.ended or ended
            urgency = Urgency.WANTED if job.waiting else Urgency.AHEAD
        if ended:
            self._finish(job, filling)
        elif parts and len(filling.ranges) == 1:
            self._fetch(job, filling, parts[0])  # at once: a small file costs no change of threads
        else:
            for part in parts:
                self._workers.submit(partial(self._fetch, job, filling, part), urgency)

    def _fetch(self, job: _Job, filling: Filling, part: Range) -> None:
        try:
            filling.fetch(part)
        except (EngineError, OSError) as err:
            if self._try_again(job, filling, part, err):
                return
            with self._lock:
                job.error = err
                job.running -= 1
        else:
            with self._lock:
                filling.fetched(part)
                job.running -= 1
                job.tries = 0
                job.moved = time.monotonic()
                self.filled_bytes += part[1] - part[0]
        self._go_on(job, filling)

    def _try_again(self, job: _Job, filling: Filling, part: Range, err: Exception) -> bool:
        """Whether a request is repeated: when it may go well later, and as long as somebody waits."""
        pause = 0.0
        with self._lock:
            if isinstance(err, OSError):
                again = err.errno in (errno.ENOSPC, errno.EDQUOT)
            else:
                again = isinstance(err, Unavailable) and not isinstance(err, ShortRead)
                pause = min(_PAUSE * 2**job.tries, _PAUSE * 16, self._patience / 4)
                job.tries += 1
            again = again and not self._closed and self._patient(job)
            self.last_error = str(err)
        if again and isinstance(err, OSError):
            again = self.on_full(part[1] - part[0])
        if again:
            self._workers.submit(partial(self._fetch, job, filling, part), Urgency.WANTED, delay=pause)
        return again

    def _finish(self, job: _Job, filling: Filling) -> None:
        error = job.error
        if error is None:
            try:
                before, after = filling.finish()
                path = self._quiet.path_of(job.fd)
                if path is not None:
                    self._site.settle(path, before, after, hydrated=True)
                self._group.unmark(job.fd)
            except (EngineError, OSError) as err:
                error = err
        if isinstance(error, (Changed, ShortRead)):
            try:
                if self._renew(job, filling):
                    return
            except (EngineError, OSError) as err:
                error = err
        if isinstance(error, NotFound):
            self._site.gone(filling.content.key)
        self._end(job, error)

    def _renew(self, job: _Job, filling: Filling) -> bool:
        """Begin again with the object that is in the store now; False if it is the same, or changes all the time."""
        job.renewals += 1
        if self._closed or job.renewals > _RENEWALS:
            return False
        renewal = filling.renew()
        if renewal is None:
            return False
        path = self._quiet.path_of(job.fd)
        if path is not None:
            self._site.renewed(path, renewal.before, renewal.after, old=renewal.old, new=renewal.new)
        with self._lock:
            job.error, job.ended, job.moved = None, False, time.monotonic()
            job.todo.extend(filling.ranges)
        self._go_on(job, filling)
        return True

    def _end(self, job: _Job, error: Exception | None = None) -> None:
        code = 0
        if error is not None:
            code = error.errno or errno.EIO if isinstance(error, OSError) else errno.EIO
            code = code if code in DENIABLE else errno.EIO
            log.warning("a file cannot be fetched: %s", error)
        with self._lock:
            del self._jobs[job.handle]
            waiting = [release for release, _ in job.waiting]
            if error is not None:
                self.last_error = str(error)
        if job.fd >= 0:
            os.close(job.fd)
        for release in waiting:
            release(code)
