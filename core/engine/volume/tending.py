"""Looks after volumes whose content is kept in a store: a thread that starts dead helpers again, and lets go of volumes
that nobody uses any more when everything of theirs is uploaded.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from engine.helper.place import HelperPlace
from engine.spec.errors import EngineError
from engine.volume.record import VolumeRecord
from engine.volume.trees import Trees, trees_in_use

log = logging.getLogger(__name__)

PERIOD = 0.5
"""Seconds between two looks at the locks of helpers: some microseconds each."""
DRAIN_PERIOD = 2.0
"""Seconds between two questions to a helper that only drains."""
RELEASE_SECONDS = 10.0
"""For the last search for changes before a volume is released."""
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds after a helper died for the second time, and at most. The first time it is started at once."""
CALM_SECONDS = 60.0
"""A helper that lived so long is started at once again."""


@dataclass
class _Watched:
    record: VolumeRecord
    started: float = 0.0
    pause: float = 0.0
    next_try: float = 0.0
    next_drain: float = 0.0


class Tending:
    """Watches volumes from `watch` to `forget`.

    `release` is called for one that nobody uses and that seems to be drained, with the seconds that it may take to see
    whether it is.
    """

    def __init__(self, trees: Trees, release: Callable[[VolumeRecord, float], object]) -> None:
        self._trees, self._release = trees, release
        self._lock = threading.Lock()
        self._watched: dict[str, _Watched] = {}
        self._wake = threading.Event()
        self._stopped = False
        self._thread: threading.Thread | None = None

    def watch(self, record: VolumeRecord) -> None:
        """Look after a volume, whose record may have changed; one without trees is nothing to look after."""
        if not trees_in_use(record):
            return
        with self._lock:
            found = self._watched.setdefault(record.id, _Watched(record))
            found.record = record
            if self._thread is None and not self._stopped:
                self._thread = threading.Thread(target=self._run, name="tending", daemon=True)
                self._thread.start()
        self._wake.set()

    def forget(self, record: VolumeRecord) -> None:
        """Look after a volume no longer."""
        with self._lock:
            self._watched.pop(record.id, None)

    def stop(self) -> None:
        """End the thread. Helpers go on."""
        with self._lock:
            self._stopped = True
            thread, self._thread = self._thread, None
        self._wake.set()
        if thread is not None:
            thread.join(10)

    def _run(self) -> None:
        while not self._stopped:
            with self._lock:
                todo = list(self._watched.values())
            for watched in todo:
                try:
                    self._look(watched)
                except Exception:  # one volume's fault must not end the care of the others
                    log.exception("looking after volume %s failed", watched.record.name)
            if todo:
                self._wake.wait(PERIOD)
            else:
                self._wake.wait()
            self._wake.clear()

    def _look(self, watched: _Watched) -> None:
        now, record = time.monotonic(), watched.record
        if not all(HelperPlace(tree.run).alive() for tree in trees_in_use(record)):
            if now >= watched.next_try:
                self._restart(watched, now)
        elif not record.mounts and now >= watched.next_drain:
            if self._seems_drained(record):
                self._release(record, RELEASE_SECONDS)
            watched.next_drain = time.monotonic() + DRAIN_PERIOD

    def _restart(self, watched: _Watched, now: float) -> None:
        record = watched.record
        if now - watched.started > CALM_SECONDS:
            watched.pause = 0.0
        watched.started = now
        watched.next_try = now + watched.pause
        watched.pause = min(max(watched.pause * 2, FIRST_PAUSE), LONGEST_PAUSE)
        try:
            self._trees.restart(record)
        except EngineError as err:
            log.warning("the helper of volume %s ended and cannot be started: %s", record.name, err)
        else:
            log.warning("the helper of volume %s had ended; it is started again", record.name)

    def _seems_drained(self, record: VolumeRecord) -> bool:
        found = self._trees.status(record)
        return not record.exposed or all(
            status.state == "ready" and not status.pending_files and not status.unstorable_files for status in found
        )
