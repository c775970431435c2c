"""Filters of image lists, as in `docker images --filter`."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from engine.filters import Filters, check_known, has_label, parse_time
from engine.image.model import Image
from engine.image.reference import Reference
from engine.spec.errors import InvalidParameter


def select(images: Sequence[Image], filters: Filters, resolve: Callable[[str], Image]) -> list[Image]:
    """The images that pass every filter: values of one are alternatives, but labels must all match, as in docker.

    Raises InvalidParameter for an unknown filter, NotFound for before/since.
    """
    check_known(filters, (*_TESTS, "before", "since"))
    chosen = list(images)
    for name, values in filters.items():
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


def _reference(image: Image, pattern: str) -> bool:
    for name in (Reference.parse(name) for name in (*image.repo_tags, *image.repo_digests)):
        spellings = (name.familiar, name.familiar_name, str(name), name.name)
        if any(
            fnmatch.fnmatchcase(spelling, pattern) and spelling.count("/") == pattern.count("/")
            for spelling in spellings
        ):
            return True
    return False


def _until(image: Image, value: str) -> bool:
    return _created(image) < parse_time(value)


def _created(image: Image) -> float:
    """Seconds since 1970; nanoseconds are cut to the microseconds that Python reads."""
    found = datetime.fromisoformat(image.created)
    return found.timestamp() if found.tzinfo else found.replace(tzinfo=UTC).timestamp()


_TESTS: dict[str, Callable[[Image, str], bool]] = {
    "dangling": _dangling,
    "label": lambda image, value: has_label(image.labels, value),
    "label!": lambda image, value: not has_label(image.labels, value),
    "reference": _reference,
    "until": _until,
}
