"""What every object of a store should be: a list beside rclone's format, which binds no name, length or age to content.

The `ledger` says what is known and what is wrong with an object; here it is kept in agreement with a log in the store
that several hosts write. An object whose nonce nobody knows was written by somebody with the key, and is taken in. So
nothing has to be noted before an object is written, and a crash raises no false alarm. Only a copy by the server is
noted before: it has the nonce of its source.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from engine_drivers.storage.crypt.content import HEADER, Damaged, nonce_of
from engine_drivers.storage.crypt.ledger import Ledger
from engine_drivers.storage.crypt.mark import Mark, MarkFile
from engine_drivers.storage.crypt.nonces import Nonces, family_of
from engine_drivers.storage.crypt.segments import (
    PREFIX,
    Entry,
    Kind,
    Sealer,
    Segment,
    digest_of,
    parse_name,
)
from engine_sdk import ABSENT, Conflict, EngineError, NotFound, ShortRead, Store, Unavailable

log = logging.getLogger(__name__)
PENDING = 256
"""Changes after which they are written at once."""
DELAY = 2.0
"""Seconds after which changes are written."""
RETRY_DELAY = 15.0
"""Seconds after which a write that failed is tried again."""
_SEGMENTS, _MOST_SEGMENTS = 32, 256
_ATTEMPTS = 8


class Tampered(Damaged):
    """An object is not the one that the manifest knows: cut, exchanged with another one, or an older one."""

    kind = "tampered"

    def __init__(self, problem: str, what: str, *, why: str) -> None:
        super().__init__(what, driver="crypt", why=why, hint="`engine volume scrub` looks at all objects")
        self.problem = problem


class RolledBack(Damaged):
    """The store as a whole is older than this host has seen it."""

    kind = "rolled-back"


class Manifest:
    """The manifest of one store. Methods may be called from any thread."""

    def __init__(self, inner: Store, data_key: bytes, mark: MarkFile, show: Callable[[str], str]) -> None:
        """Take the store, its key, the mark, and what shows the plain name of an object. Reads nothing yet."""
        self._inner, self._mark, self._show = inner, mark, show
        self._sealer = Sealer(data_key)
        self._lock = threading.RLock()
        self._writing = threading.Lock()
        self._timer: threading.Timer | None = None
        self._closed = False
        self._ledger = Ledger(Nonces(data_key).prove_empty)
        self._head = Mark()
        self._segments = 0
        """Of the log since the last whole one."""
        self._refused: Damaged | None = None
        """Why the log in the store is not the one that we write."""
        self._pending: dict[str, Entry | None] = {}
        self._pending_retired: list[bytes] = []
        self._pending_intents: dict[str, Entry] = {}

    # Reading the log

    def load(self) -> None:
        """Read all of the log. Raises Damaged (RolledBack among them), and what the store raises. Writes nothing."""
        for attempt in range(_ATTEMPTS):
            try:
                return self._load()
            except (NotFound, ShortRead):  # somebody compacts it just now
                if attempt == _ATTEMPTS - 1:
                    raise
        raise AssertionError("unreachable")

    def opens(self) -> bool:
        """Tell whether there is a log, and this key opens it: that proves the key."""
        try:
            self.load()
        except RolledBack:
            return True
        except Damaged:
            return False
        return self._head.generation > 0

    def _load(self) -> None:
        with self._lock:
            kinds = self._listed()
            first = max((g for g, kind in kinds.items() if kind == "whole"), default=1)
            mark = self._mark.read()
            self._ledger.clear()
            self._head, self._segments = Mark(), 0
            for generation in range(first, max(kinds, default=0) + 1):
                if generation not in kinds:
                    raise Damaged(f"the manifest is damaged: generation {generation} is missing", driver="crypt")
                self._follow(generation, kinds[generation], mark)
            if self._head.generation < mark.generation:
                raise _turned_back(self._head.generation, mark.generation)
            for name, entry in self._pending.items():
                self._ledger.set(name, entry)
            self._ledger.give_up(self._pending_retired)
            self._ledger.intents.update(self._pending_intents)
            self._note()

    def _listed(self) -> dict[int, Kind]:
        found: dict[int, Kind] = {}
        for stat in self._inner.list(PREFIX):
            parsed = parse_name(stat.key)
            if parsed is not None and (parsed[1] == "whole" or parsed[0] not in found):
                found[parsed[0]] = parsed[1]
        return found

    def _follow(self, generation: int, kind: Kind, mark: Mark) -> Segment:
        """Read one segment and take it in."""
        name = Segment(generation, kind, "", {}, ()).name
        sealed = self._inner.get(name)
        segment = self._sealer.open(sealed, name)
        if self._head.generation and segment.previous != self._head.digest:
            raise Damaged(f"the manifest is damaged: {name} does not follow the segment before it", driver="crypt")
        found = Mark(generation, digest_of(sealed))
        if generation == mark.generation and found.digest != mark.digest:
            raise RolledBack(
                "the store was exchanged", driver="crypt", why=f"{name} is not the one that was seen before"
            )
        self._ledger.follow(segment)
        self._segments = 0 if segment.kind == "whole" else self._segments + 1
        self._head = found
        return segment

    def _note(self) -> None:
        """Keep the mark, where it has moved."""
        if self._head.generation > self._mark.read().generation:
            self._mark.write(self._head)

    def refresh(self) -> None:
        """Read what other hosts have added. Raises RolledBack if what was there is not there any more."""
        seen = self._head.generation
        for _ in range(2):  # a listing beside another host's compaction may have neither the old segments nor the new
            kinds = self._listed()
            newest = max(kinds, default=0)
            if newest >= seen:
                break
        else:  # somebody removed the log, and perhaps began another one
            raise _turned_back(newest, seen)
        with self._lock:
            before = self._head.generation
            if newest <= before:
                return
            if any(g not in kinds or kinds[g] == "whole" for g in range(before + 1, newest + 1)):
                self.load()  # it was compacted
                return
            try:
                for generation in range(before + 1, newest + 1):
                    theirs = self._follow(generation, kinds[generation], self._mark.read())
                    for name in self._pending.keys() & theirs.objects.keys():
                        self._look_again(name)
            except (NotFound, ShortRead):
                self.load()
                return
            self._note()

    def _look_again(self, name: str) -> None:
        """Two hosts have changed one object: what is there now counts, and neither's nonce was given up."""
        try:
            size = getattr(self._inner.head(name), "size", 0)
            entry = Entry(nonce_of(self._inner.get(name, 0, HEADER)), size) if size >= HEADER else None
        except (NotFound, ShortRead):
            entry = None
        mine = self._pending[name]
        self._pending[name] = entry
        kept = {family_of(e.nonce) for e in (entry, mine) if e is not None}
        self._pending_retired = [family for family in self._pending_retired if family not in kept]
        self._ledger.set(name, entry)

    # Asking

    def check(self, name: str, found: Entry) -> None:
        """Raise Tampered if an object is not as it should be; one that somebody else with the key wrote is taken in."""
        with self._lock:
            problem = self._ledger.problem(name, found, self._shown)
            if problem:
                self.refresh()
                problem = self._ledger.problem(name, found, self._shown)
            if problem:
                shown = self._shown(name)
                raise Tampered(problem[0], f"the object of {shown!r} was tampered with", why=problem[1])
            if self._ledger.objects.get(name) != found:
                self._change(name, found)
        self._soon(patient=True)

    def known(self, name: str) -> Entry | None:
        """Return what should be there under a name."""
        with self._lock:
            return self._ledger.objects.get(name)

    def names(self) -> frozenset[str]:
        """Return the stored names of all objects that should be there."""
        with self._lock:
            return frozenset(self._ledger.objects)

    def _shown(self, name: str) -> str:
        try:
            return self._show(name)
        except Damaged:
            return name

    # Writing

    def ready(self) -> None:
        """Raise Unavailable as long as the log in the store is not the one that we write: its objects may be old, too.

        It is no Conflict: nobody wrote the object that is to be written.
        """
        if self._refused is None:
            return
        try:
            self.refresh()
        except Damaged as err:
            what = "nothing can be written into the encrypted store"
            raise Unavailable(what, driver="crypt", why=f"{err.what}: {err.why}", hint=err.hint) from err
        self._refused = None

    def wrote(self, name: str, entry: Entry) -> None:
        """Note an object that was just written. Raises what the store raises when a full list cannot be written."""
        with self._lock:
            self._change(name, entry)
        self._soon()

    def removed(self, name: str) -> None:
        """Note that an object was removed."""
        with self._lock:
            if name in self._ledger.objects:
                self._change(name, None)
        self._soon()

    def copying(self, source: str, target: str) -> None:
        """Note, in the store, that an object is about to be copied by the server: it will have its source's nonce.

        Raises what the store raises.
        """
        with self._lock:
            entry = self._ledger.objects.get(source)
            if entry is None:
                return  # a nonce that nobody knows is taken in wherever it is
            self._ledger.intents[target] = self._pending_intents[target] = entry
        self.flush()

    def copied(self, source: str, target: str) -> None:
        """Note that an object was copied by the server."""
        with self._lock:
            entry = self._ledger.objects.get(source)
            if entry is not None:
                self._change(target, entry)
        self._soon()

    def accept(self, name: str, entry: Entry | None) -> None:
        """Take what is there for what should be there, at the wish of the operator."""
        with self._lock:
            if entry is not None:
                self._ledger.restore(entry)
            self._change(name, entry)

    def _change(self, name: str, entry: Entry | None) -> None:
        given_up = self._ledger.set(name, entry)
        self._pending[name] = entry
        if given_up is not None:
            self._ledger.give_up((given_up,))
            self._pending_retired.append(given_up)

    def _soon(self, *, patient: bool = False) -> None:
        """Have changes written: now if there are many, else in a while; with `patient` a failure is for later, too."""
        if not self._inner.caps.writable:
            return
        with self._lock:
            many = len(self._pending) >= PENDING
            if self._pending and not many and self._timer is None and not self._closed:
                self._start_timer(DELAY)
        if many and patient:
            self._write_later()
        elif many:
            self.flush()

    def _start_timer(self, delay: float) -> None:
        self._timer = threading.Timer(delay, self._write_later)
        self._timer.daemon = True
        self._timer.start()

    def _write_later(self) -> None:
        with self._lock:
            self._timer = None
        try:
            self.flush()
        except (EngineError, OSError) as err:
            log.warning("the manifest cannot be written now; it is tried again: %s", err)
            with self._lock:
                self._refused = err if isinstance(err, Damaged) else None
                if self._timer is None and not self._closed:
                    self._start_timer(RETRY_DELAY)

    def flush(self) -> None:
        """Write what has changed as the next segment of the log. Raises what the store raises."""
        with self._writing:
            for _ in range(_ATTEMPTS):
                if not (self._pending or self._pending_intents):
                    return
                self.refresh()  # a segment must follow the newest one, and one that is still there
                with self._lock:
                    head = self._head
                    segment = Segment(
                        head.generation + 1, "changes", head.digest,
                        dict(self._pending), tuple(self._pending_retired), dict(self._pending_intents),
                    )  # fmt: skip
                if self._append(segment):
                    with self._lock:
                        self._settle(segment)
                    try:
                        self._compact()
                    except EngineError as err:  # what matters is written
                        log.warning("the manifest cannot be compacted now: %s", err)
                    return
            raise Unavailable("the manifest cannot be written", driver="crypt", why="other hosts write it all the time")

    def _append(self, segment: Segment) -> bool:
        """Write a segment where none is; tell whether nobody else did meanwhile."""
        sealed = self._sealer.seal(segment)
        try:
            self._inner.put(segment.name, sealed, if_match=ABSENT if self._inner.caps.put_if else None)
        except Conflict:
            if self._ours(segment.name, sealed):  # the answer to a first try was lost
                pass
            else:
                return False
        with self._lock:
            self._head = Mark(segment.generation, digest_of(sealed))
            self._segments = 0 if segment.kind == "whole" else self._segments + 1
            self._note()
        return True

    def _ours(self, name: str, sealed: bytes) -> bool:
        try:
            return self._inner.get(name) == sealed
        except (NotFound, ShortRead):
            return False

    def _settle(self, written: Segment) -> None:
        """Forget of the pending changes those that are written and have not changed meanwhile."""
        self._pending = {n: e for n, e in self._pending.items() if n not in written.objects or written.objects[n] != e}
        done = set(written.retired)
        self._pending_retired = [family for family in self._pending_retired if family not in done]
        left = self._pending_intents.items()
        self._pending_intents = {n: entry for n, entry in left if written.intents.get(n) != entry}

    def _compact(self) -> None:
        """Write the whole list now and then, and remove the segments before it."""
        with self._lock:
            few = self._segments < _SEGMENTS
            if few or (self._segments < _MOST_SEGMENTS and len(self._ledger.objects) > self._segments * PENDING):
                return
            head = self._head
            segment = Segment(head.generation + 1, "whole", head.digest, *self._ledger.everything())
        if not self._append(segment):
            return  # another host writes: it, or the next time
        for generation, kind in self._listed().items():
            if generation < segment.generation:  # nobody writes such a name again: no condition is needed
                self._inner.delete(Segment(generation, kind, "", {}, ()).name)

    def close(self) -> None:
        """Write what is left. What cannot be written is taken in by whoever reads it next; it is logged."""
        with self._lock:
            self._closed = True
            if self._timer is not None:
                self._timer.cancel()
        try:
            if self._inner.caps.writable:
                self.flush()
        except (EngineError, OSError) as err:
            log.warning("the last changes of the manifest could not be written: %s", err)


def _turned_back(newest: int, seen: int) -> RolledBack:
    return RolledBack(
        "the store was turned back",
        driver="crypt",
        why=f"its manifest ends at generation {newest}; we saw {seen}",
        hint="Put the newer objects back; to trust what is there, remove the volume's file journal.db.mark",
    )
