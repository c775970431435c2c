"""Snapshots of a volume: directories below its own one, each with a description.

`snapshots/ID/snapshot.json`, and below `snapshots/ID/files` the data as it was: by its names in the volume's directory,
or as `content` where the volume's data is elsewhere. What is not finished has a name that begins with a dot.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from engine.durable import replace_file
from engine.spec.errors import Conflict, InvalidParameter, NotFound
from engine.spec.values import Frozen
from engine.treewalk import remove_tree
from engine.volume.vet import SNAPSHOTS

_TAG = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}")
_DESCRIPTION, FILES, CONTENT = "snapshot.json", "files", "content"
Consistency = Literal["crash", "paused", "fuzzy"]
RANK: Mapping[str, int] = {"fuzzy": 0, "crash": 1, "paused": 2}
"""What is better than what."""


class Snapshot(Frozen):
    """What is known of a snapshot."""

    id: str
    """12 hexadecimal digits."""
    tag: str = ""
    """What the operator calls it."""
    created: str
    """RFC 3339."""
    consistency: Consistency
    """`crash`: one point in time, as after a power cut. `paused`: nothing ran. `fuzzy`: each file on its own."""
    how: Literal["data", "content"]
    """What was copied: see `engine.volume.jobs.layout`."""
    bytes: int = 0
    """Bytes that were copied; shared blocks are counted, too."""

    def describe(self) -> dict[str, Any]:
        """Return what the API shows."""
        return {
            "ID": self.id, "Tag": self.tag, "Created": self.created, "Consistency": self.consistency,
            "Size": self.bytes,
        }  # fmt: skip


def check_tag(tag: str) -> None:
    """Raise InvalidParameter if a tag is no name."""
    if tag and not _TAG.fullmatch(tag):
        raise InvalidParameter(f"invalid snapshot tag {tag!r}", hint="Letters, digits, '_', '.', '-'; 128 at most")


class Snapshots:
    """The snapshots of one volume, whose own directory is given."""

    def __init__(self, data: Path) -> None:
        self._root = data / SNAPSHOTS

    def list(self) -> list[Snapshot]:
        """Return all, the oldest first."""
        found = [Snapshot.model_validate_json(p.read_text()) for p in self._root.glob(f"[!.]*/{_DESCRIPTION}")]
        return sorted(found, key=lambda s: s.created)

    def get(self, ref: str) -> Snapshot:
        """Return one by its id, a unique beginning of it, or its tag. Raises NotFound."""
        known = self.list()
        found = [s for s in known if ref and ref in (s.id, s.tag)]
        found = found or [s for s in known if ref and s.id.startswith(ref)]
        if len(found) != 1:
            names = ", ".join(s.tag or s.id for s in known[-5:])
            raise NotFound(f"no such snapshot: {ref}", hint=f"There are {names}" if names else "There is none")
        return found[0]

    def check_free(self, tag: str) -> None:
        """Raise Conflict if a snapshot has the tag, InvalidParameter if it is no name."""
        check_tag(tag)
        if tag and any(tag in (s.tag, s.id) for s in self.list()):
            raise Conflict(f"a snapshot {tag} exists", hint="Choose another tag, or remove that one")

    def files(self, id: str) -> Path:
        """Return the directory of what a snapshot holds."""
        return self._root / id / FILES

    def staging(self, id: str) -> Path:
        """Return the directory in which something is made, empty."""
        place = self._root / f".{id}"
        remove_tree(place)
        place.mkdir(mode=0o700, parents=True)
        return place

    def staged(self, id: str) -> Path:
        """Return the directory in which something is made, as it is."""
        return self._root / f".{id}"

    def publish(self, staged: Path, snapshot: Snapshot) -> None:
        """Let what was made be a snapshot."""
        replace_file(staged / _DESCRIPTION, json.dumps(snapshot.model_dump(mode="json")).encode())
        staged.rename(self._root / snapshot.id)

    def remove(self, ref: str) -> Snapshot:
        """Remove one. Raises NotFound."""
        found = self.get(ref)
        place = self._root / f".{found.id}"
        (self._root / found.id).rename(place)  # so that no half of one is ever seen
        remove_tree(place)
        return found

    def clear(self, id: str) -> None:
        """Remove what was not finished."""
        with contextlib.suppress(OSError):
            remove_tree(self._root / f".{id}")
