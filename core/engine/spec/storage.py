"""The contract of storage drivers: object stores and file systems behind a URL.

`open_store` and `wrap_store` are the operations of the whole contract that are not pure: they return a live connection.
They are called only in helper and job processes, never in the daemon that serves the API.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from typing import ClassVar, Generic, Literal

from typing_extensions import TypeVar

from engine.spec.driver import Driver, SpecVersion, hookspec
from engine.spec.errors import Conflict, InvalidParameter, NotFound, Unavailable, Unsupported
from engine.spec.options import Options, StorageOptions
from engine.spec.values import Frozen

StorageOptionsT = TypeVar("StorageOptionsT", bound=StorageOptions, default=StorageOptions)
"""The model of a driver's options."""

Data = TypeVar("Data", bytes, memoryview)
"""Bytes of an object, as a copy or in somebody's buffer."""

ABSENT: Literal["absent"] = "absent"
"""The condition of a write that must make a new object. No store has this word as an etag: theirs are quoted or hex."""

PROBES = ".engine-probes/"
"""Beginning of the keys of objects that only show what a store can do: they are no files, and are removed at once.

Who is killed meanwhile leaves one. It means nothing, and whoever finds it a day later may remove it."""
SCRUB_PART = 8 << 20
"""Bytes that `scrub` reads at once."""


class ShortRead(Unavailable):
    """A read gave another number of bytes than was asked for: too few, or a whole object instead of a part.

    The bytes are thrown away. The object was changed or cut meanwhile, or the store ignores ranges.
    """

    kind = "short-read"


class StorageCaps(Frozen):
    """What a store can do. What is not declared is refused when a volume is created, never replaced silently."""

    writable: bool = True
    """Objects can be written and removed. `http` is the example of a store where they cannot."""
    durable: bool = True
    """Objects outlive the process that wrote them, and other processes see them. `memory` is where they do not."""
    ranged: bool = False
    """Reads of a part of an object cost a part of it."""
    put_if: bool = False
    """Writes that fail when somebody else changed the object (compare and swap)."""
    delete_if: bool = False
    """Removals that fail when somebody else changed the object. Since contract 1.2."""
    server_copy: bool = False
    """Copies made by the server: no byte passes through this host."""
    metadata: bool = False
    """Text that is stored with an object."""
    multipart: bool = False
    """`put_stream` sends an object in parts: memory is bounded, and nothing is seen of the object before its end."""
    versions: bool = False
    """Earlier versions of an object are kept and can be named (by the store's own tools)."""
    delimiter: bool = False
    """A listing of one level does not read the levels below it."""
    hierarchical: bool = False
    """Keys are paths of files: `a` and `a/b` cannot both exist."""
    max_key: int = 0
    """Most bytes of a key in UTF-8; 0 if no limit is known."""
    max_segment: int = 0
    """Most bytes between two `/` of a key in UTF-8; 0 if no limit is known."""


class Stat(Frozen):
    """An object's facts.

    `etag` changes with every write of other content, where the store has such a thing; S3 gives the same content the
    same etag again.
    """

    key: str
    """Name of the object; of a common prefix, the prefix with its `/`."""
    size: int
    """Bytes."""
    etag: str | None = None
    """See above; None where the store has none."""
    mtime: float | None = None
    """Seconds since the epoch."""
    metadata: Mapping[str, str] = {}
    """Text that was stored with the object. Only `head` says it, and only where the store has it."""
    is_prefix: bool = False
    """Not an object, but what the keys below it have in common (in listings of one level)."""


class Checked(Frozen):
    """What `scrub` found of one object."""

    key: str
    """Its name; the stored one where no other is known."""
    size: int = 0
    """Bytes."""
    problem: Literal["", "truncated", "swapped", "rolled-back", "missing", "damaged", "foreign"] = ""
    """Empty if it is as it should be. `foreign`: not the store's, or not noted before; it is no damage."""
    detail: str = ""
    """In words for a person."""


