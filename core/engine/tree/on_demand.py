"""Mode `on-demand`: files are placeholders until somebody opens them."""

from __future__ import annotations

import errno
import itertools
import logging
import os
import queue
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from engine.spec.errors import ApplyFailed, Conflict, EngineError, Unavailable, Unsupported
from engine.tree import content as contents
from engine.tree import placeholders, selftest
from engine.tree.ahead import Ahead
from engine.tree.content import Content, UnknownContent
from engine.tree.evict import Evictor
from engine.tree.fanotify import Group, handle_of
from engine.tree.filling import own, signature
from engine.tree.fills import Fills
from engine.tree.guard import Guard
from engine.tree.hydrate import Hydrator
from engine.tree.hydration import Entry, Hydration, Signature, Site, Usage
from engine.tree.quiet import QuietMount
from engine.tree.spelling import spelling_of

log = logging.getLogger(__name__)

_EVERY = 5.0
"""Seconds between two looks at what the disk and the budget need, and two writes of what was filled to the disk."""
_COUNT = 12
"""Every so many looks it is counted what the tree has on the disk."""
_CHECKS = 16
"""Objects that are looked at together, of which an older content is here."""
_PAUSE = 0.02
_CLOSE = 5.0
"""Seconds for threads to end."""


class OnDemandHydration(Hydration):
    """Fetches files through fanotify.

    `run` is the helper's directory, `record` the file of `Fills`. `budget`: bytes, 0 for none; `patience`: seconds.
    """

    def __init__(self, run: Path, record: Path, *, budget: int = 0, patience: float = 30.0) -> None:
        self._run = run
        self._record = record
        self._budget = budget
        self._patience = patience
        self._ending = threading.Event()
        self._undo = ExitStack()

    def start(self, site: Site) -> None:
        """Take over or make the group, mark what is not here, and serve whoever waits. Raises Unsupported."""
        self._site = site
        try:
            self._take_group(site)
            self._start(site)
        except BaseException as err:
            self.close()
            if isinstance(err, OSError):
                raise Unsupported("files cannot be fetched on demand here", why=str(err)) from err
            raise

    def _take_group(self, site: Site) -> None:
        root = os.open(site.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._group, taken_over = Group.of(root)
        finally:
            os.close(root)
        self._undo.callback(self._group.close)
        if taken_over:  # it works, then, and somebody may be waiting
            log.info("the group of %s was taken over", site.root)
        else:
            selftest.check(site.staging)

    def _start(self, site: Site) -> None:
        self._quiet = QuietMount(str(site.root), spelling_of(site.store.caps))
        self._undo.callback(self._quiet.close)
        self._group.ignore_mount(self._quiet.root)
        self._fills = Fills(self._record, self._quiet.root)
        self._undo.callback(self._sync)
        self._hydrator = Hydrator(self._group, self._quiet, self._fills, site, patience=self._patience)
        self._evictor = Evictor(self._group, self._quiet, self._hydrator, self._fills, site, self._budget)
        self._hydrator.on_small = Ahead(self._hydrator, self._quiet).near
        self._hydrator.on_full = lambda needed: self._evictor.make_room(needed) >= needed
        self._guard = Guard(self._group, self._hydrator, self._run)
        self._undo.callback(self._guard.close)
        self._undo.callback(self._hydrator.close, _CLOSE)
        placeholders.mark_all(self._group, self._quiet, self._fills)
        self._undo.callback(self._guard.stop)
        self._guard.start()
        upkeep = threading.Thread(target=self._keep_up, name="evict", daemon=True)
        upkeep.start()
        self._undo.callback(upkeep.join, _CLOSE)

    def prepare(self, entries: Sequence[Entry]) -> None:
        """Make placeholders of these files; one that is whole here stays if its object is not what anybody stored."""
        taken = self._site.install_new(entries, lambda entry, fd: placeholders.make(entry, fd, self._group))
        with ThreadPoolExecutor(_CHECKS, thread_name_prefix="check") as pool:
            good = [entry for entry, fine in zip(taken, pool.map(self._is_good, taken), strict=True) if fine]
        for number, entry in enumerate(good):
            staged = self._site.staging / f"placeholder-{number}"
            staged.unlink(missing_ok=True)
            try:
                handle = self._stage(entry, staged)
                self._site.install(entry, staged, hydrated=not handle, handle=handle)
            except OSError as err:
                raise ApplyFailed(f"no placeholder for {entry.path!r}", why=str(err)) from err

    def _stage(self, entry: Entry, staged: Path) -> bytes:
        """Make a placeholder that is to take the place of a file; return its handle."""
        fd = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            return placeholders.make(entry, fd, self._group)
        finally:
            os.close(fd)

    def _is_good(self, entry: Entry) -> bool:
        """Tell whether the content here may be given up: a byte of an object shows what is authenticated of it."""
        if not self._site.has(entry.path):
            return True
        try:
            self._site.store.get(entry.path, 0, min(1, entry.size))
        except Conflict as err:
            self._site.spoiled(entry.path, err)
            return False
        except EngineError:
            pass  # nothing is known against it; it is looked at again when it is opened
        return True

    def ensure(self, path: str) -> None:
        """Return when a file is complete. Raises Unavailable; a file that is gone is complete."""
        try:
            fd = self._quiet.open(path)
        except FileNotFoundError:
            return
        try:
            if self.complete(fd):
                return
            handle = handle_of(fd)
        finally:
            os.close(fd)
        answer: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._hydrator.demand(handle, answer.put)
        error = answer.get()  # comes when the hydrator's patience ends, at the latest
        if error:
            raise Unavailable(f"{path!r} cannot be fetched", why=self._hydrator.last_error or os.strerror(error))

    def moved(self, path: str, version: str, inode: int) -> bool:
        """Have a file's attribute name the object that it is in now. Raises Unavailable while it is being fetched."""
        try:
            fd = self._quiet.open(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        try:
            if os.fstat(fd).st_ino != inode:
                return False
            handle = handle_of(fd)
            end = time.monotonic() + self._patience
            while not self._hydrator.hold(handle):
                if time.monotonic() > end:
                    raise Unavailable(f"{path!r} was renamed", why="it is being fetched under its old name")
                time.sleep(_PAUSE)
            try:
                self._rename_object(fd, path, version)
            finally:
                self._hydrator.let_go(handle)
            return True
        finally:
            os.close(fd)

    def _rename_object(self, fd: int, path: str, version: str) -> None:
        found = contents.read(fd)
        if found is None or self._fills.present(found, found.inode) or (found.key, found.version) == (path, version):
            return
        before = signature(fd)
        contents.write(fd, replace(found, key=path, version=version))
        if not found.begun:  # otherwise the attribute has what the journal knows
            self._site.settle(path, before, signature(fd), hydrated=False, handle=handle_of(fd))

    def open(self, path: str) -> int:
        """Open a file for reading through the quiet mount. Raises OSError."""
        return self._quiet.open(path)

    def forget(self, path: str) -> None:
        """Nothing: what is kept for a file lies in the file."""

    def complete(self, descriptor: int) -> bool:
        """Return whether an open file says that its content is here; one that says nothing was made locally."""
        try:
            found = contents.read(descriptor)
        except UnknownContent:
            return False
        return found is None or self._fills.present(found, os.fstat(descriptor).st_ino)

    def signature(self, descriptor: int) -> Signature:
        """Return a file's own signature: until the journal has heard of the end of a fill, that from before it."""
        while True:
            found, facts = _content(descriptor), os.fstat(descriptor)
            ours = found is not None and (found.begun or self._fills_now(descriptor, found))
            if _content(descriptor) == found:  # else it was begun or ended between the two
                return own(found) if ours and found is not None else Signature.of(facts)

    def _fills_now(self, descriptor: int, found: Content) -> bool:
        return found.where == "filled" and self._hydrator.fetches(handle_of(descriptor))

    def handle(self, descriptor: int) -> bytes:
        """Return a file's handle."""
        return handle_of(descriptor)

    def needs(self, handle: bytes, key: str) -> bool:
        """Return whether the file of a handle has its content in that object and nowhere else."""
        try:
            fd = self._quiet.open_handle(handle, os.O_RDONLY)
        except OSError as err:
            if err.errno != errno.ESTALE:
                raise
            return False
        try:
            if not os.fstat(fd).st_nlink:
                return self._hydrator.fetches(handle)  # for a program that has it open
            found = contents.read(fd)
            return found is not None and found.key == key and not self.complete(fd)
        except UnknownContent:
            return True
        finally:
            os.close(fd)

    def written(self, descriptor: int) -> bool:
        """Return whether a file was filled, may not be on the disk, and differs from what it was filled with."""
        try:
            found = contents.read(descriptor)
        except UnknownContent:
            return False
        facts = os.fstat(descriptor)
        if found is None or found.where != "filled" or self._fills.present(found, facts.st_ino):
            return False
        return found.changed(facts)

    def usage(self) -> Usage:
        """Return how many bytes are held here; what programs write and remove is seen once a minute."""
        return Usage(self._evictor.usage())

    def descriptors(self) -> Sequence[int]:
        """Return the group's descriptor: as long as anybody has it, nobody reads a file that is not here."""
        return (self._group.fd,)

    def close(self) -> None:
        """End. The holder keeps the group: whoever opens a file that is not here waits for the next helper."""
        self._ending.set()
        self._undo.close()

    def _sync(self) -> None:
        try:
            self._site.keep_settled()  # first: a file that is here after a crash must not look changed
            self._fills.sync()
        except (EngineError, OSError) as err:  # after a crash of the machine more is fetched again than has to be
            log.warning("it cannot be written down what is on the disk: %s", err)

    def _keep_up(self) -> None:
        synced = -1
        for turn in itertools.count():
            if self._ending.wait(_EVERY):
                return
            try:
                if turn % _COUNT == 0:
                    self._evictor.count()
                self._evictor.keep_within()
                if synced != self._hydrator.filled_bytes:
                    synced = self._hydrator.filled_bytes
                    self._sync()
            except (EngineError, OSError) as err:
                log.error("upkeep: %s", err)


def _content(descriptor: int) -> Content | None:
    """Return what a file says of its content; None also where that cannot be read."""
    try:
        return contents.read(descriptor)
    except UnknownContent:
        return None
