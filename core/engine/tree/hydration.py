"""How the files of a store become local: the strategy of a `Tree`, and what the tree gives to it.

The tree itself lists the store, makes directories and symbolic links, finds changes and uploads them. What it leaves to
a strategy is the content of regular files: at once (`EagerHydration`) or on first access.

The order of calls: `start`, `prepare` (after each listing; the directory may be in use already when a helper was
restarted), then `ensure`, `forget`, `complete` and `usage` from any thread, at last `close`.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple, Protocol

from engine.spec.errors import EngineError
from engine.spec.storage import Store
from engine.tree.attributes import Attributes


class Signature(NamedTuple):
    """What stat(2) says of a file that changes with every change of it. Compared for equality, never by order."""

    ino: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, facts: os.stat_result) -> Signature:
        """Return the signature of a file by its stat."""
        return cls(facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)


class Entry(NamedTuple):
    """A regular file as the store has it."""

    path: str
    """Relative to the root, with `/`; the object's key."""
    size: int
    """Bytes."""
    version: str
    """The object's etag, or what stands for it in stores without (see `engine.tree.listing.version_of`)."""
    attributes: Attributes
    digest: str = ""
    """SHA-256 (hex) of the content, where the sidecar tells it for this version; `download` compares it."""


class Local(NamedTuple):
    """A file that is complete here, unchanged since it was confirmed in the store."""

    path: str
    signature: Signature
    version: str


Initializer = Callable[[Entry, int], bytes]
"""Makes an open, empty file without a name the placeholder of an object; returns its handle (see `Hydration.handle`),
b"" if it is complete."""


class Site(Protocol):
    """What a tree gives to its strategy. All methods may be called from any thread."""

    root: Path
    """The directory that containers see."""
    staging: Path
    """A directory for unfinished files, on the same file system; containers do not see it, each open empties it."""
    store: Store

    def download(self, entry: Entry, descriptor: int) -> None:
        """Write an object's content to a file, from its beginning, and check length and version.

        Raises ShortRead or NotFound when the object changed meanwhile or is gone; OSError when the local disk is full.
        """

    def install(self, entry: Entry, staged: Path, *, hydrated: bool, handle: bytes = b"") -> bool:
        """Give a staged file its attributes and its name in the tree, and write it into the journal.

        Nothing local is lost: what changed under that name meanwhile is kept as a conflict copy, and a file that a
        process has open is left alone. Return whether the staged file is in the tree now; if not, it is removed.
        `hydrated` says that its content is there; if not, `handle` is what it is found by (see `Hydration.handle`).
        """

    def install_new(self, entries: Sequence[Entry], initialize: Initializer) -> Sequence[Entry]:
        """The same for many files that are made here, with what `initialize` gives them, where their names are free.

        Return those whose names are taken: they are as they were. Raises EngineError; what is in place stays.
        """

    def settle(self, path: str, before: Signature, after: Signature, *, hydrated: bool, handle: bytes = b"") -> bool:
        """Say that the strategy itself changed a file: filled it (`hydrated`), or gave its content up.

        Of one that was given up, `handle` is what it is found by (see `Hydration.handle`).

        The journal takes the signature `after` if it had `before`; else somebody else changed the file, False is
        returned, and the file counts as changed. A crash of the machine may undo it until `keep_settled`.
        """

    def keep_settled(self) -> None:
        """Return when what `settle` said is on the disk."""

    def renewed(self, path: str, before: Signature, after: Signature, *, old: str, new: str) -> None:
        """Say that a file without its content is now a placeholder of another object: of version `new`, not `old`.

        The journal takes over what it had so; a file that was renamed has no version to be exchanged.
        """

    def gone(self, path: str) -> None:
        """Say that an object could not be fetched because it is not there any more: status shows it."""

    def has(self, path: str) -> bool:
        """Return whether a file is complete here, and unchanged since it was confirmed in the store."""

    def spoiled(self, path: str, error: EngineError) -> None:
        """Say that the file here stays, because its new object is not what anybody stored: status shows it."""

    def evictable(self) -> Iterator[Local]:
        """Iterate over files whose content may be given up: complete, unchanged, confirmed in the store.

        The answer is of the journal; compare the signature with the file under a lease before giving anything up.
        """

    def progressed(self, step: str, done: int, total: int) -> None:
        """Say how far long work is, in bytes."""


class Usage(NamedTuple):
    """What the strategy holds on the local disk."""

    hydrated_bytes: int
    """Bytes of files whose content is here."""


class Hydration(ABC):
    """How the content of files becomes local."""

    whole: ClassVar[bool] = False
    """All files are complete after `prepare`: it is also called with those that the journal has as placeholders."""

    @abstractmethod
    def start(self, site: Site) -> None:
        """Begin: once, before anything else. Raises EngineError if the host cannot do it."""

    @abstractmethod
    def prepare(self, entries: Sequence[Entry]) -> None:
        """Make these files exist under their names, by `site.install` and `site.install_new`: with content or without.

        Called with the files that are new in the store or changed there, and those that an earlier run did not finish.
        The directories exist already. Raises EngineError if it could not be done for all of them; files that are in
        place then stay.
        """

    @abstractmethod
    def ensure(self, path: str) -> None:
        """Return when the content of a file is complete; raise EngineError if that cannot be had."""

    @abstractmethod
    def forget(self, path: str) -> None:
        """Note that the tree removed a file, or gave it another name; what was kept for it can go."""

    @abstractmethod
    def moved(self, path: str, version: str, inode: int) -> bool:
        """Note that a file without all its content was renamed: it is now in the object `path`, of that version.

        Return False if it has yet another name by now: what is at the path is left alone, and nothing is noted. Else
        the object of the old name is removed when this has returned.
        """

    @abstractmethod
    def open(self, path: str) -> int:
        """Open a regular file for reading, without waiting for its content; the tree closes it. Raises OSError.

        `Root.open` of `engine.tree.beneath` does it where files have no placeholders.
        """

    @abstractmethod
    def complete(self, descriptor: int) -> bool:
        """Return whether a file that `open` opened has all its content, by what the file itself says.

        The tree asks before it reads a file to upload it, and when the journal knows nothing of it.
        """

    def signature(self, descriptor: int) -> Signature:
        """Return what stat(2) would say of an open file if the strategy itself were not changing it: what it says.

        The times of a file that is being filled are not its own; `settle` follows, and begins with this signature.
        """
        return Signature.of(os.fstat(descriptor))

    def handle(self, descriptor: int) -> bytes:
        """Return what an open file without all its content is found by, whatever its name is: b"" if there are none.

        The journal keeps it for `needs`.
        """
        return b""

    def needs(self, handle: bytes, key: str) -> bool:
        """Return whether a file that a handle names exists, under any name, and has content only in the object `key`.

        It is asked before the object is removed, because the names that are known say nothing of a file that is
        renamed just now. Raises OSError.
        """
        return False

    def written(self, descriptor: int) -> bool:
        """Return whether a program has changed the content of an open file that is not known to be complete: never.

        Such a file was complete, and the machine crashed before all of it was on the disk. It is to be uploaded, after
        what is missing was fetched.
        """
        return False

    def descriptors(self) -> Sequence[int]:
        """Return descriptors that whoever runs a container on the tree holds open as long as that runs: none.

        What they protect does not depend on the helper's life then.
        """
        return ()

    @abstractmethod
    def usage(self) -> Usage | None:
        """Return what is held locally; None where all is."""

    @abstractmethod
    def close(self) -> None:
        """End. Files that are not complete must not be readable as zeroes afterwards."""
