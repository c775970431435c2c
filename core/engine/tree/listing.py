"""What is in the store: all objects with their versions, and what the sidecars say of them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import NamedTuple

from engine.spec.errors import EngineError
from engine.spec.storage import PROBES, Stat, Store
from engine.tree.names import SIDECAR, sidecar_of, unnameable
from engine.tree.spelling import spelling_of

log = logging.getLogger(__name__)

_FORGOTTEN = 86400.0
"""Seconds after which an object that only tried the store is of nobody who still lives; clocks may differ."""


class Remote(NamedTuple):
    """An object that is a file of the tree."""

    size: int
    version: str
    mtime_ns: int
    """When it was written, by the store's clock: the time of a file of which nobody says another one."""


class Listing(NamedTuple):
    """The store's content."""

    files: Mapping[str, Remote]
    sidecars: Mapping[str, str]
    """Directories that have one, and its version."""
    problems: Mapping[str, str]
    """Keys that cannot be files here, and why. They stay as they are."""

    def without(self, keys: Collection[str]) -> Listing:
        """Return the same without some objects."""
        files = {path: remote for path, remote in self.files.items() if path not in keys}
        sidecars = {path: version for path, version in self.sidecars.items() if sidecar_of(path) not in keys}
        return self._replace(files=files, sidecars=sidecars)

    def directories(self) -> set[str]:
        """Return all directories that something is in, and those that have a sidecar; without the root."""
        found = {parent for path in self.files for parent in parents(path)}
        found |= {each for path in self.sidecars for each in (path, *parents(path))}
        return found - {""}


def version_of(stat: Stat) -> str:
    """Return what tells one content of an object from another: the etag, or size and time in stores without etags.

    It is compared for equality only: it does not matter whose clock the time is of.
    """
    return stat.etag or f"{stat.size}-{stat.mtime}"


def parents(path: str) -> Iterator[str]:
    """Iterate over the directories that a path lies in, the innermost first, without the root."""
    while path := path.rpartition("/")[0]:
        yield path


def read(store: Store, progressed: Callable[[int], None]) -> Listing:
    """List a store. Raises what the store raises; NotFound if there is no such store any more."""
    store.check()  # an absent bucket or directory must not look like an empty one
    spelling = spelling_of(store.caps)
    files: dict[str, Remote] = {}
    sidecars: dict[str, str] = {}
    problems: dict[str, str] = {}
    forgotten: list[str] = []
    for number, stat in enumerate(store.list()):
        directory, _, name = stat.key.rpartition("/")
        if stat.key.startswith(PROBES):
            if stat.mtime is not None and stat.mtime < time.time() - _FORGOTTEN:
                forgotten.append(stat.key)
        elif name == SIDECAR and not (directory and unnameable(directory, spelling)):
            sidecars[directory] = version_of(stat)
        elif why := unnameable(stat.key, spelling):
            if not (stat.key.endswith("/") and stat.size == 0):  # markers of directories, which other tools make
                problems[stat.key] = why
        else:
            files[stat.key] = Remote(stat.size, version_of(stat), int((stat.mtime or 0) * 10**9))
        if number % 1000 == 0:
            progressed(number)
    for path in {each for key in (*files, *sidecars) for each in parents(key)} & files.keys():
        if files[path].size:  # an empty one is a marker of the directory, as other tools make them
            problems[path] = "there are objects below it"
        del files[path]
    _clear(store, forgotten)
    return Listing(files, sidecars, problems)


def _clear(store: Store, keys: Collection[str]) -> None:
    """Remove what killed processes left of their tries."""
    try:
        for key in keys:
            store.delete(key)
    except EngineError as err:  # where that is forbidden, it stays, and harms nothing
        log.info("objects below %s stay: %s", PROBES, err)
