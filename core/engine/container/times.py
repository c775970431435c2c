"""Times as the API writes them."""

from __future__ import annotations

from datetime import UTC, datetime


def now() -> str:
    """Return the time in RFC 3339, UTC, microseconds."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
