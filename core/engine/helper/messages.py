"""Errors between a helper and the daemon: as JSON, and back as the same kind of error."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from engine.spec.errors import EngineError, Internal, Unavailable


class HelperGone(Unavailable):
    """There is no helper, or it ends or ended before it answered."""

    kind = "helper-gone"


def error_json(error: EngineError) -> dict[str, Any]:
    """Return an error as JSON."""
    fields = ("kind", "what", "why", "hint", "driver")
    return {name: getattr(error, name) for name in fields} | {"details": error.details}


def _kinds(base: type[EngineError]) -> Iterator[type[EngineError]]:
    for kind in base.__subclasses__():
        yield kind
        yield from _kinds(kind)


def error_of(data: dict[str, Any]) -> EngineError:
    """Return the error that `error_json` wrote; one of a kind that is not known here is Internal."""
    kind = next((k for k in _kinds(EngineError) if k.kind == data.get("kind")), Internal)
    details = data.get("details")
    return kind(
        str(data.get("what", "")), why=str(data.get("why", "")), hint=str(data.get("hint", "")),
        driver=str(data.get("driver", "")), details=details if isinstance(details, dict) else None,
    )  # fmt: skip
