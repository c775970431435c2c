"""Listings by prefix, for clients that list directories."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from engine_sdk.contract import Stat


def directory_of(prefix: str) -> str:
    """Return the directory that all keys with a prefix are in: of `a/b/c` it is `a/b`; it may be empty."""
    return prefix.rpartition("/")[0]


def matching(stats: Iterable[Stat], prefix: str) -> Iterator[Stat]:
    """Yield those whose key begins with the prefix."""
    return (stat for stat in stats if stat.key.startswith(prefix))


def level(stats: Iterable[Stat], prefix: str) -> Iterator[Stat]:
    """Yield one level of a listing of everything: what has a further `/` is told once, by its common prefix."""
    seen = set()
    for stat in matching(stats, prefix):
        head, slash, _ = stat.key[len(prefix) :].partition("/")
        if not slash:
            yield stat
        elif head not in seen:
            seen.add(head)
            yield Stat(key=f"{prefix}{head}/", size=0, is_prefix=True)
