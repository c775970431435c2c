"""Reading a container's log: conmon's k8s-file format, `TIMESTAMP stdout|stderr F|P TEXT`, turned into what was
written.

A line that ended with a newline is one `F` record; a longer or unfinished one is a run of `P` records, joined here.
"""

from __future__ import annotations

import ctypes
import os
import select
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from engine.spec.errors import Internal, NotFound

_BLOCK = 64 * 1024
_LONGEST = 1024 * 1024  # an unfinished line is given out in pieces of this size
_IN_MODIFY = 0x2
_IN_CLOEXEC = os.O_CLOEXEC
_IN_NONBLOCK = os.O_NONBLOCK

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class LogEntry:
    """What a container wrote: `stream` is `stdout` or `stderr`; `data` keeps its newline, when there was one."""

    stream: str
    timestamp: str
    data: bytes

    @property
    def timestamp_ns(self) -> int:
        """Nanoseconds since the epoch."""
        return parse_timestamp(self.timestamp)

    def rendered(self, *, timestamps: bool) -> bytes:
        """The bytes for a client; with `timestamps` each begins with RFC 3339 time in nanoseconds, UTC."""
        return rfc3339_nano(self.timestamp_ns).encode() + b" " + self.data if timestamps else self.data


class LogReader:
    """Reads entries in order and remembers where it is, so that `read` can be called again when the file has
    grown.

    Nothing blocks. `fileno()` is readable when the file has grown; it is for a selector or an event loop's
    `add_reader`.
    """

    def __init__(self, path: Path, *, stdout: bool = True, stderr: bool = True) -> None:
        """Raises NotFound when there is no such log."""
        try:
            self._file = path.open("rb")
        except FileNotFoundError as err:
            raise NotFound("the container has no log", why=f"{path} does not exist") from err
        self._path = path
        self._streams = {name for name, wanted in (("stdout", stdout), ("stderr", stderr)) if wanted}
        self._rest = b""
        self._partial: dict[str, list[LogEntry]] = {}
        self._inotify = -1

    def __enter__(self) -> LogReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the descriptors."""
        self._file.close()
        if self._inotify >= 0:
            os.close(self._inotify)
            self._inotify = -1

    def fileno(self) -> int:
        """An inotify descriptor for the file, made at the first call.

        Raises Internal when the host has no more of them.
        """
        if self._inotify < 0:
            fd = int(_libc.inotify_init1(_IN_CLOEXEC | _IN_NONBLOCK))
            if fd < 0 or _libc.inotify_add_watch(fd, os.fsencode(self._path), _IN_MODIFY) < 0:
                reason = os.strerror(ctypes.get_errno())
                if fd >= 0:
                    os.close(fd)
                raise Internal("cannot follow the log", why=reason, hint="See the limits in /proc/sys/fs/inotify")
            self._inotify = fd
        return self._inotify

    def seek_tail(self, lines: int) -> None:
        """Go to where the last `lines` entries of the chosen streams begin, reading the file backwards in blocks."""
        start = position = self._file.seek(0, os.SEEK_END)
        found = 0
        unfinished = set(self._streams)  # streams whose last record may lack its end
        head = b""
        while position > 0:
            size = min(_BLOCK, position)
            position -= size
            pieces = (os.pread(self._file.fileno(), size, position) + head).split(b"\n")
            head = pieces.pop(0) if position else b""
            offset = position + sum(len(piece) + 1 for piece in pieces) + (len(head) + 1 if position else 0)
            for record in reversed(pieces):
                offset -= len(record) + 1
                parts = record.split(b" ", 3)
                stream = parts[1].decode("ascii", "replace") if len(parts) == 4 else ""
                if stream in self._streams and (parts[2] == b"F" or stream in unfinished):
                    found += 1
                    if found > lines:
                        self._file.seek(start)
                        return
                unfinished.discard(stream)
                start = offset
        self._file.seek(0)

    def read(self, *, final: bool = False) -> Iterator[LogEntry]:
        """Entries up to the present end of the file; with `final` (the container has ended) also an unfinished
        last line.
        """
        while block := self._file.read(_BLOCK):
            *records, self._rest = (self._rest + block).split(b"\n")
            for record in records:
                yield from self._entry(record)
        if final:
            for parts in sorted(self._partial.values(), key=lambda entries: entries[0].timestamp):
                yield _joined(parts)
            self._partial.clear()

    def _entry(self, record: bytes) -> Iterator[LogEntry]:
        parts = record.split(b" ", 3)
        if len(parts) != 4:
            return  # cut off by a crash of the host
        stream = parts[1].decode("ascii", "replace")
        if stream not in self._streams:
            return
        full = parts[2] == b"F"
        pieces = self._partial.setdefault(stream, [])
        pieces.append(LogEntry(stream, parts[0].decode("ascii", "replace"), parts[3] + b"\n" if full else parts[3]))
        if full or sum(len(piece.data) for piece in pieces) >= _LONGEST:
            yield _joined(self._partial.pop(stream))


def read_logs(
    path: Path,
    *,
    stdout: bool = True,
    stderr: bool = True,
    since_ns: int = 0,
    until_ns: int = 0,
    tail: int | None = None,
    follow: bool = False,
    ended: int | None = None,
    stop: int | None = None,
) -> Iterator[LogEntry]:
    """Entries of a log, oldest first; times in nanoseconds since the epoch, 0 is no bound; `tail` None is all.

    With `follow` it waits for more until the descriptor `ended` (the monitor's pidfd) or `stop` becomes readable, or
    an entry is later than `until_ns`; without `ended` it ends with the file. Raises NotFound when there is no log.
    """
    with LogReader(path, stdout=stdout, stderr=stderr) as reader:
        follow = follow and ended is not None
        if follow:
            reader.fileno()  # before reading, so that nothing falls between
        if tail is not None:
            reader.seek_tail(tail)
        over = not follow
        while True:
            for entry in reader.read(final=over):
                moment = entry.timestamp_ns if since_ns or until_ns else 0
                if until_ns and moment > until_ns:
                    return
                if moment >= since_ns:
                    yield entry
            if over:
                return
            ready = _wait([reader.fileno(), *(fd for fd in (ended, stop) if fd is not None)])
            if stop is not None and stop in ready:
                return
            over = ended in ready
            if reader.fileno() in ready:
                os.read(reader.fileno(), 4096)


def _wait(descriptors: list[int]) -> set[int]:
    poller = select.poll()
    for fd in descriptors:
        poller.register(fd, select.POLLIN)
    return {fd for fd, _ in poller.poll()}


def _joined(entries: list[LogEntry]) -> LogEntry:
    if len(entries) == 1:
        return entries[0]
    return LogEntry(entries[0].stream, entries[0].timestamp, b"".join(entry.data for entry in entries))


def parse_timestamp(text: str) -> int:
    """Nanoseconds since the epoch of an RFC 3339 time. Raises ValueError."""
    head, dot, rest = text.partition(".")
    if not dot:
        return int(datetime.fromisoformat(text).timestamp()) * 1_000_000_000
    digits = rest.rstrip("Z")
    for sign in "+-":
        digits = digits.partition(sign)[0]
    zone = rest[len(digits) :] or "Z"
    seconds = int(datetime.fromisoformat(head + zone).timestamp())
    return seconds * 1_000_000_000 + int(digits.ljust(9, "0")[:9])


def rfc3339_nano(nanoseconds: int) -> str:
    """UTC with nine digits, as docker prints log times."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"
