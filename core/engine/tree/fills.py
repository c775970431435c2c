"""Until when fetched content is known to be on the disk.

Content counts as there when it is in memory: nobody waits for the disk. A machine that crashes then would leave files
that say they are filled and are not. So each says when it was filled, in which run of the kernel; and a file beside the
journal says, for each run, that all that was filled until a certain time was written to the disk.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from engine.durable import sync_file_system
from engine.tree.content import Content, boot_id


def now() -> int:
    """Return the time since the kernel started, in nanoseconds, sleep included."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class Fills:
    """The record of a tree, in the file `path`; `directory` is a descriptor on the tree's file system."""

    def __init__(self, path: Path, directory: int) -> None:
        self._path = path
        self._directory = directory
        try:
            self._until: dict[str, int] = {str(k): int(v) for k, v in json.loads(path.read_text()).items()}
        except (
            FileNotFoundError,
            ValueError,
            AttributeError,
            TypeError,
        ):  # not known: what was filled in earlier runs is looked at again
            self._until = {}

    def present(self, content: Content, inode: int) -> bool:
        """Return whether all of a file's content can be read; `inode` is the file's number."""
        if content.where != "filled":
            return False
        if content.inode != inode:  # somebody copied the content, and the attribute with it
            return True
        return content.boot == boot_id() or content.at <= self._until.get(content.boot, -1)

    def sync(self) -> None:
        """Write everything that is filled now to the disk, then the record. Takes as long as the disk does."""
        until = now()
        sync_file_system(self._directory)
        self._until[boot_id()] = until
        temporary = self._path.with_name(self._path.name + ".new")
        with temporary.open("w") as file:
            json.dump(self._until, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._path)
