"""What goes in and out of all managers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

JsonObject = dict[str, Any]
"""Docker-shaped JSON (API v1.44)."""
Filters = Mapping[str, Sequence[str]]
"""Name -> values in the order given."""
Auth = Mapping[str, str]
"""docker's AuthConfig."""


class Readable(Protocol):
    """A stream of bytes, such as a tar archive: an open file, a pipe, or the body of a request."""

    def read(self, size: int = -1, /) -> bytes:
        """Return at most `size` bytes, or all with -1; empty at the end.

        Raises OSError when the other side broke off.
        """

    def close(self) -> None:
        """Release what is behind it."""


class Writable(Protocol):
    """Where bytes are written to, such as a response."""

    def write(self, data: bytes, /) -> Any:
        """Take all of `data`. Raises ConnectionAbortedError when the client went away."""
