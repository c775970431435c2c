"""Sizes as operators write them."""

from __future__ import annotations

import re

_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_SIZE = re.compile(r"(\d+)([kmgt]?)(i?b)?", re.IGNORECASE)


def parse_size(text: str) -> int:
    """Return the bytes of `100m`, `1GiB` or `1048576`; ValueError if it is no size."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a size, for example 100m or 2g")
    return int(match[1]) * _UNITS[match[2].lower()]
