"""Sizes, times and commands in the words that docker's users know."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime

_ZERO = "0001-01-01"


def short_id(identifier: str) -> str:
    """Return the first twelve characters of an id, without its algorithm."""
    return identifier.partition(":")[2][:12] if ":" in identifier else identifier[:12]


def bytes_decimal(count: float, digits: int = 4) -> str:
    """Return a size in powers of 1000: `5.58MB`."""
    return _scaled(count, 1000.0, ("B", "kB", "MB", "GB", "TB", "PB", "EB"), digits)


def bytes_binary(count: float) -> str:
    """Return a size in powers of 1024: `1.5MiB`."""
    return _scaled(count, 1024.0, ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"), 4)


def _scaled(count: float, base: float, units: tuple[str, ...], digits: int) -> str:
    step = 0
    while count >= base and step < len(units) - 1:
        count /= base
        step += 1
    return f"{count:.{digits}g}{units[step]}"


def duration(seconds: float) -> str:
    """Return a length of time in words: `About a minute`, `3 weeks`."""
    if seconds < 1:
        return "Less than a second"
    if int(seconds) == 1:
        return "1 second"
    if seconds < 60:
        return f"{int(seconds)} seconds"
    minutes = int(seconds // 60)
    if minutes == 1:
        return "About a minute"
    if minutes < 60:
        return f"{minutes} minutes"
    hours = round(seconds / 3600)
    if hours == 1:
        return "About an hour"
    if hours < 48:
        return f"{hours} hours"
    if hours < 24 * 7 * 2:
        return f"{hours // 24} days"
    if hours < 24 * 30 * 2:
        return f"{hours // 24 // 7} weeks"
    if hours < 24 * 365 * 2:
        return f"{hours // 24 // 30} months"
    return f"{hours // 24 // 365} years"


def ago(when: float, now: float | None = None) -> str:
    """Return how long ago a point of Unix time was; N/A for 0, which reproducible images have."""
    if when <= 0:
        return "N/A"
    return duration((time.time() if now is None else now) - when) + " ago"


def parse_time(text: str) -> float | None:
    """Return the Unix time of an RFC 3339 time with nanoseconds; None for Go's zero time."""
    if not text or text.startswith(_ZERO):
        return None
    found = re.fullmatch(r"(.*?)(\.\d+)?(Z|[+-]\d\d:\d\d)?", text)
    if found is None:
        return None
    try:
        base = datetime.fromisoformat(found[1] + (found[3] or "Z").replace("Z", "+00:00"))
    except ValueError:
        return None
    return base.timestamp() + float(found[2] or 0)


def local_time(when: float) -> str:
    """Return a point in time as docker's tables write it: `2026-01-02 15:04:05 +0000 UTC`."""
    moment = datetime.fromtimestamp(when).astimezone()
    return moment.strftime("%Y-%m-%d %H:%M:%S %z %Z")


def utc_time(when: float) -> str:
    """Return a point in time as RFC 3339."""
    return datetime.fromtimestamp(when, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def ellipsis(text: str, width: int) -> str:
    """Cut a text to a width."""
    return text if len(text) <= width else text[: width - 1] + "…"


def _port_groups(ports: list[dict[str, object]]) -> list[tuple[str, str, int, int, int]]:
    """Return (ip, protocol, first private, first public, length), neighbours joined; public 0 if not published."""
    groups: list[tuple[str, str, int, int, int]] = []
    rows = sorted(
        (str(p.get("IP") or ""), str(p["Type"]), int(str(p["PrivatePort"])), int(str(p.get("PublicPort") or 0)))
        for p in ports
    )
    for ip, protocol, private, public in rows:
        if groups:
            last_ip, last_protocol, first, first_public, length = groups[-1]
            joined = public == first_public + length if public else not first_public
            if (ip, protocol, private) == (last_ip, last_protocol, first + length) and joined:
                groups[-1] = (ip, protocol, first, first_public, length + 1)
                continue
        groups.append((ip, protocol, private, public, 1))
    return groups


def ports_text(ports: list[dict[str, object]]) -> str:
    """Return published and exposed ports as `docker ps` does: `0.0.0.0:8080-8081->80-81/tcp, 9000/tcp`."""

    def span(first: int, length: int) -> str:
        return str(first) if length == 1 else f"{first}-{first + length - 1}"

    found = []
    for ip, protocol, private, public, length in _port_groups(ports):
        text = f"{span(private, length)}/{protocol}"
        if public:
            host = f"[{ip}]" if ":" in ip else ip
            text = f"{host}:{span(public, length)}->{text}"
        found.append(text)
    return ", ".join(found)
