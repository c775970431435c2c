"""Where a cluster keeps what all its hosts know: keys with values and revisions, as etcd has them.

Every change of the store counts its revision up by one; an entry carries the revision of its last change. Whoever lists
a prefix and then watches it from the next revision misses nothing. Keys that hang on a lease go when the lease ends.
Values are bytes, keys text. All methods may be called from any thread.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from engine.spec.errors import Unavailable


@dataclass(frozen=True, slots=True)
class Entry:
    """A key, what it holds, and the revision of its last change."""

    key: str
    value: bytes
    revision: int


@dataclass(frozen=True, slots=True)
class Gone:
    """A key that was removed."""

    key: str


Change = Entry | Gone


@dataclass(frozen=True, slots=True)
class Listing:
    """All entries below a prefix, by key, and the store's revision at which they were so."""

    entries: tuple[Entry, ...]
    revision: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Changes that belong together, and the store's revision after them."""

    changes: tuple[Change, ...]
    revision: int


@dataclass(frozen=True, slots=True)
class Is:
    """Condition of a commit: the key's revision is this one; 0 means that there is no such key."""

    key: str
    revision: int = 0


@dataclass(frozen=True, slots=True)
class Exists:
    """Condition of a commit: the key is there."""

    key: str


@dataclass(frozen=True, slots=True)
class Holds:
    """Condition of a commit: the key is there, and holds this."""

    key: str
    value: bytes


@dataclass(frozen=True, slots=True)
class Nothing:
    """Condition of a commit: no key begins so."""

    prefix: str


Condition = Is | Exists | Holds | Nothing


@dataclass(frozen=True, slots=True)
class Put:
    """Part of a commit: write a key; with a lease, for as long as that lasts."""

    key: str
    value: bytes
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Delete:
    """Part of a commit: remove a key; one that is not there is no error. With `below`, all keys that begin so."""

    key: str
    below: bool = False


Operation = Put | Delete


class Compacted(Exception):
    """The store has forgotten the changes from which a watch was to start: list again."""


class LeaseLost(Unavailable):
    """The lease has ended; what hung on it is gone."""

    kind = "lease-lost"


class Watch(Protocol):
    """Changes as they happen, in order, none left out."""

    def __iter__(self) -> Iterator[Batch]:
        """Wait for changes; end when closed. Raises Compacted, or Unavailable when the connection broke."""

    def close(self) -> None:
        """End it, from any thread."""


class ClusterStore(Protocol):
    """The store. Every method raises Unavailable, within seconds, when it cannot be reached."""

    def get(self, key: str) -> Entry | None:
        """Return an entry as it is now."""

    def list(self, prefix: str) -> Listing:
        """Return the entries whose keys begin so, as they are now."""

    def commit(self, conditions: Sequence[Condition], operations: Sequence[Operation]) -> bool:
        """Do all of it as one change if all conditions hold; tell whether they did.

        Raises LeaseLost for a lease that has ended. After Unavailable it may have been done all the same: operations
        must be such that a second time does no harm.
        """

    def watch(self, prefix: str, revision: int) -> Watch:
        """Return the changes below a prefix from this revision on (inclusive)."""

    def grant(self, seconds: int) -> int:
        """Make a lease and return its number; it ends when nobody keeps it for so long."""

    def keep(self, lease: int) -> None:
        """Have a lease begin anew. Raises LeaseLost if it has ended."""

    def revoke(self, lease: int) -> None:
        """End a lease, and remove what hangs on it. One that has ended is no error."""

    def close(self) -> None:
        """Let go of the connection, and end all watches."""
