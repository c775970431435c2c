"""What the filters of all objects have in common, as the Docker Engine API defines them: labels and times."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime

import re2

from engine.spec.errors import InvalidParameter

Filters = Mapping[str, Sequence[str]]
"""Name of a filter -> its values, in the order given."""
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ns|us|ms|s|m|h|d)")
_SECONDS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


def check_known(filters: Filters, known: Iterable[str]) -> None:
    """Raise InvalidParameter for a filter that is none of the known ones."""
    for name in filters:
        if name not in known:
            raise InvalidParameter(f"invalid filter {name!r}", hint=f"Known: {', '.join(sorted(known))}.")


def compile_pattern(name: str, value: str) -> Callable[[str], bool]:
    """Return whether a text has the pattern that is a filter's value: in RE2's syntax, which is Go's, and so docker's.

    Its time is linear in the text, whoever wrote it: Python's own engine would hold the interpreter's lock for hours on
    `(a+)+$`. Raises InvalidParameter.
    """
    options = re2.Options()
    options.log_errors = False
    try:
        pattern = re2.compile(value.encode(errors="replace"), options)
    except re2.error as err:
        raise InvalidParameter(f"invalid filter '{name}={value}'", why=err.args[0].decode(errors="replace")) from err
    return lambda text: pattern.search(text.encode()) is not None


def has_label(labels: Mapping[str, str], wanted: str) -> bool:
    """Return whether there is a label `name` or `name=value`."""
    name, separator, value = wanted.partition("=")
    return name in labels and (not separator or labels[name] == value)


def labels_match(labels: Mapping[str, str], filters: Filters) -> bool:
    """Return whether labels pass the filters `label` (all must be there) and `label!` (none may be)."""
    return all(has_label(labels, v) for v in filters.get("label", ())) and not any(
        has_label(labels, v) for v in filters.get("label!", ())
    )


def parse_time(value: str) -> float:
    """Return seconds since the epoch of a Unix time, an RFC 3339 time or a duration back from now (`1h30m`).

    Raises InvalidParameter.
    """
    try:
        seconds = _seconds_of(value)
    except (ValueError, OverflowError):
        seconds = math.nan
    if not math.isfinite(seconds):
        raise InvalidParameter(f"invalid time {value!r}", hint="Use a Unix time, RFC 3339 or a duration like 10m.")
    return seconds


def _seconds_of(value: str) -> float:
    parts = _DURATION.findall(value)
    if parts and "".join(n + unit for n, unit in parts) == value:
        return time.time() - sum(float(n) * _SECONDS[unit] for n, unit in parts)
    try:
        return float(value)
    except ValueError:
        return datetime.fromisoformat(value).timestamp()
