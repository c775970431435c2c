"""JSON that comes from outside: what the grammar allows and nothing here can keep is refused at the door.

RFC 8259 leaves the range of numbers, the depth of nesting and unpaired surrogates to the parser (sections 8.2 and 9).
"""

from __future__ import annotations

import json
from typing import Any

NUMBER_LIMIT = 2**63
"""Numbers lie in [-NUMBER_LIMIT, NUMBER_LIMIT): SQLite, Go's int64 and the kernel have no larger ones."""


def loads(source: str | bytes) -> Any:
    """Parse JSON. Raises ValueError with a sentence, also for texts with NUL or no UTF-8 and numbers beyond 64 bits.

    No name, path, argument or environment variable of the kernel has a NUL.
    """
    try:
        value = json.loads(source, parse_constant=_refuse_constant)
    except RecursionError as err:
        raise ValueError("it is nested too deeply") from err
    waiting = [value]
    while waiting:
        part = waiting.pop()
        if isinstance(part, str):
            check_text(part)
        elif isinstance(part, dict):
            waiting += (*part.keys(), *part.values())
        elif isinstance(part, list):
            waiting += part
        elif isinstance(part, (int, float)) and not -NUMBER_LIMIT <= part < NUMBER_LIMIT:
            raise ValueError("a number does not fit into 64 bits")
    return value


def check_text(text: str) -> None:
    """Raise ValueError for a text that has NUL or is no UTF-8."""
    if "\0" in text:
        raise ValueError("a text has the character NUL")
    try:
        text.encode()
    except UnicodeEncodeError as err:
        raise ValueError("a text is not UTF-8: it has half of a surrogate pair") from err


def _refuse_constant(word: str) -> Any:
    raise ValueError(f"{word} is not a number")
