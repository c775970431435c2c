"""What the image manager hands out: images, progress, history, what a removal did."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, NamedTuple

NO_TIME = "0001-01-01T00:00:00Z"
"""Docker's zero time."""


def time_text(value: object) -> str:
    """Return an RFC 3339 time that an image tells, docker's zero time if it is none."""
    try:
        datetime.fromisoformat(str(value)).timestamp()
    except (ValueError, OverflowError):
        return NO_TIME
    return str(value)


@dataclass(frozen=True)
class Image:
    """An image of the store. Its `config` is the image configuration of the OCI image specification, as pulled."""

    id: str
    """"sha256:<64 hex>": the digest of the configuration, docker's image id."""
    config: Mapping[str, Any]
    layers: tuple[str, ...]
    """Diff ids, bottom first."""
    size: int
    """Bytes of the regular files of all layers."""
    repo_tags: tuple[str, ...] = ()
    """Familiar names with tag: "busybox:latest"."""
    repo_digests: tuple[str, ...] = ()
    """Familiar names at a manifest digest: "busybox@sha256:..."."""
    last_tagged: float = 0.0
    """Seconds since 1970; 0 when never tagged here."""
    builtin: bool = False

    @property
    def run(self) -> Mapping[str, Any]:
        """The `config` section: Env, Cmd, Entrypoint, User, WorkingDir, Labels, Volumes, ExposedPorts ..."""
        section = self.config.get("config")
        return section if isinstance(section, dict) else {}

    @property
    def labels(self) -> Mapping[str, str]:
        """Labels of the image; what is no label of a text is left out."""
        found = self.run.get("Labels")
        return {k: v for k, v in found.items() if isinstance(v, str)} if isinstance(found, dict) else {}

    @property
    def created(self) -> str:
        """RFC 3339 time of creation; docker's zero time when the image does not say, or says no time."""
        return time_text(self.config.get("created"))

    @property
    def os(self) -> str:
        """Operating system, for example "linux"."""
        return str(self.config.get("os") or "linux")

    @property
    def architecture(self) -> str:
        """Architecture in Go's words, for example "amd64"."""
        return str(self.config.get("architecture") or "")

    @property
    def variant(self) -> str:
        """Variant of the architecture, for example "v7"; mostly empty."""
        return str(self.config.get("variant") or "")

    @property
    def dangling(self) -> bool:
        """Whether no tag names it."""
        return not self.repo_tags and not self.builtin


@dataclass(frozen=True)
class Progress:
    """One message of a pull, push or load, in docker's words; `current` and `total` (progressDetail) are bytes."""

    status: str
    id: str = ""
    """Short layer id, or the tag for the first line; empty for messages about the whole."""
    current: int | None = None
    total: int | None = None


ProgressSink = Callable[[Progress], None]
"""Is called from several threads, one at a time. An exception that it raises aborts the operation."""


class Removal(NamedTuple):
    """One line of a removal's report."""

    kind: Literal["Untagged", "Deleted"]
    name: str

    def as_dict(self) -> dict[str, str]:
        """Docker's form: {"Untagged": "busybox:latest"}."""
        return {self.kind: self.name}


@dataclass(frozen=True)
class HistoryEntry:
    """One step of an image's history, newest first in lists; `id` is "<missing>" for all but the image itself."""

    id: str
    created: str
    created_by: str
    size: int
    comment: str = ""
    tags: tuple[str, ...] = field(default=())
