"""The contract of storage drivers: object stores and file systems behind a URL.

`open_store` is the one operation of the whole contract that is not pure: it returns a live connection. It is called
only in helper and job processes, never in the daemon that serves the API.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar, Generic, Literal, Protocol

from typing_extensions import TypeVar

from engine.spec.driver import Driver, SpecVersion, hookspec
from engine.spec.options import Options, StorageOptions
from engine.spec.values import Frozen

StorageOptionsT = TypeVar("StorageOptionsT", bound=StorageOptions, default=StorageOptions)
"""The model of a driver's options."""


class StorageCaps(Frozen):
    """What a store can do. What is not declared is refused when a volume is created, never replaced silently."""

    ranged: bool = False
    """Reads of a part of an object."""
    put_if: bool = False
    """Writes that fail when somebody else changed the object (compare and swap)."""
    server_copy: bool = False
    """Copies made by the server."""
    metadata: bool = False
    """Text that is stored with an object."""


class Stat(Frozen):
    """An object's facts. `etag` changes with every write where the store has such a thing."""

    key: str
    """Name of the object."""
    size: int
    """Bytes."""
    etag: str | None = None
    """See above; None where the store has none."""
    mtime: float | None = None
    """Seconds since the epoch."""


class Store(Protocol):
    """A live connection to a store. Keys are relative paths with `/`."""

    def head(self, key: str) -> Stat | None:
        """Return an object's facts, or None if there is none."""

    def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        """Return bytes `start` up to `end` (exclusive). A wrong number of bytes is an error, never a short answer."""

    def put(self, key: str, data: bytes, *, if_match: str | Literal["absent"] | None = None) -> Stat:
        """Write an object; with `if_match` only over that etag, or only where there is none."""

    def delete(self, key: str) -> None:
        """Remove an object; one that is gone already is no error."""

    def list(self, prefix: str = "") -> Iterator[Stat]:
        """Iterate over all objects whose key begins with `prefix`."""


class StorageDriver(Driver, Generic[StorageOptionsT]):
    """Base of storage drivers."""

    GROUP: ClassVar[str] = "engine.storage"
    SPEC: ClassVar[SpecVersion] = SpecVersion(1, 0)
    OPERATIONS: ClassVar[tuple[str, ...]] = ("open_store",)
    REQUIRED: ClassVar[tuple[str, ...]] = OPERATIONS
    needs: ClassVar[SpecVersion] = SpecVersion(1, 0)

    caps: ClassVar[StorageCaps] = StorageCaps()
    """What the driver can do."""
    schemes: ClassVar[tuple[str, ...]] = ()
    """URL schemes that the driver serves: `s3`, `file`."""
    options_model: ClassVar[type[Options]] = StorageOptions

    @hookspec(firstresult=True)
    def open_store(self, url: str, options: StorageOptionsT, secrets: Mapping[str, bytes]) -> Store | None:
        """Connect to the store at `url`. Not pure: called in helper and job processes only."""
        return None
