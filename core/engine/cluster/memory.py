"""The store in memory, with all that the interface promises: what the file of peers builds on, and tests."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence

from engine.cluster.store import (
    Batch,
    Change,
    Compacted,
    Condition,
    Delete,
    Entry,
    Exists,
    Gone,
    Holds,
    Is,
    LeaseLost,
    Listing,
    Operation,
    Put,
)


class MemoryStore:
    """See `engine.cluster.store.ClusterStore`. Shared by all who hold it."""

    def __init__(self) -> None:
        self._turn = threading.Condition()
        self._entries: dict[str, Entry] = {}
        self._hangs_on: dict[str, int] = {}
        self._leases: dict[int, tuple[int, float]] = {}
        self._history: list[Batch] = []
        self._revision = 1
        self._compacted = 0
        self._granted = 0

    def get(self, key: str) -> Entry | None:
        """Return an entry as it is now."""
        with self._turn:
            self._expire()
            return self._entries.get(key)

    def list(self, prefix: str) -> Listing:
        """Return the entries whose keys begin so."""
        with self._turn:
            self._expire()
            found = (self._entries[key] for key in sorted(self._entries) if key.startswith(prefix))
            return Listing(tuple(found), self._revision)

    def commit(self, conditions: Sequence[Condition], operations: Sequence[Operation]) -> bool:
        """Do all of it if all conditions hold."""
        with self._turn:
            self._expire()
            if not all(self._holds(condition) for condition in conditions):
                return False
            for operation in operations:
                if isinstance(operation, Put) and operation.lease and operation.lease not in self._leases:
                    raise LeaseLost("the lease has ended", why="nobody kept it")
            self._change(operations)
            return True

    def watch(self, prefix: str, revision: int) -> MemoryWatch:
        """Return the changes below a prefix from this revision on."""
        return MemoryWatch(self, prefix, revision)

    def grant(self, seconds: int) -> int:
        """Make a lease."""
        with self._turn:
            self._granted += 1
            self._leases[self._granted] = (seconds, time.monotonic() + seconds)
            return self._granted

    def keep(self, lease: int) -> None:
        """Have a lease begin anew."""
        with self._turn:
            self._expire()
            if lease not in self._leases:
                raise LeaseLost("the lease has ended", why="nobody kept it")
            seconds = self._leases[lease][0]
            self._leases[lease] = (seconds, time.monotonic() + seconds)

    def revoke(self, lease: int) -> None:
        """End a lease."""
        with self._turn:
            self._end(lease)

    def compact(self) -> None:
        """Forget all changes so far: watches that want them have to list again."""
        with self._turn:
            self._history.clear()
            self._compacted = self._revision
            self._turn.notify_all()

    def close(self) -> None:
        """Do nothing: others may hold it."""

    def since(self, revision: int, prefix: str) -> Batch | None:
        """Return the changes from a revision on, or None. Raises Compacted. The caller has the lock."""
        if revision <= self._compacted or revision > self._revision + 1:
            raise Compacted
        fresh = [batch for batch in self._history if batch.revision >= revision]
        if not fresh:
            return None
        found: list[Change] = [c for batch in fresh for c in batch.changes if c.key.startswith(prefix)]
        return Batch(tuple(found), fresh[-1].revision)

    @property
    def turn(self) -> threading.Condition:
        """The lock, which is told of every change."""
        return self._turn

    def tick(self) -> None:
        """End the leases that nobody kept. The caller has the lock."""
        self._expire()

    def _holds(self, condition: Condition) -> bool:
        if isinstance(condition, Is | Exists | Holds):
            entry = self._entries.get(condition.key)
            if isinstance(condition, Is):
                return (entry.revision if entry else 0) == condition.revision
            return entry is not None and (isinstance(condition, Exists) or entry.value == condition.value)
        return not any(key.startswith(condition.prefix) for key in self._entries)

    def _change(self, operations: Sequence[Operation]) -> None:
        changes: list[Change] = []
        revision = self._revision + 1
        for operation in operations:
            if isinstance(operation, Put):
                entry = Entry(operation.key, operation.value, revision)
                self._entries[operation.key] = entry
                self._hangs_on[operation.key] = operation.lease
                changes.append(entry)
                continue
            doomed = [k for k in self._entries if k.startswith(operation.key)] if operation.below else [operation.key]
            for key in doomed:
                if self._entries.pop(key, None) is not None:
                    self._hangs_on.pop(key, None)
                    changes.append(Gone(key))
        if changes:
            self._revision = revision
            self._history.append(Batch(tuple(changes), revision))
            self._turn.notify_all()

    def _expire(self) -> None:
        now = time.monotonic()
        for lease in [lease for lease, (_, end) in self._leases.items() if end <= now]:
            self._end(lease)

    def _end(self, lease: int) -> None:
        if self._leases.pop(lease, None) is not None:
            self._change([Delete(key) for key, on in self._hangs_on.items() if on == lease])


class MemoryWatch:
    """See `engine.cluster.store.Watch`."""

    def __init__(self, store: MemoryStore, prefix: str, revision: int) -> None:
        self._store = store
        self._prefix = prefix
        self._next = revision
        self._closed = False

    def __iter__(self) -> Iterator[Batch]:
        """Wait for changes."""
        while True:
            with self._store.turn:
                while True:
                    if self._closed:
                        return
                    self._store.tick()
                    batch = self._store.since(self._next, self._prefix)
                    if batch is not None:
                        break
                    self._store.turn.wait(0.5)  # leases end by themselves
            self._next = batch.revision + 1
            yield batch

    def close(self) -> None:
        """End it."""
        with self._store.turn:
            self._closed = True
            self._store.turn.notify_all()
