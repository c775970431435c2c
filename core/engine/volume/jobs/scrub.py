"""scrub: everything that a volume has is read to its end, and what is not as it should be is told."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterator
from typing import Any

from engine.plugins import Plugins
from engine.spec.storage import SCRUB_PART, Checked
from engine.storage.stores import Stores
from engine.treewalk import walk
from engine.volume.jobs.work import Work

MOST = 1000
"""Problems that are told one by one."""


def run_scrub(work: Work) -> dict[str, Any]:
    """Return how much was read, how many objects have which problem, and the first of them."""
    work.tell("Reading")
    files = done = 0
    counts: Counter[str] = Counter()
    problems: list[dict[str, str]] = []
    for found in _of_store(work) if "url" in work.args else _of_files(work):
        files, done = files + 1, done + found.size
        if found.problem:
            counts[found.problem] += 1
            if found.problem != "foreign" and len(problems) < MOST:
                problems.append({"key": found.key, "problem": found.problem, "detail": found.detail})
        work.tell("Reading", done)
    foreign = counts.pop("foreign", 0)
    return {"files": files, "bytes": done, "foreign": foreign, "counts": dict(counts), "problems": problems}


def _of_store(work: Work) -> Iterator[Checked]:
    stores = Stores(Plugins())
    store = stores.open(stores.plan(work.args["url"], work.args["options"]), work.secrets)
    try:
        yield from store.scrub(accept=work.args["accept"])
    finally:
        store.close()


def _of_files(work: Work) -> Iterator[Checked]:
    """Read the files of a volume that is kept on this host: what its file system finds damaged cannot be read."""
    root = os.open(work.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for entry in walk(root):
            if not stat.S_ISREG(entry.facts.st_mode):
                continue  # a link has no content of its own, and opening a device may do something
            try:
                yield Checked(key=entry.path, size=_read(entry.name, entry.parent))
            except FileNotFoundError:
                continue  # removed meanwhile
            except OSError as err:
                yield Checked(key=entry.path, problem="damaged", detail=err.strerror or str(err))
    finally:
        os.close(root)


def _read(name: str, directory: int) -> int:
    """Read a regular file to its end, past the page cache of a FUSE server, and return its size."""
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        size = 0
        while part := os.read(descriptor, SCRUB_PART):
            size += len(part)
        return size
    finally:
        os.close(descriptor)
