"""Volumes of the driver `remote` on a directory as their store, with helpers whose tree is the tests' own."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.kernel.volume.world import World, isolated

from engine.helper.place import HelperPlace
from engine.volume.record import VolumeRecord
from engine.volume.trees import trees_in_use

PR_SET_CHILD_SUBREAPER = 36
"""linux/prctl.h"""
SECONDS = 30.0
"""For what comes in well below one on a machine at rest."""


def eventually(condition: Callable[[], object], what: str) -> None:
    """Wait until something is so."""
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, f"not within {SECONDS:g} s: {what}"
        time.sleep(0.02)


def with_helpers(test: Callable[..., None]) -> Callable[..., None]:
    """Run a test in a process and a mount namespace of its own; helpers that it leaves end with it."""

    @functools.wraps(test)
    def body(*args: Any, **kwargs: Any) -> None:
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        try:
            test(*args, **kwargs)
        finally:
            _end_children()

    return isolated(body)


def _children() -> set[int]:
    found: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that ends just now
            found |= {int(child) for child in (task / "children").read_text().split()}
    return found


def _end_children() -> None:
    """Kill what this process has started, and what was left to it by processes that ended before."""
    while children := _children():
        for child in children:
            os.kill(child, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):  # another thread waited for it
                os.waitpid(child, 0)


class Site(World):
    """Volumes on the directory `bucket`; `control` is what the fake tree looks at."""

    helper = (sys.executable, "-P", str(Path(__file__).with_name("fake_helper.py")))

    def __init__(self, base: Path) -> None:
        self.bucket, self.control = base / "bucket", base / "control"
        for directory in (self.bucket, self.control):
            directory.mkdir(parents=True, exist_ok=True)
        os.environ["FAKE_TREE"] = str(self.control)
        super().__init__(base)

    def say(self, name: str, text: str = "") -> None:
        """Tell the fake tree something; without a text, no longer."""
        path = self.control / name
        if text:
            path.write_text(text)
        else:
            path.unlink(missing_ok=True)

    def create(self, name: str, **options: str) -> VolumeRecord:
        """Make a remote volume."""
        return self.volumes.create(name, "remote", {"url": f"file://{self.bucket}", **options})

    def helper_of(self, name: str) -> HelperPlace:
        """Return where the helper of a mounted volume is."""
        (tree,) = trees_in_use(self.volumes.get(name))
        return HelperPlace(tree.run)

    def kill_helper(self, name: str) -> int:
        """Kill the helper of a volume, and return its former process id."""
        place = self.helper_of(name)
        eventually(place.pid, "the helper says its process id")
        pid = place.pid()
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        return pid
