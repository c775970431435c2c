"""Reads the events of a tree's group and answers them: nobody gets at a file before the hydrator says so."""

from __future__ import annotations

import errno
import logging
import os
import select
import threading
import time
from functools import partial
from pathlib import Path

from engine.tree import holder
from engine.tree.fanotify import Group, handle_of
from engine.tree.hydrate import Hydrator
from engine.tree.keeping import Keeping
from engine.tree.outstanding import MAX_NUMBER, Outstanding

log = logging.getLogger(__name__)

_TICK = 0.25
"""Seconds between two looks at whose patience has ended, and whether the holder lives."""


class Guard:
    """The thread that reads events. `run` is the helper's directory for what must outlive it."""

    def __init__(self, group: Group, hydrator: Hydrator, run: Path) -> None:
        self._group = group
        self._hydrator = hydrator
        self._keeping = Keeping(run / holder.LOCK, group)
        self._table = Outstanding(run / "outstanding")
        self._wake, self._ring = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._earlier = threading.Semaphore(0)
        self._thread = threading.Thread(target=self._loop, name="fanotify", daemon=True)
        self._ending = False

    def start(self) -> None:
        """Start the holder, serve those who wait since an earlier process of this volume, then read events."""
        self._keeping.check()
        self._thread.start()

    def _loop(self) -> None:
        self._serve_earlier()
        poll = select.poll()
        poll.register(self._group.fd, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        looked = time.monotonic()
        while not self._ending:
            ready = [fd for fd, _ in poll.poll(_TICK * 1000)]
            if self._group.fd in ready:
                self._read()
            if time.monotonic() - looked >= _TICK:
                looked = time.monotonic()
                self._tick()

    def _tick(self) -> None:
        self._hydrator.tick()
        try:
            self._keeping.check()
        except OSError as err:
            log.error("no holder can be started: %s", err)

    def _serve_earlier(self) -> None:
        """Answer those who wait for an answer of a process that was killed.

        Before any event is read: a new one could get the number of an old one. Those whom the process had read and not
        written down yet are refused.
        """
        waiting = self._table.entries()
        refused = sum(self._group.answer(n, errno.EIO) for n in range(MAX_NUMBER) if n not in waiting)
        if refused:
            log.warning("%d accesses had not been written down when the helper was killed: they failed", refused)
        for number, handle in waiting.items():
            self._hydrator.demand(handle, partial(self._release_earlier, number))
        left = len(waiting)
        while left and not self._ending:
            if self._earlier.acquire(timeout=_TICK):
                left -= 1
            self._tick()

    def _release_earlier(self, number: int, error: int) -> None:
        if self._ending:
            return
        self._group.answer(number, error)
        self._table.remove(number)
        self._earlier.release()

    def _read(self) -> None:
        for event in self._group.read():
            try:
                handle = handle_of(event.fd)
                self._table.add(event.fd, handle)
            except (OSError, ValueError) as err:
                log.error("an access is refused: %s", err)
                self._group.answer(event.fd, errno.EIO)
                os.close(event.fd)
                continue
            self._hydrator.demand(handle, partial(self._release, event.fd))

    def _release(self, number: int, error: int) -> None:
        if not self._ending:
            self._group.answer(number, error)
            self._table.remove(number)  # before the number can be used again
        os.close(number)

    def stop(self) -> None:
        """Stop reading and answering: who waits or comes now waits for the next helper. The holder goes on."""
        self._ending = True
        os.write(self._ring, b"\0")
        self._thread.join(5)

    def close(self) -> None:
        """Give everything up, after the hydrator's `close`."""
        self._table.close()
        os.close(self._wake)
        os.close(self._ring)
