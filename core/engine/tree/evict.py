"""Gives up the content of files that are in the store, when the disk or the volume's budget needs the room.

The order, and what it guards against:
1. Hold the file: whoever opens it from now on waits until we are done.
2. Mark it. A descriptor that was opened before raises no events, and would read zeroes later; so
3. take a lease for writing (fcntl(2), F_SETLEASE): it is refused while anybody has the file open or mapped, or is in
   the middle of opening it, since the kernel counts an opener before it looks for marks (do_dentry_open in fs/open.c).
   The mark first, then the lease: the other way round, an opener between the two would pass.
4. Compare the file with the journal, change its attribute, and only then punch the hole.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import threading
from dataclasses import replace

from engine.spec.errors import EngineError
from engine.tree import content as contents
from engine.tree.beneath import end_lease, lease
from engine.tree.content import Content, UnknownContent, boot_id
from engine.tree.fanotify import Group, handle_of
from engine.tree.filling import signature
from engine.tree.fills import Fills, now
from engine.tree.hydrate import Hydrator
from engine.tree.hydration import Local, Site
from engine.tree.listing import version_of
from engine.tree.quiet import QuietMount

log = logging.getLogger(__name__)

_libc = ctypes.CDLL(None, use_errno=True)
_PUNCH_HOLE, _KEEP_SIZE = 0x02, 0x01  # FALLOC_FL_*, linux/falloc.h
_BLOCK = 64 << 10
"""A multiple of every file system's blocks: of a block that is punched in part nothing is freed."""
_LOW_WATER = 0.9
"""Eviction goes on until this part of the budget is used: otherwise each file that comes would evict another."""
_FREE, _MOST_FREE = 0.05, 1 << 30
"""Part of the file system that is kept free, and bytes at most."""


class Evictor:
    """Evicts the least recently used files of one tree. `budget`: bytes; 0 for none but that of the disk."""

    def __init__(
        self, group: Group, quiet: QuietMount, hydrator: Hydrator, fills: Fills, site: Site, budget: int
    ) -> None:
        self._group = group
        self._quiet = quiet
        self._hydrator = hydrator
        self._fills = fills
        self._site = site
        self._budget = budget
        self._lock = threading.Lock()
        self._evicted = 0
        self._counted = 0

    def usage(self) -> int:
        """Return how many bytes the tree has on the disk: by the last count, and what we did since."""
        return max(0, self._counted + self._hydrator.filled_bytes - self._evicted)

    def count(self) -> None:
        """Count what the tree has on the disk: what programs wrote and removed is only seen so."""
        done = self._hydrator.filled_bytes - self._evicted
        used = 0
        for _, entry in self._quiet.files():
            with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                used += entry.stat(follow_symlinks=False).st_blocks * 512
        self._counted = used - done

    def keep_within(self) -> None:
        """Give up what the budget does not allow, and what the disk needs when it is nearly full."""
        facts = os.fstatvfs(self._quiet.root)
        wanted = min(int(facts.f_blocks * facts.f_frsize * _FREE), _MOST_FREE) - facts.f_bavail * facts.f_frsize
        if self._budget and self.usage() > self._budget:
            self.count()
            if self.usage() > self._budget:
                wanted = max(wanted, self.usage() - int(self._budget * _LOW_WATER))
        if wanted > 0:
            self.make_room(wanted)

    def make_room(self, wanted: int) -> int:
        """Give up at least so many bytes, the least recently used first; return how many it were."""
        freed = 0
        with self._lock:
            for local in sorted(self._site.evictable(), key=self._used):
                if freed >= wanted:
                    break
                try:
                    freed += self.evict(local)
                except (EngineError, OSError, UnknownContent) as err:
                    log.warning("%s is kept: %s", local.path, err)
            self._evicted += freed
        return freed

    def _used(self, local: Local) -> int:
        try:
            facts = self._quiet.stat(local.path)
        except OSError:  # gone: evicting it will notice
            return 0
        return max(facts.st_atime_ns, facts.st_mtime_ns)

    def evict(self, local: Local) -> int:
        """Give up a file's content; return the bytes, 0 if it is in use or not what it was."""
        if not self._confirmed(local):
            return 0
        try:
            fd = self._quiet.open(local.path)
        except FileNotFoundError:
            return 0
        try:
            handle = handle_of(fd)
            if not self._hydrator.hold(handle):
                return 0
        except BaseException:
            os.close(fd)
            raise
        try:
            try:
                content = self._close_off(fd, local)
            finally:
                os.close(fd)
            return self._write_lease(handle, local, content) if content else 0
        finally:
            self._hydrator.let_go(handle)

    def _confirmed(self, local: Local) -> bool:
        """Ask the store: what the journal says may be long ago."""
        facts = self._site.store.head(local.path)
        return facts is not None and facts.size == local.signature.size and version_of(facts) == local.version

    def _close_off(self, fd: int, local: Local) -> Content | None:
        """Mark a file that can be evicted and is not in use: from now on whoever opens it waits.

        The descriptor is not for writing: that would stop a program from being executed (ETXTBSY).
        """
        facts = os.fstat(fd)
        if facts.st_blocks == 0 or facts.st_nlink != 1 or signature(fd) != local.signature:
            return None
        found = contents.read(fd)
        if found is not None and not self._fills.present(found, facts.st_ino):
            return None
        content = self._known(fd, local, facts)
        self._group.mark(fd)
        if not lease(fd):
            self._group.unmark(fd)
            return None
        end_lease(fd)
        return content

    def _write_lease(self, handle: bytes, local: Local, content: Content) -> int:
        """Give the content up, under a lease: truncate(2) needs no descriptor."""
        fd = self._quiet.open_handle(handle, os.O_RDWR)
        try:
            if not lease(fd):
                self._group.unmark(fd)
                return 0
            return self._give_up(fd, local, content)
        finally:
            os.close(fd)  # and the lease with it

    def _known(self, fd: int, local: Local, facts: os.stat_result) -> Content:
        """Return what the file will be, and have it say before it is marked that its content is here."""
        content = Content(
            where="filled", key=local.path, version=local.version, size=facts.st_size, mtime=facts.st_mtime_ns,
            ctime=facts.st_ctime_ns, inode=facts.st_ino, boot=boot_id(), at=now(),
        )  # fmt: skip
        contents.write(fd, content)
        self._site.settle(local.path, local.signature, signature(fd), hydrated=True)
        return content

    def _give_up(self, fd: int, local: Local, content: Content) -> int:
        facts = os.fstat(fd)
        before = signature(fd)
        if before[:3] != local.signature[:3]:  # written meanwhile; a new change time is our own
            self._group.unmark(fd)
            return 0
        contents.write(fd, replace(content, where="remote", begun=True, ctime=before.ctime_ns, boot=""))
        whole = -(-facts.st_size // _BLOCK) * _BLOCK
        if _libc.fallocate(fd, _PUNCH_HOLE | _KEEP_SIZE, ctypes.c_int64(0), ctypes.c_int64(whole)) < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), local.path)
        os.utime(fd, ns=(facts.st_atime_ns, facts.st_mtime_ns))
        contents.write(fd, replace(content, where="remote", boot=""))
        self._site.settle(local.path, before, signature(fd), hydrated=False, handle=handle_of(fd))
        return facts.st_blocks * 512
