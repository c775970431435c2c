"""Files without content: size, times, mode and owner are the object's; the content comes when somebody opens them.

A placeholder is made where containers do not see it, marked, and then gets its name: a descriptor from before the mark
would read zeroes for ever.
"""

from __future__ import annotations

import logging
import os

from engine.tree import content as contents
from engine.tree.content import Content, UnknownContent
from engine.tree.fanotify import Group, handle_of
from engine.tree.fills import Fills
from engine.tree.hydration import Entry
from engine.tree.quiet import QuietMount

log = logging.getLogger(__name__)


def make(entry: Entry, fd: int, group: Group) -> bytes:
    """Make a new file that nobody else sees yet a placeholder, marked; return its handle.

    An empty file is complete, and b"" is returned.
    """
    if entry.size == 0:
        return b""
    os.ftruncate(fd, entry.size)
    group.mark(fd)
    contents.write(
        fd,
        Content(
            where="remote", key=entry.path, version=entry.version, size=entry.size, mtime=0, ctime=0,
            inode=os.fstat(fd).st_ino,
        ),
    )  # fmt: skip
    return handle_of(fd)


def mark_all(group: Group, quiet: QuietMount, fills: Fills) -> int:
    """Mark every file of a tree whose content is not here; return how many.

    After a restart the marks may be gone: this comes before anybody sees the tree. A file whose attribute cannot be
    understood, or is of another file, is marked, too: whoever opens it gets an error.
    """
    marked = 0
    for path, entry in quiet.files():
        try:
            facts = entry.stat(follow_symlinks=False)
            fd = quiet.open(path, os.O_PATH)
        except FileNotFoundError:  # renamed or removed meanwhile
            continue
        try:
            if _incomplete(f"/proc/self/fd/{fd}", path, facts.st_ino, fills):
                group.mark(fd)
                marked += 1
        finally:
            os.close(fd)
    return marked


def _incomplete(file: str, path: str, inode: int, fills: Fills) -> bool:
    try:
        found = contents.read_at(file)
    except UnknownContent as err:
        log.error("%s cannot be shown: %s", path, err)
        return True
    if found is None or fills.present(found, inode):
        return False
    if found.inode != inode:
        log.error("%s cannot be shown: it is a copy of a file that was not here", path)
    return True
