"""Odd values: what a parser, a database, the kernel or a formatter may stumble over; and JSON in which they stand."""

from __future__ import annotations

import copy
import json
from random import Random
from typing import Any

STRINGS = (
    "", " ", ".", "..", "../..", "x", "X" * 300, "x" * 5000, "a\0b", "\ud800", "\u00e9\u4e2d", "-1", "0", "99999",
    "1e9", "true",
    "null", "[]", "a=b", "=", "a:b:c", ":", "//", "%00", "a\nb", "\x7f", "\u202e", "0.0.0.0", "::", "10.0.0.0/99",
    "[::1",
    "sha256:", "sha256:" + "0" * 64, "container:", "container:one", "12parsecs", "-5m", "9223372036854775807",
    "SIGKILL",
    "2024-13-45T99:99:99Z", "Infinity", "tcp", "80/tcp", "70000/udp", "(a+)+$", "{{.Nothing}}", "bridge", "none",
)  # fmt: skip
NUMBERS = (0, -1, 1, 3, 65536, 2**31, 2**53 + 1, 2**63 - 1, -(2**63), 2**63, 2**200, 0.5, -0.0, 1e308)
_OTHERS: tuple[Any, ...] = (
    None,
    True,
    False,
    [],
    {},
    [[]],
    [None],
    {"": ""},
    {"a": None},
    [{}],
    {"a": {"b": {"c": []}}},
)
_RAW = (
    b"",
    b"{",
    b"[]",
    b"nul",
    b'"x"',
    b"1",
    b'{"a":NaN}',
    b'{"a":1e999}',
    b'{"a":' * 5000,
    b"\xff\xfe",
    b'{"a":"\\ud800"}',
)


def string(random: Random) -> str:
    """Return a text, mostly one of the known odd ones."""
    if random.random() < 0.9:
        return random.choice(STRINGS)
    return "".join(chr(random.choice((random.randrange(1, 128), random.randrange(0x80, 0xD800)))) for _ in range(9))


def value(random: Random) -> Any:
    """Return any value that JSON can say, and some that it cannot."""
    kind = random.random()
    if kind < 0.5:
        return string(random)
    if kind < 0.75:
        return random.choice(NUMBERS)
    return copy.deepcopy(random.choice(_OTHERS))


def mutated(random: Random, good: Any, changes: int) -> Any:
    """Return a copy of a value in which some parts are odd, missing or moved."""
    result = copy.deepcopy(good)
    for _ in range(changes):
        parts = list(_parts(result))
        if not parts:
            return value(random)
        holder, key = random.choice(parts)
        kind = random.random()
        if kind < 0.7:
            holder[key] = value(random)
        elif kind < 0.8:
            del holder[key]
        elif kind < 0.9:
            holder[key] = [holder[key]]
        elif isinstance(holder, dict):
            holder[string(random)] = holder[key]
    return result


def _parts(value: Any) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = []
    waiting = [value]
    while waiting:
        holder = waiting.pop()
        keys: Any = list(holder) if isinstance(holder, dict) else range(len(holder)) if isinstance(holder, list) else ()
        for key in keys:
            found.append((holder, key))
            waiting.append(holder[key])
    return found


def body(random: Random, good: Any) -> bytes:
    """Return a JSON body that is `good` but for a few odd parts; seldom something that is no JSON."""
    if random.random() < 0.04:
        return random.choice(_RAW)
    text = json.dumps(mutated(random, good, random.choice((0, 1, 1, 1, 2, 3, 6))))
    if random.random() < 0.02:
        return text[: random.randrange(len(text) + 1)].encode()
    return text.encode()
