"""What a command fails with: one line for people and an exit code for scripts."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class Failure(Exception):
    """A command cannot go on. `str()` is the line that is printed after `engine: `."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


class ApiError(Failure):
    """The daemon refused a request: its HTTP status, its message, and the API version that it speaks."""

    def __init__(self, status: int, message: str, api_version: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.api_version = api_version


class Unreachable(Failure):
    """No daemon answers at the host."""


class BadValue(Failure):
    """A value on the command line is malformed: names the flag, the value, and the cause. Exit code 125 as docker's."""

    def __init__(self, flag: str, value: str, cause: str) -> None:
        super().__init__(f"invalid value {value!r} for {flag}: {cause}", 125)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ` (did you mean 'x'?)` if a known word is close, whatever its case, else an empty string."""
    words = {text.lower(): text for text in known}
    close = difflib.get_close_matches(word.lower(), list(words), n=1)
    return f" (did you mean {words[close[0]]!r}?)" if close else ""
