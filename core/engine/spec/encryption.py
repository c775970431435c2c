"""Resources of encrypted volumes: key slots, kernel encryption of directories (fscrypt), and gocryptfs.

One random volume key encrypts the content. It lies in a `KeySlots` file, wrapped once for each key of the operator's,
so that a key is changed without touching content. No resource has a key in it: they name the file of the slots, and the
core opens it at the moment of use.
Sources: Documentation/filesystems/fscrypt.rst, gocryptfs(1).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from engine.spec.mounts import PHASE_DATA, PHASE_MOUNT, AbsolutePath, _Mounted, mounts_around
from engine.spec.resource import Key, Life, Resource
from engine.spec.secret import check_reference

PROMPT = "prompt"
"""The key that nobody has written down: a person is asked for it."""
SLOTS_FILE = "keyslots.json"
"""Name of the file of the key slots: it lies directly in the volume's `data`."""


def _key(value: str) -> str:
    return value if value == PROMPT else check_reference(value)


KeyRef = Annotated[str, AfterValidator(_key)]
"""Where a key is: a reference like `SecretRef`, or `prompt`. Not a `SecretRef`: drivers never see the key's bytes."""


class KeySlots(Resource):
    """The file that wraps a volume's key, made with one slot when the volume is created."""

    PHASE: ClassVar[int] = PHASE_DATA
    FAMILY: ClassVar[str] = "keyslots"
    ID: ClassVar[tuple[str, ...]] = ("path",)
    LIFE: ClassVar[Life] = "data"

    kind: Literal["key-slots"] = "key-slots"
    path: AbsolutePath
    """`keyslots.json` in the volume's `data`."""
    source: KeyRef
    """What opens the first slot. Later ones are the operator's affair: `engine volume rekey`."""
    form: Literal["text", "bytes"] = "text"
    """`text`: a passphrase, whose end of line does not count. `bytes`: every byte counts."""
    password: bool = False
    """The first slot's key is also kept (under the volume's key) as the password of a store that others open
    with it, too. Storage drivers get it as the secret `keyslots:PATH`, also after the slot's key was changed."""


class FscryptKey(Resource):
    """The volume's key in the kernel, for the file system that `path` lies on: its encrypted directory can be used."""

    PHASE: ClassVar[int] = PHASE_MOUNT + 2
    FAMILY: ClassVar[str] = "fscrypt"
    ID: ClassVar[tuple[str, ...]] = ("path",)

    kind: Literal["fscrypt-key"] = "fscrypt-key"
    path: AbsolutePath
    """A directory of that file system: a mount point below the volume's `run`, or the volume's `data`."""
    slots: AbsolutePath
    """The file of the key slots."""

    def requires(self) -> Iterable[Key]:
        """The key slots, and the mounts that `path` lies in."""
        return (("keyslots", "host", self.slots), *mounts_around(self.path), ("path", "host", self.path))


class EncryptedDirectory(Resource):
    """A directory whose content and names the kernel encrypts, once its key is there (fscrypt, policy version 2)."""

    PHASE: ClassVar[int] = PHASE_MOUNT + 4
    FAMILY: ClassVar[str] = "path"
    ID: ClassVar[tuple[str, ...]] = ("path",)
    LIFE: ClassVar[Life] = "data"

    kind: Literal["encrypted-directory"] = "encrypted-directory"
    path: AbsolutePath
    """Below the volume's `data`, or in an image that is mounted below its `run`."""
    slots: AbsolutePath
    """The file of the key slots."""
    mode: int = Field(default=0o755, ge=0, le=0o7777)
    """Permissions when it is made."""
    uid: int = Field(default=0, ge=0)
    """Owner when it is made."""
    gid: int = Field(default=0, ge=0)
    """Group when it is made."""

    def requires(self) -> Iterable[Key]:
        """The key of its file system, and what it lies in."""
        parent = self.path.rpartition("/")[0]
        return (("fscrypt", "host", parent), *mounts_around(self.path), ("path", "host", parent))


class GocryptStore(Resource):
    """A directory of encrypted files in the format of gocryptfs."""

    PHASE: ClassVar[int] = PHASE_DATA + 2
    FAMILY: ClassVar[str] = "path"
    ID: ClassVar[tuple[str, ...]] = ("path",)
    LIFE: ClassVar[Life] = "data"

    kind: Literal["gocrypt-store"] = "gocrypt-store"
    path: AbsolutePath
    """Below the volume's `data`."""
    slots: AbsolutePath
    """The file of the key slots."""

    def requires(self) -> Iterable[Key]:
        """The key slots, and what it lies in."""
        return (("keyslots", "host", self.slots), *mounts_around(self.path))


class GocryptMount(_Mounted):
    """The plain view of a `GocryptStore`, served by a gocryptfs process that ends with the mount."""

    kind: Literal["gocrypt-mount"] = "gocrypt-mount"
    store: AbsolutePath
    """The directory of encrypted files."""
    slots: AbsolutePath
    """The file of the key slots."""

    def requires(self) -> Iterable[Key]:
        """The encrypted files, the key slots, and the mounts above the target."""
        store = (("path", "host", self.store), ("keyslots", "host", self.slots), *mounts_around(self.store))
        return (*store, *super().requires())
