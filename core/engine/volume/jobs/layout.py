"""How a volume's data can be copied: as it lies on the disk, or only as its mounted content.

It follows from the resources of its plan. Data at rest is copied as it is, encrypted or not, without being opened; what
is elsewhere (a bucket, a server, memory) is copied as content, unless a plain copy would give away what was encrypted.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

from engine.spec.encryption import EncryptedDirectory, FscryptKey, GocryptMount, GocryptStore, KeySlots
from engine.spec.errors import Unsupported
from engine.spec.mounts import Directory, Image, ImageMount
from engine.spec.resource import Resource
from engine.spec.trees import SyncedTree
from engine.spec.volume import VolumePlan

_AT_REST = (Directory, Image, GocryptStore, KeySlots)
_KEYS = (EncryptedDirectory, FscryptKey, GocryptMount)


class Part(NamedTuple):
    """A piece of data at rest."""

    path: str
    """Relative to the volume's directory."""
    fs: str = ""
    """The file system in it, if it is an image."""
    target: str = ""
    """Where an image is mounted while the volume is used."""
    key: bool = False
    """It is what opens the data: copied with it, and never rolled back, or a changed passphrase would be undone."""


class Layout(NamedTuple):
    """How to copy."""

    how: Literal["data", "content"]
    parts: tuple[Part, ...] = ()

    def without_keys(self) -> Layout:
        """Return it without what opens the data."""
        return self._replace(parts=tuple(part for part in self.parts if not part.key))

    def as_json(self) -> dict[str, Any]:
        """Return it for the arguments of a job."""
        return {"how": self.how, "parts": [list(part) for part in self.parts]}


def parts_of(args: Any) -> list[Part]:
    """Read the parts out of a job's arguments."""
    return [Part(*item) for item in args["parts"]]


def layout_of(plan: VolumePlan, data: str, name: str) -> Layout:
    """Return how to copy a volume whose own directory is `data`. Raises Unsupported where a copy cannot be allowed."""
    resources = plan.plan.resources
    if any(isinstance(r, SyncedTree) for r in resources):
        sealed = any(isinstance(r, SyncedTree) and "crypt::" in f"{r.store.url}" for r in resources)
        if sealed or any(isinstance(r, _KEYS) for r in resources):
            raise _sealed(name, "its data is encrypted in a store")
        return Layout("content")
    parts = tuple(_parts(resources, data))
    if any(isinstance(r, EncryptedDirectory) and r.path.startswith(f"{data}/") for r in resources):
        raise _sealed(name, "the kernel encrypts its files one by one")
    return Layout("data", parts) if parts else Layout("content")


def _sealed(name: str, why: str) -> Unsupported:
    return Unsupported(
        f"volume {name} cannot be copied on this host", why=f"{why}, and a copy of its content would be plain",
        hint="Back it up: engine volume backup",
    )  # fmt: skip


def _parts(resources: tuple[Resource, ...], data: str) -> Iterator[Part]:
    mounts = {r.image: r.target for r in resources if isinstance(r, ImageMount)}
    paths = [r.path for r in resources if isinstance(r, _AT_REST)]
    for resource in resources:
        if not isinstance(resource, _AT_REST) or not resource.path.startswith(f"{data}/"):
            continue
        if any(resource.path.startswith(f"{other}/") for other in paths):
            continue  # it comes with what it lies in
        fs = resource.fs if isinstance(resource, Image) else ""
        yield Part(resource.path[len(data) + 1 :], fs, mounts.get(resource.path, ""), isinstance(resource, KeySlots))
