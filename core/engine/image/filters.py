"""Filters of image lists, as in `docker images --filter`."""

from __future__ import annotations

import fnmatch
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

from engine.image.model import Image
from engine.image.reference import Reference
from engine.spec.errors import InvalidParameter

Filters = Mapping[str, Sequence[str]]
"""Filter name -> values. Values of one filter are alternatives, except labels, which must all match, as in docker."""


def select(images: Sequence[Image], filters: Filters, resolve: Callable[[str], Image]) -> list[Image]:
    """The images that pass every filter. Raises InvalidParameter for an unknown filter, NotFound for before/since."""
    chosen = list(images)
    for name, values in filters.items():
        if name not in _TESTS and name not in ("before", "since"):
            known = ", ".join(sorted([*_TESTS, "before", "since"]))
            raise InvalidParameter(f"invalid filter '{name}'", hint=f"Known are {known}.")
        if name in ("before", "since"):
            times = [_created(resolve(value)) for value in values]
            if name == "before":
                chosen = [image for image in chosen if any(_created(image) < time for time in times)]
            else:
                chosen = [image for image in chosen if any(_created(image) > time for time in times)]
            continue
        test, needed = _TESTS[name], all if name in ("label", "label!") else any
        chosen = [image for image in chosen if needed(test(image, value) for value in values)]
    return chosen


def _dangling(image: Image, value: str) -> bool:
    if value.lower() not in ("true", "1", "false", "0"):
        raise InvalidParameter(f"invalid filter 'dangling={value}'", hint="Say true or false.")
    return image.dangling == (value.lower() in ("true", "1"))


def _label(image: Image, value: str) -> bool:
    key, has_value, wanted = value.partition("=")
    return key in image.labels and (not has_value or image.labels[key] == wanted)


def _reference(image: Image, pattern: str) -> bool:
    for name in (Reference.parse(name) for name in (*image.repo_tags, *image.repo_digests)):
        spellings = (name.familiar, name.familiar_name, str(name), name.name)
        if any(fnmatch.fnmatchcase(spelling, pattern) and spelling.count("/") == pattern.count("/")
               for spelling in spellings):
            return True
    return False


def _until(image: Image, value: str) -> bool:
    return _created(image) < _moment(value)


def _created(image: Image) -> float:
    try:
        return _seconds(image.created)
    except ValueError:
        return 0.0  # whoever made the image wrote something else there


def _moment(value: str) -> float:
    """A time: seconds since 1970, RFC 3339, or an age like 24h or 1h30m."""
    try:
        return float(value)
    except ValueError:
        pass
    try:
        return _seconds(value)
    except ValueError:
        pass
    units, age, number = {"h": 3600, "m": 60, "s": 1, "d": 86400}, 0.0, ""
    for character in value:
        if character in units and number:
            age, number = age + float(number) * units[character], ""
        elif character.isdigit() or character == ".":
            number += character
        else:
            raise InvalidParameter(f"invalid time {value!r}", hint="Write 24h, or a date like 2026-01-31T12:00:00Z.")
    if number or not value:
        raise InvalidParameter(f"invalid time {value!r}", hint="Write 24h, or a date like 2026-01-31T12:00:00Z.")
    return time.time() - age


def _seconds(text: str) -> float:
    """RFC 3339 to seconds since 1970; nanoseconds are cut to the microseconds that Python reads."""
    found = datetime.fromisoformat(text)
    return found.timestamp() if found.tzinfo else found.replace(tzinfo=UTC).timestamp()


_TESTS: dict[str, Callable[[Image, str], bool]] = {
    "dangling": _dangling,
    "label": _label,
    "label!": lambda image, value: not _label(image, value),
    "reference": _reference,
    "until": _until,
}
