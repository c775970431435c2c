"""usage: what a volume holds, without a walk where its file system is its own."""

from __future__ import annotations

import os
import stat
from typing import Any

from engine.volume.jobs.work import Work


def run_usage(work: Work) -> dict[str, Any]:
    """Return bytes in use, limit (None if there is none), and the number of files where they had to be counted."""
    work.tell("Measuring")
    if work.args["own_filesystem"]:
        facts = os.statvfs(work.path)
        used = (facts.f_blocks - facts.f_bfree) * facts.f_frsize
        return {"bytes": used, "limit": facts.f_blocks * facts.f_frsize, "files": None}
    return {**_walk(work), "limit": None}


def _walk(work: Work) -> dict[str, Any]:
    total = files = 0
    seen: set[tuple[int, int]] = set()
    for _, directories, names, handle in os.fwalk(work.path):
        for name in (*names, *directories):
            try:
                facts = os.stat(name, dir_fd=handle, follow_symlinks=False)
            except FileNotFoundError:  # removed meanwhile
                continue
            identity = (facts.st_dev, facts.st_ino)
            if facts.st_nlink > 1 and not stat.S_ISDIR(facts.st_mode):
                if identity in seen:
                    continue
                seen.add(identity)
            files += not stat.S_ISDIR(facts.st_mode)
            total += facts.st_blocks * 512
        work.tell("Measuring", files, None, "files")
    return {"bytes": total, "files": files}
