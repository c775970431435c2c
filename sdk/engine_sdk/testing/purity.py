"""Watches one call: what of the world outside of its arguments does it look at, or touch?

Files, sockets and processes show up as audit events (PEP 578); clock, chance and environment as calls that a profile
function sees. What an import does is exempt (a driver may import on first use), and so is logging.

This finds mistakes. It is no sandbox: a driver is code in the engine's process.
"""

from __future__ import annotations

import _random
import datetime
import logging
import os
import random
import sys
from types import FrameType
from typing import Any

_AUDITED = (
    "open", "socket.", "subprocess.", "os.", "shutil.", "tempfile.", "fcntl.", "mmap.", "glob.", "pathlib.",
    "ctypes.dlopen", "sqlite3.", "syslog.", "urllib.", "_thread.start",
)  # fmt: skip
"""Prefixes of audit events (docs.python.org, "Audit events table") that mean contact with the world."""
_CLOCKS = frozenset(
    f"{name}{suffix}" for name in ("time", "monotonic", "perf_counter", "process_time") for suffix in ("", "_ns")
) | {"sleep", "localtime", "ctime"}
_HARMLESS = ("fspath", "_path", "register_at_fork")
"""Functions of the module `posix` that only compute."""
_STANDARD = os.path.dirname(os.__file__)  # noqa: PTH120
_ENVIRONMENT = {getattr(type(os.environ), name).__code__ for name in ("__getitem__", "__iter__", "__len__")}


class Watch:
    """Context manager; afterwards `touched` says what was looked at. One in a process: audit hooks stay for ever."""

    def __init__(self) -> None:
        self.touched: list[str] = []
        self._armed = False
        sys.addaudithook(self._audit)

    def __enter__(self) -> Watch:
        self.touched = []
        self._armed = True
        sys.setprofile(self._profile)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)
        self._armed = False

    def _note(self, text: str, frame: FrameType | None) -> None:
        place = ""
        while frame is not None:
            name = frame.f_code.co_filename
            if name.startswith("<frozen importlib") or name == logging.__file__:
                return
            if not place and not _is_standard(name):
                place = f" at {name}:{frame.f_lineno}"
            frame = frame.f_back
        if f"{text}{place}" not in self.touched:
            self.touched.append(f"{text}{place}")

    def _audit(self, event: str, args: tuple[Any, ...]) -> None:
        if self._armed and event.startswith(_AUDITED):
            shown = f"({args[0]!r})" if args and isinstance(args[0], str | bytes) else ""
            self._note(f"{event}{shown}", sys._getframe(1))

    def _profile(self, frame: FrameType, event: str, arg: Any) -> None:
        if event == "call" and frame.f_code in _ENVIRONMENT:
            self._note("os.environ", frame.f_back)
        elif event == "c_call" and _forbidden(arg):
            self._note(f"{getattr(arg, '__module__', None) or type(arg.__self__).__name__}.{arg.__name__}", frame)


def _is_standard(file: str) -> bool:
    """Return whether a file is part of Python: the driver's line that called into it says more."""
    return file.startswith((f"{_STANDARD}{os.sep}", "<")) and "site-packages" not in file


def _forbidden(function: Any) -> bool:
    module, name, owner = function.__module__, function.__name__, getattr(function, "__self__", None)
    if module == "time":
        return name in _CLOCKS
    if module == "posix":
        return not name.startswith(_HARMLESS)
    if isinstance(owner, _random.Random):
        return owner is random._inst  # one with a seed of the driver's own is pure
    return isinstance(owner, type) and issubclass(owner, datetime.date) and name in ("now", "utcnow", "today")
