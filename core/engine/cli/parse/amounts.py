"""Memory sizes, CPU numbers and durations, as docker writes them."""

from __future__ import annotations

import re
import time
from datetime import datetime
from decimal import Decimal, InvalidOperation

from engine.cli.errors import BadValue

_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([kmgtp]?)(i?b)?", re.IGNORECASE | re.ASCII)
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)", re.ASCII)
_SECONDS = {"ns": "1e-9", "us": "1e-6", "µs": "1e-6", "ms": "1e-3", "s": "1", "m": "60", "h": "3600"}


def size(flag: str, text: str) -> int:
    """Parse bytes: `512m`, `1.5g`, `64KiB`; units are powers of 1024. Raises BadValue."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise BadValue(flag, text, "expected a number of bytes with an optional unit b, k, m, g, t, e.g. 512m")
    number, unit, _ = found.groups()
    return int(Decimal(number) * _UNITS[unit.lower()])


def swap(flag: str, text: str) -> int:
    """Parse a swap limit: a size, or -1 for no limit. Raises BadValue."""
    return -1 if text.strip() == "-1" else size(flag, text)


def nano_cpus(flag: str, text: str) -> int:
    """Parse a number of CPUs (`1.5`) to billionths. Raises BadValue."""
    try:
        value = Decimal(text) * 1_000_000_000
    except InvalidOperation:
        raise BadValue(flag, text, "expected a number of CPUs, e.g. 1.5") from None
    if not value.is_finite() or value <= 0 or value != value.to_integral_value():
        raise BadValue(flag, text, "expected a positive number with at most nine decimals, e.g. 1.5")
    return int(value)


def cpu_set(flag: str, text: str) -> str:
    """Check a list of CPUs: `0-2,4`. Raises BadValue."""
    for part in text.split(","):
        found = re.fullmatch(r"(\d+)(?:-(\d+))?", part, re.ASCII)
        if found is None or (found[2] is not None and int(found[2]) < int(found[1])):
            raise BadValue(flag, text, f"{part!r} is neither a CPU nor a range, e.g. 0-2,4")
    return text


def duration_ns(flag: str, text: str) -> int:
    """Parse a Go duration (`1m30s`, `500ms`) to nanoseconds. Raises BadValue."""
    if text == "0":
        return 0
    total, at = Decimal(0), 0
    for part in _DURATION.finditer(text):
        if part.start() != at:
            break
        total += Decimal(part[1]) * Decimal(_SECONDS[part[2]])
        at = part.end()
    if not text or at != len(text):
        raise BadValue(flag, text, "expected a duration, e.g. 1m30s or 500ms")
    return int(total * 1_000_000_000)


def moment(flag: str, text: str, now: float | None = None) -> str:
    """Parse a point in time (Unix seconds, RFC 3339, or a duration before now) to Unix seconds. Raises BadValue."""
    if re.fullmatch(r"\d+(\.\d+)?", text, re.ASCII):
        return text
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        pass
    else:
        return f"{when.timestamp():.9f}"
    try:
        ago = duration_ns(flag, text)
    except BadValue:
        raise BadValue(
            flag, text, "expected Unix seconds, a date such as 2026-01-02T15:04:05, or a duration such as 10m"
        ) from None
    return f"{(time.time() if now is None else now) - ago / 1e9:.9f}"


def integer(flag: str, text: str, low: int, high: int) -> int:
    """Parse a whole number between two bounds. Raises BadValue."""
    if not re.fullmatch(r"-?\d+", text, re.ASCII) or not low <= int(text) <= high:
        raise BadValue(flag, text, f"expected a whole number from {low} to {high}")
    return int(text)
