"""Whether files can be fetched on demand here: tried with a file on the volume's own file system, not guessed.

Kernels before 6.14 and file systems like tmpfs and overlay have no pre-content events; some hosts forbid them.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import threading
import time
from collections.abc import Callable
from pathlib import Path

from engine.spec.errors import Unsupported
from engine.tree import content as contents
from engine.tree.beneath import end_lease, lease
from engine.tree.content import Content
from engine.tree.fanotify import OPEN_PERM, PRE_ACCESS, Group, handle_of
from engine.tree.quiet import QuietMount
from engine.tree.spelling import FILES

_SECONDS = 5.0


def check(staging: Path) -> None:
    """Return if pre-content events work on the file system of a directory; raise Unsupported with the reason if not.

    A file is made in the directory, and removed.
    """
    file = staging / "on-demand-self-test"
    file.unlink(missing_ok=True)
    try:
        file.write_bytes(b"x" * 8192)
        _check(staging, file)
    except OSError as err:
        why = f"{err.filename or 'a test'}: {err.strerror}"
        raise Unsupported("files cannot be fetched on demand here", why=why) from err
    finally:
        file.unlink(missing_ok=True)


def _check(staging: Path, file: Path) -> None:
    group = Group.create()
    try:
        quiet = QuietMount(str(staging), FILES)
        try:
            _prepare(group, quiet, file)
            _expect(group, lambda: file.read_bytes(), [(OPEN_PERM, errno.EIO)], "an open is not held")
            _expect(group, lambda: file.read_bytes(), [(OPEN_PERM, 0), (PRE_ACCESS, errno.EIO)], "a read is not held")
            own = _Access(lambda: os.close(quiet.open(file.name, os.O_RDWR)))
            if not own.ended():
                raise Unsupported("files cannot be fetched on demand here", why="a private mount raises events, too")
        finally:
            quiet.close()
    finally:
        group.close()  # whoever still waits goes on: only the test's own threads


def _prepare(group: Group, quiet: QuietMount, file: Path) -> None:
    """Try what eviction and hydration need, then mark the file."""
    group.ignore_mount(quiet.root)
    fd = quiet.open(file.name, os.O_RDWR)
    try:
        contents.write(fd, Content("remote", "k", "v", 8192, 0, 0, os.fstat(fd).st_ino))
        os.close(quiet.open_handle(handle_of(fd)))
        if not lease(fd):
            raise Unsupported("files cannot be fetched on demand here", why="a file that nobody uses gets no lease")
        end_lease(fd)
        group.mark(fd)
    finally:
        os.close(fd)


class _Access:
    """A thread that opens or reads."""

    def __init__(self, act: Callable[[], object]) -> None:
        self.error: OSError | None = None
        self._act = act
        self._thread = threading.Thread(target=self._run, name="self-test", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._act()
        except OSError as err:
            self.error = err

    def ended(self) -> bool:
        self._thread.join(_SECONDS)
        return not self._thread.is_alive()


def _expect(group: Group, act: Callable[[], object], answers: list[tuple[int, int]], what: str) -> None:
    """Have something done that raises these events, answer each of them, and see the last error arrive."""
    access = _Access(act)
    for mask, error in answers:
        if _answer(group, error) != mask:
            raise Unsupported("files cannot be fetched on demand here", why=what)
    if not access.ended() or access.error is None or access.error.errno != answers[-1][1]:
        raise Unsupported("files cannot be fetched on demand here", why=f"{what}: a refusal has no effect")


def _answer(group: Group, error: int) -> int:
    poll = select.poll()
    poll.register(group.fd, select.POLLIN)
    end = time.monotonic() + _SECONDS
    while poll.poll(max(0.0, end - time.monotonic()) * 1000):
        for event in group.read():
            group.answer(event.fd, error)
            with contextlib.suppress(OSError):
                os.close(event.fd)
            return event.mask
    return 0
