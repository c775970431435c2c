"""Volumes as docker shows, filters and measures them. Source: Docker Engine API, Volume."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from engine.filters import Filters, check_known, labels_match, parse_time
from engine.spec.errors import InvalidParameter
from engine.volume.measuring import occupied
from engine.volume.record import VolumeRecord, masked
from engine.volume.vet import RECORD

_TRUE, _FALSE = frozenset({"1", "true", "True"}), frozenset({"0", "false", "False"})


def volume_json(record: VolumeRecord, scope: str) -> dict[str, Any]:
    """Return docker's Volume object; passwords in options are hidden."""
    return {
        "CreatedAt": record.created,
        "Driver": record.driver,
        "Labels": dict(record.labels) or None,
        "Mountpoint": record.applied.path if record.applied else record.path,
        "Name": record.name,
        "Options": {key: masked(value) for key, value in record.given.items()} or None,
        "Scope": scope,
        "Status": {"Users": list(record.users), "Mounted": bool(record.mounts)},
    }


def _flag(filters: Filters, name: str) -> bool | None:
    values = set(filters.get(name, ()))
    if not values:
        return None
    if values <= _TRUE:
        return True
    if values <= _FALSE:
        return False
    raise InvalidParameter(f"invalid filter '{name}={','.join(sorted(values))}'", hint="Expected true or false")


def volume_filter(filters: Filters) -> Callable[[VolumeRecord], bool]:
    """Return the test of `volume ls` filters; labels must all be there, other values are alternatives.

    Raises InvalidParameter.
    """
    check_known(filters, ("name", "driver", "label", "dangling"))
    dangling = _flag(filters, "dangling")

    def passes(record: VolumeRecord) -> bool:
        return (
            (not filters.get("name") or any(part in record.name for part in filters["name"]))
            and (not filters.get("driver") or record.driver in filters["driver"])
            and labels_match(record.labels, filters)
            and (dangling is None or dangling is not bool(record.users))
        )

    return passes


def prune_filter(filters: Filters) -> Callable[[VolumeRecord], bool]:
    """Return the test of `volume prune` filters. Raises InvalidParameter."""
    check_known(filters, ("label", "label!", "all", "until"))
    everything = _flag(filters, "all") is True
    until = min(map(parse_time, filters["until"])) if filters.get("until") else None

    def takes(record: VolumeRecord) -> bool:
        old = until is None or datetime.fromisoformat(record.created).timestamp() < until
        return old and (everything or record.anonymous) and labels_match(record.labels, filters)

    return takes


def bytes_of(directory: Path) -> int:
    """Return the bytes that a volume's own directory occupies on the disk, hard links counted once.

    -1 if it holds nothing. An image counts with the blocks that it really has. What is mounted inside is not entered.
    """
    try:
        found = occupied(directory, without=RECORD)
    except FileNotFoundError:
        return -1
    return found.bytes if found.entries else -1
