"""The newest generation of a manifest that this host has seen: whoever turns a whole store back is noticed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import NamedTuple

from engine_drivers.storage.crypt.content import Damaged


class Mark(NamedTuple):
    """A generation, and the digest of its segment."""

    generation: int = 0
    digest: str = ""


class MarkFile:
    """A mark on a local disk. Without a path it is kept in memory: then only this process notices."""

    def __init__(self, path: str | None) -> None:
        self._path = None if path is None else Path(path)
        self._mark = Mark()

    def read(self) -> Mark:
        """Return the mark. Raises Damaged if the file is not as it was written."""
        if self._path is None:
            return self._mark
        try:
            document = json.loads(self._path.read_text())
            return Mark(int(document["generation"]), str(document["digest"]))
        except FileNotFoundError:
            return Mark()
        except (OSError, ValueError, KeyError, TypeError) as err:
            raise Damaged(
                f"the mark of the manifest cannot be read: {self._path}", why=str(err),
                hint="Remove the file to trust what the store says now",
            ) from err  # fmt: skip

    def write(self, mark: Mark) -> None:
        """Keep a mark; after a crash it is this one or the one before. Raises OSError."""
        self._mark = mark
        if self._path is None:
            return
        unfinished = self._path.with_name(f".{self._path.name}.{os.getpid()}.new")
        with unfinished.open("w") as file:
            json.dump(mark._asdict(), file)
            file.flush()
            os.fsync(file.fileno())
        unfinished.rename(self._path)
