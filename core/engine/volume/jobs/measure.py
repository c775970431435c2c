"""usage: what a volume holds, without a walk where its file system is its own."""

from __future__ import annotations

import os
from typing import Any

from engine.volume.jobs.work import Work
from engine.volume.measuring import occupied


def run_usage(work: Work) -> dict[str, Any]:
    """Return bytes in use, limit (None if there is none), and the number of files where they had to be counted."""
    work.tell("Measuring")
    if work.args["own_filesystem"]:
        facts = os.statvfs(work.path)
        used = (facts.f_blocks - facts.f_bfree) * facts.f_frsize
        return {"bytes": used, "limit": facts.f_blocks * facts.f_frsize, "files": None}
    found = occupied(work.path, tell=lambda files: work.tell("Measuring", files, None, "files"))
    return {"bytes": found.bytes + found.of_directories, "files": found.files, "limit": None}
