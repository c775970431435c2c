"""A directory whose content is kept in a store: what containers see is local, and a helper process carries it.

Any volume driver may have one in its plan, beside the `Directory` that it lies in. The helper lists the store, fetches
what is missing, and writes changes back in the background; its journal says, through every crash, what is still to be
written. Paths lie below the volume; the store's URL and options are the operator's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import ClassVar, Literal

from pydantic import Field

from engine.spec.mounts import AbsolutePath, mounts_around
from engine.spec.resource import Key, Resource
from engine.spec.values import Frozen

PHASE_TREE = 30
TreeMode = Literal["sync", "on-demand"]
"""`sync`: all files are local before a container starts. `on-demand`: a file is fetched when it is first opened."""
Durability = Literal["close", "fsync", "async"]
"""How soon a change is uploaded: when the file that was written is closed, a second later, or five seconds later.

fsync(2) is answered by the local disk in each of them: see `engine.tree.tree`."""


class StoreSpec(Frozen):
    """Which store, and how it is opened. Secrets only by reference: nothing here has to be hidden."""

    url: str = Field(pattern=r"^[^\x00\n]+$")
    """As the operator gave it, or that with wrappers before it: `crypt::s3://bucket/prefix`."""
    options: Mapping[str, str] = Field(default_factory=dict)
    """Options of the URL's storage drivers, as the operator gave them."""


class UsualAttributes(Frozen):
    """What files have of which the store says nothing: those that other tools have written. As of rclone and s3fs."""

    uid: int = Field(default=0, ge=0, lt=1 << 32)
    """Owner."""
    gid: int = Field(default=0, ge=0, lt=1 << 32)
    """Group."""
    file_mode: int = Field(default=0o644, ge=0, le=0o7777)
    """Permissions of files."""
    directory_mode: int = Field(default=0o755, ge=0, le=0o7777)
    """Permissions of directories, also of those that exist only by what is in them."""


class SyncedTree(Resource):
    """A directory that a helper process keeps equal to a store. `run` and `journal` are the helper's own."""

    PHASE: ClassVar[int] = PHASE_TREE
    FAMILY: ClassVar[str] = "tree"
    ID: ClassVar[tuple[str, ...]] = ("path",)

    kind: Literal["synced-tree"] = "synced-tree"
    path: AbsolutePath
    """The directory that containers see: below the volume's `data` or `run`; another resource makes it."""
    journal: AbsolutePath
    """The SQLite file that knows what is in the store and what is still to be written: below the volume's `data`.

    What belongs to it (write-ahead log, staged copies) lies beside it, with names that begin with its name.
    """
    store: StoreSpec
    """Where the content is kept."""
    mode: TreeMode = "sync"
    """When files are fetched."""
    durability: Durability = "close"
    """When changes are uploaded."""
    cache_size: int = Field(default=0, ge=0)
    """Bytes that fetched files may occupy before the least used are given up (mode on-demand); 0 for no limit."""
    patience: float = Field(default=30.0, gt=0, le=3600)
    """Seconds that a request to the store may take before it counts as unreachable."""
    usual: UsualAttributes = Field(default_factory=UsualAttributes)
    """Owners and permissions of what other tools wrote."""
    run: AbsolutePath
    """The directory of the helper's lock, socket and log: below the volume's `run`."""

    def requires(self) -> Iterable[Key]:
        """Return what the directory and the journal lie in: directories, images and mounts."""
        for path in (self.path, self.journal):
            yield from mounts_around(path)
            yield ("path", "host", path)
            yield ("path", "host", path.rpartition("/")[0])


class TreeProgress(Frozen):
    """How far something is that takes time."""

    step: str
    """What is being done: `listing`, `placing` (placeholders), `fetching`, `uploading`."""
    done: int = 0
    """Of `total`, in `unit`."""
    total: int | None = None
    """None while it is not known."""
    unit: Literal["bytes", "files"] = "bytes"
    """What is counted."""


TreeState = Literal["loading", "ready", "degraded", "failed"]
"""`loading`: the first listing and hydration. `degraded`: local files work, the store does not. `failed`: unusable."""


class TreeStatus(Frozen):
    """What a tree's helper says of itself. All values are of the moment."""

    state: TreeState
    """What can be expected of it now."""
    reason: str = ""
    """Why it is degraded or failed, in words for a person."""
    files: int = 0
    """Files of the tree, fetched or not."""
    bytes: int = 0
    """Their sizes."""
    hydrated_bytes: int = 0
    """Bytes that are on the local disk."""
    pending_files: int = 0
    """Changes (files written, removed, renamed) that are not in the store yet."""
    pending_bytes: int = 0
    """Bytes of them."""
    unstorable_files: int = 0
    """Files and directories that the store cannot have, and that are only here: `reason` names them."""
    conflicts: tuple[str, ...] = ()
    """Paths of copies that were kept because somebody else had changed the same object."""
    last_error: str = ""
    """The last thing that failed, whether or not it went well afterwards."""
    progress: TreeProgress | None = None
    """What is going on now."""
