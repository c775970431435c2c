"""The helper's own way to the files: a mount that nobody else has, and that raises no events.

What goes through it neither waits for the helper itself nor is protected from half-fetched files.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from engine.opening import RESOLVE_BENEATH, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, openat2
from engine.reconcile import mountapi
from engine.tree import fanotify
from engine.tree.spelling import Spelling

_O_PATH = 0o10000000  # open(2)


class QuietMount:
    """A detached, private mount of a tree. It goes with the process; a new one is made after a restart.

    Paths in it are spelled as in the store.
    """

    def __init__(self, path: str, spelling: Spelling) -> None:
        self._spelling = spelling
        source = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            mount = mountapi.clone(source, recursive=False)
        finally:
            os.close(source)
        try:
            mountapi.set_attributes(mount, private=True)
            self.root = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=mount)
        finally:
            os.close(mount)
        """Descriptor of the tree's own directory."""

    def close(self) -> None:
        """Give the mount up."""
        os.close(self.root)

    def open(self, path: str, flags: int = os.O_RDONLY) -> int:
        """Open a file by its path in the tree, never through a symbolic link in any part of it."""
        rules = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS
        if not flags & _O_PATH:
            flags |= os.O_NONBLOCK  # a FIFO must not stop us
        return openat2(self.root, self._spelling.local(path), flags | os.O_NOFOLLOW, rules)

    def stat(self, path: str) -> os.stat_result:
        """Return what is at a path, itself no symbolic link that is followed. Raises OSError."""
        return os.stat(self._spelling.local(path), dir_fd=self.root, follow_symlinks=False)

    def open_handle(self, handle: bytes, flags: int = os.O_RDWR) -> int:
        """Open a file by its handle."""
        return fanotify.open_handle(self.root, handle, flags)

    def path_of(self, fd: int) -> str | None:
        """Return the path in the tree of a descriptor of this mount; None if the file has none any more."""
        name = os.readlink(f"/proc/self/fd/{fd}")
        return None if name.endswith(" (deleted)") else self._spelling.stored(name.lstrip("/"))

    def files(self, below: str = "") -> Iterator[tuple[str, os.DirEntry[str]]]:
        """Iterate over the regular files below a directory, with their paths in the tree."""
        todo = [below]
        while todo:
            directory = todo.pop()
            try:
                fd = self.open(directory, os.O_RDONLY | os.O_DIRECTORY)
            except (FileNotFoundError, NotADirectoryError):  # renamed or removed meanwhile
                continue
            try:
                with os.scandir(fd) as entries:
                    for entry in entries:
                        name = self._spelling.stored(entry.name)
                        path = f"{directory}/{name}" if directory else name
                        if entry.is_dir(follow_symlinks=False):
                            todo.append(path)
                        elif entry.is_file(follow_symlinks=False):
                            yield path, entry
            finally:
                os.close(fd)
