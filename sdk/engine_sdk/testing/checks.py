"""Checks: named statements of the contract, each with a function that tries it on one driver."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

Level = Literal["pure", "kernel", "live"]

PURE_SECONDS = 10.0
"""Deadline of a pure check. Plans take microseconds; a fresh interpreter takes a second on a busy machine."""
LIVE_SECONDS = 120.0
"""Deadline of a check of a live store, which may be on the other side of the world and hold thousands of objects."""
KERNEL_SECONDS = 60.0
"""Deadline of a kernel check: the longest one applies and undoes a plan once for each of its resources."""


class NotDeclared(Exception):
    """The driver does not claim what the check is about: no failure, and no gap in the verdict."""


class NotRun(Exception):
    """The machine cannot run the check (a privilege, a tool, a kernel feature): the verdict is partial."""


@dataclass(frozen=True)
class Check:
    """One statement of the contract. `body` gets the subject; for "kernel" also a host, for "live" a directory."""

    name: str
    level: Level
    body: Callable[..., None]
    statement: str
    """What a conformant driver does, in a sentence."""

    @property
    def deadline(self) -> float:
        """Seconds that the check may take."""
        return {"pure": PURE_SECONDS, "kernel": KERNEL_SECONDS, "live": LIVE_SECONDS}[self.level]


class Checks:
    """The checks of one kind of driver, in order."""

    def __init__(self) -> None:
        self._checks: dict[str, Check] = {}

    def __iter__(self) -> Iterator[Check]:
        return iter(self._checks.values())

    def __getitem__(self, name: str) -> Check:
        return self._checks[name]

    def names(self, level: Level) -> list[str]:
        """Return the names of the checks of one level."""
        return [c.name for c in self if c.level == level]

    def add(self, level: Level, name: str, body: Callable[..., None], statement: str) -> None:
        """Register a check; ValueError if the name is taken."""
        if name in self._checks:
            raise ValueError(f"there is a check {name!r} already")
        self._checks[name] = Check(name, level, body, statement)

    def _register(self, level: Level) -> Callable[[Callable[..., None]], Callable[..., None]]:
        def register(body: Callable[..., None]) -> Callable[..., None]:
            if not body.__doc__:
                raise ValueError(f"check {body.__name__} states nothing")
            self.add(level, body.__name__, body, body.__doc__.strip().partition("\n")[0])
            return body

        return register

    @property
    def pure(self) -> Callable[[Callable[..., None]], Callable[..., None]]:
        """Decorator: a check of values, `body(subject)`. Its docstring is the statement."""
        return self._register("pure")

    @property
    def kernel(self) -> Callable[[Callable[..., None]], Callable[..., None]]:
        """Decorator: a check on a private host, `body(subject, host)`. Its docstring is the statement."""
        return self._register("kernel")


def explain(what: str, problems: list[Any]) -> None:
    """Fail with the list of problems, if there is any."""
    if problems:
        lines = "\n".join(f"  {p}" for p in problems[:20])
        more = f"\n  ... and {len(problems) - 20} more" if len(problems) > 20 else ""
        raise AssertionError(f"{what}:\n{lines}{more}")
