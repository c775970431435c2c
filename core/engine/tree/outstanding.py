"""Who waits for an answer, written down where the next process finds it.

An answer names only the number that the event's descriptor had in the process that read the event. When that process is
killed, those who waited still wait, and its successor answers them by the same numbers: from this table it knows for
which files. The table is a file that is mapped into memory: a write is there at once, and stays when the process dies.
"""

from __future__ import annotations

import mmap
import os
import struct
from pathlib import Path

_ENTRY = struct.Struct("=B47s")  # length of the handle (0: nobody waits), the handle
MAX_NUMBER = 16384
"""Descriptors with higher numbers are not written down; whoever waits for such a one is refused."""


class Outstanding:
    """The table, in a file of its own."""

    def __init__(self, path: Path) -> None:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(fd, MAX_NUMBER * _ENTRY.size)
            self._table = mmap.mmap(fd, MAX_NUMBER * _ENTRY.size)
        finally:
            os.close(fd)

    def add(self, number: int, handle: bytes) -> None:
        """Write down that somebody waits. Raises ValueError for a number or handle that the table cannot hold."""
        if number >= MAX_NUMBER or len(handle) > _ENTRY.size - 1:
            raise ValueError(f"number {number}, handle of {len(handle)} bytes")
        offset = number * _ENTRY.size
        self._table[offset + 1 : offset + 1 + len(handle)] = handle
        self._table[offset] = len(handle)  # last: an entry that is seen is whole

    def remove(self, number: int) -> None:
        """Write down that an answer was given."""
        self._table[number * _ENTRY.size] = 0

    def entries(self) -> dict[int, bytes]:
        """Return the handles of the files that somebody waits for, by number."""
        found = {}
        for number, (length, handle) in enumerate(_ENTRY.iter_unpack(self._table)):
            if length:
                found[number] = handle[:length]
        return found

    def close(self) -> None:
        """Unmap the table."""
        self._table.close()
