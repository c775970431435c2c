"""Brings many small files into the store together: one look at the disk and two commits for all of them.

A small file is one request, which costs less than an fsync(2) and two commits of its own. Only what is ordinary is done
here; whatever else a file needs (a conflict, a copy, content that has to be fetched first) is left to the `Uploader`,
one file at a time, and the promises are the same: the content is on the local disk, and its digest in the journal,
before the first byte is sent.
"""

from __future__ import annotations

import contextlib
import os
import stat as modes
from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeAlias

from engine.spec.errors import Conflict, EngineError, InvalidParameter
from engine.tree.disk import Disk
from engine.tree.parts import Parts
from engine.tree.rows import Row
from engine.tree.schema import Database
from engine.tree.sending import Content, Moving, Outcome, Sender, confirm, intend, read

SMALL = 128 << 10
"""Bytes up to which a file is sent together with others."""
MOST = 16
"""Files at most: their requests are made one after the other, and the journal hears of the last one's end only."""
Result: TypeAlias = Outcome | Exception


class _File(NamedTuple):
    """One that is to be sent."""

    row: Row
    content: Content

    @property
    def stored(self) -> bool:
        """Only attributes have changed: the store has the content."""
        return bool(self.row.version) and self.content.digest == self.row.digest and not self.row.sent


class Together:
    """Uploads of small files. Called from many threads, for one path only from one at a time."""

    def __init__(self, parts: Parts, disk: Disk) -> None:
        self._parts = parts
        self._sender = Sender(parts)
        self._disk = disk

    def upload(self, paths: Sequence[str]) -> dict[str, Result]:
        """Bring files into the store; return for each path what became of it, or what was raised.

        ALONE for those that need more than a request: nothing was done for them. HELD for those that were not tried
        because the store refused one before them.
        """
        results: dict[str, Result] = {}
        with contextlib.ExitStack() as stack:
            opened = self._open(paths, results, stack)
            if opened:
                self._disk.sync()  # before stat(2): a later store through a mapping becomes a change of mtime by it
            files = self._read(opened, results)
        files = self._intend(files, results)
        self._confirm(self._send(files, results), results)
        return results

    def _open(
        self, paths: Sequence[str], results: dict[str, Result], stack: contextlib.ExitStack
    ) -> list[tuple[Row, int]]:
        opened = []
        rows = self._parts.journal.rows_of(paths)
        for path in paths:
            row = rows.get(path)
            if row is None or row.kind != "file" or row.state not in ("dirty", "uploading"):
                results[path] = Outcome.DONE
                continue
            results[path] = Outcome.ALONE
            with contextlib.suppress(OSError):  # the Uploader finds out why
                fd = self._parts.hydration.open(path)
                stack.callback(os.close, fd)
                facts = os.fstat(fd)
                if modes.S_ISREG(facts.st_mode) and facts.st_size <= SMALL and self._parts.hydration.complete(fd):
                    opened.append((row, fd))
        return opened

    def _read(self, opened: Iterable[tuple[Row, int]], results: dict[str, Result]) -> list[_File]:
        files = []
        for row, fd in opened:
            try:
                files.append(_File(row, read(fd)))
            except Moving:
                results[row.path] = Outcome.CHANGED
            except OSError as err:
                results[row.path] = err
        return files

    def _intend(self, files: Sequence[_File], results: dict[str, Result]) -> list[_File]:
        """Note what is to be sent; return those files that still have a row."""

        def change(database: Database) -> list[_File]:
            return [f for f in files if f.stored or intend(database, f.row.path, f.content.digest)]

        left = self._parts.journal.change(change) if files else []
        results |= {f.row.path: Outcome.CHANGED for f in files if f not in left}
        return left

    def _send(self, files: Iterable[_File], results: dict[str, Result]) -> list[tuple[_File, str]]:
        """Send files one after the other until the store cannot be reached; return what is stored, and its version."""
        done: list[tuple[_File, str]] = []
        away = False
        for file in files:
            path = file.row.path
            try:
                if file.stored:
                    done.append((file, file.row.version))
                elif away:
                    results[path] = Outcome.HELD
                else:
                    done.append((file, self._sender.send(file.row, file.content)))
            except (Conflict, InvalidParameter):
                continue  # it is for the Uploader
            except EngineError as err:
                results[path] = err
                away = True
        return done

    def _confirm(self, done: Sequence[tuple[_File, str]], results: dict[str, Result]) -> None:
        def change(database: Database) -> dict[str, Result]:
            return {f.row.path: confirm(database, f.row.path, f.content, version) for f, version in done}

        if done:
            results |= self._parts.journal.change(change, durable=False)