class Store(ABC):
    """A live connection to a store. All methods may be called from any thread.

    Keys are relative paths with `/`, without empty segments, `.` and `..`; other keys raise InvalidParameter.

    Every method raises Unavailable (DeadlineExceeded among them) when the store cannot be reached in its time,
    Forbidden when it refuses the credentials or the access, and Unsupported for what `caps` does not declare.
    """

    caps: StorageCaps
    """What this store can do."""

    @abstractmethod
    def head(self, key: str) -> Stat | None:
        """Return an object's facts, or None if there is none."""

    @abstractmethod
    def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        """Return bytes `start` up to `end` (exclusive), or to the object's end.

        Raises NotFound if there is no such object, and ShortRead where the answer has another length than that: the end
        of the object was passed, or the store ignores ranges. There is never a short answer.
        """

    def view(self, key: str, start: int = 0, end: int | None = None) -> memoryview:
        """Return the same as `get` for somebody who only passes the bytes on.

        This default copies nothing of what `get` returns; a store whose client has memory of its own gives that.
        """
        return memoryview(self.get(key, start, end))

    @abstractmethod
    def put(
        self, key: str, data: bytes, *, if_match: str | None = None, metadata: Mapping[str, str] | None = None
    ) -> Stat:
        """Write an object, whole or not at all, and return its facts.

        With `if_match` it is written only over the object of that etag, or with `ABSENT` only where there is none;
        otherwise Conflict is raised. A store that cannot do so raises Unsupported: it never writes blindly instead.
        """

    @abstractmethod
    def delete(self, key: str, *, if_match: str | None = None) -> None:
        """Remove an object; one that is gone already is no error.

        With `if_match` only the object of that etag is removed; if there is another one, Conflict is raised. A store
        that cannot do so raises Unsupported, and removes nothing. That may turn out late, where `caps` says what the
        protocol knows and a server does not keep to it. Without `delete_if` in `caps` nobody gives `if_match`.
        """

    @abstractmethod
    def list(self, prefix: str = "", *, delimiter: Literal["", "/"] = "") -> Iterator[Stat]:
        """Iterate over all objects whose key begins with `prefix`, in no certain order.

        With the delimiter `/`, only over those without a further `/`; the others are one `Stat` with `is_prefix` for
        each of their common beginnings.
        """

    def put_stream(
        self,
        key: str,
        chunks: Iterable[bytes],
        *,
        if_match: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Stat:
        """Write an object from pieces, otherwise like `put`. When the pieces raise, there is no object.

        This default holds the whole object in memory; a store that declares `multipart` does not.
        """
        return self.put(key, b"".join(chunks), if_match=if_match, metadata=metadata)

    def copy(self, source: str, target: str) -> Stat:
        """Copy an object, with its metadata, in the store. Raises NotFound, and Unsupported without `server_copy`."""
        raise Unsupported("this store does not copy objects by itself", hint="Read the object and write it again")

    def scrub(self, *, accept: bool = False) -> Iterator[Checked]:
        """Read every object to its end, and say of each whether it is as it should be.

        Objects may be written meanwhile. With `accept`, what is there counts from now on as what should be there, where
        the store knows such a thing. This default finds what cannot be read.
        """
        for stat in self.list():
            try:
                for start in range(0, stat.size, SCRUB_PART):
                    self.get(stat.key, start, min(stat.size, start + SCRUB_PART))
            except NotFound:
                continue  # removed meanwhile
            except (Conflict, ShortRead) as err:
                now = self.head(stat.key)
                if now is not None and now.etag == stat.etag and now.size == stat.size:
                    yield Checked(key=stat.key, size=stat.size, problem="damaged", detail=str(err))
                    continue
            yield Checked(key=stat.key, size=stat.size)

    def check(self) -> None:
        """Return if the store can be used with these credentials; raise Unavailable, Forbidden or NotFound otherwise.

        It takes one request. This default asks for an object that is not there.
        """
        self.head("engine-health-check")

    def close(self) -> None:  # noqa: B027  # most stores have nothing to give up
        """Give up the connection; the store must not be used afterwards."""


class StorageDriver(Driver, Generic[StorageOptionsT]):
    """Base of storage drivers. One that opens a store defines `open_store`, one that wraps another `wrap_store`."""

    GROUP: ClassVar[str] = "engine.storage"
    SPEC: ClassVar[SpecVersion] = SpecVersion(1, 2)
    OPERATIONS: ClassVar[tuple[str, ...]] = ("open_store", "wrap_store", "store_caps")
    needs: ClassVar[SpecVersion] = SpecVersion(1, 0)

    caps: ClassVar[StorageCaps] = StorageCaps()
    """What the driver's stores can do at most."""
    schemes: ClassVar[tuple[str, ...]] = ()
    """URL schemes that the driver serves: `s3`, `file`. `*` stands for all that no other driver serves."""
    wraps: ClassVar[bool] = False
    """The driver changes what another one stores. Its scheme stands before that one's URL: `crypt::s3://bucket`."""
    options_model: ClassVar[type[Options]] = StorageOptions

    @hookspec(firstresult=True)
    def open_store(self, url: str, options: StorageOptionsT, secrets: Mapping[str, bytes]) -> Store | None:
        """Connect to the store at `url`. Not pure: called in helper and job processes only.

        `secrets` has the bytes of each option that is a `SecretRef` and was given, by the option's name. They must not
        appear in errors, logs or texts of the store. It need not ask the server: that is what `check` is for.
        """
        return None

    @hookspec(firstresult=True)
    def wrap_store(self, store: Store, options: StorageOptionsT, secrets: Mapping[str, bytes]) -> Store | None:
        """Return a store that keeps its objects in another one. Not pure, like `open_store`; for drivers that wrap.

        It may read to see whether the secrets are the right ones (Forbidden if not), but writes nothing.
        """
        return None

    @hookspec(firstresult=True)
    def store_caps(self, url: str, options: StorageOptionsT, inner: StorageCaps | None) -> StorageCaps | None:
        """Return what the store at `url` will be able to do, without looking at it; None means the class's `caps`.

        Pure. `inner` are the abilities of the store that is wrapped, None for drivers that do not wrap.
        """
        return None


def split_chain(url: str) -> tuple[str, ...]:
    """Split a chained URL into its parts, the outermost first: `crypt::s3://b/p` is `crypt` and `s3://b/p`."""
    return tuple(url.split("::"))


def scheme_of(part: str) -> str:
    """Return the scheme of one part of a chain: of `s3://bucket` and of a bare word `crypt`; a path is `file`."""
    scheme, separator, _ = part.partition("://")
    if separator:
        return scheme.lower()
    return "file" if part.startswith("/") else part.lower()


def check_key(key: str, caps: StorageCaps, *, driver: str = "") -> None:
    """Raise InvalidParameter if a key cannot be an object's name in a store with these abilities."""
    why = ""
    segments = key.split("/")
    try:
        encoded = key.encode()
    except UnicodeEncodeError:
        encoded, why = b"", "it is not UTF-8"
    if why:
        pass
    elif any(s in ("", ".", "..") for s in segments):
        why = "a key is a relative path without empty segments, `.` and `..`"
    elif "\0" in key:
        why = "it has a NUL"
    elif caps.max_key and len(encoded) > caps.max_key:
        why = f"it has {len(encoded)} bytes, and the store takes {caps.max_key}"
    elif caps.max_segment and max(len(s.encode()) for s in segments) > caps.max_segment:
        why = f"a part of it has more than the {caps.max_segment} bytes that the store takes"
    if why:
        raise InvalidParameter(f"the key {key!r} cannot be stored", why=why, driver=driver)


def check_range(start: int, end: int | None) -> None:
    """Raise InvalidParameter if `start` and `end` are no range of bytes."""
    if start < 0 or (end is not None and end < start):
        raise InvalidParameter(f"{start} to {end} is no range of bytes")


def exactly(data: Data, size: int, key: str, *, driver: str = "") -> Data:
    """Return what was read if it has the right length; raise ShortRead if not."""
    if len(data) != size:
        raise ShortRead(
            f"reading {key!r} gave {len(data)} bytes instead of {size}",
            driver=driver,
            why="the object is shorter, was changed meanwhile, or the store does not keep to ranges",
        )
    return data


def no_object(key: str, *, driver: str = "") -> NotFound:
    """Return the error for an object that is not there."""
    return NotFound(f"there is no object {key!r}", driver=driver)
