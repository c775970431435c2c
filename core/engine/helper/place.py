"""The directory of one helper: its lock, its socket, its log."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engine import lockfile
from engine.spec.resource import Resource, load_resource

LOCK = "lock"
_POLL_SECONDS = 0.02


class HelperPlace:
    """Where one helper lives. The directory belongs to the engine alone, and need not exist."""

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = Path(directory)
        self.lock = self.directory / LOCK
        self.log = self.directory / "log"
        self.output = self.directory / "output"
        """What the process prints: nothing, unless it crashes."""

    def alive(self) -> bool:
        """Tell whether a helper has the lock."""
        return lockfile.is_taken(self.lock)

    def take(self) -> int:
        """Take the lock, for a process that is to inherit it. Raises BlockingIOError if a helper has it."""
        descriptor = lockfile.take(self.lock)
        os.ftruncate(descriptor, 0)
        return descriptor

    def gone(self, seconds: float) -> bool:
        """Wait until no helper has the lock; tell whether that came true."""
        end = time.monotonic() + seconds
        while self.alive():
            if time.monotonic() > end:
                return False
            time.sleep(_POLL_SECONDS)
        return True

    def card(self) -> dict[str, Any]:
        """Return what the running helper says of itself: its `pid` and `resource`; empty in its first moments."""
        try:
            found = json.loads(self.lock.read_bytes())
        except (FileNotFoundError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def pid(self) -> int | None:
        """Return the process id of the running helper."""
        return self.card().get("pid")

    def resource(self) -> Resource | None:
        """Return what the running helper was started for."""
        found = self.card().get("resource")
        return load_resource(found) if isinstance(found, dict) else None

    def listen(self) -> socket.socket:
        """Return a new socket that listens for requests, in place of one that a dead helper left."""
        (self.directory / "socket").unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            with self._socket_path() as path:
                listener.bind(path)
            listener.listen(64)
        except BaseException:
            listener.close()
            raise
        return listener

    def connect(self, seconds: float) -> socket.socket:
        """Return a connection to the helper. Raises OSError if it is dead."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            connection.settimeout(seconds)
            with self._socket_path() as path:
                connection.connect(path)
        except BaseException:
            connection.close()
            raise
        return connection

    @contextlib.contextmanager
    def _socket_path(self) -> Iterator[str]:
        """Give a path of the socket that is short enough for sun_path (unix(7): 108 bytes), wherever it is."""
        directory = os.open(self.directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield f"/proc/self/fd/{directory}/socket"
        finally:
            os.close(directory)

    def last_words(self, size: int = 2000) -> str:
        """Return the end of what the helper logged and printed, for an error message."""
        texts = []
        for path in (self.log, self.output):
            with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
                file.seek(max(0, path.stat().st_size - size))
                texts.append(file.read().decode(errors="replace").strip())
        return "\n".join(text for text in texts if text)
