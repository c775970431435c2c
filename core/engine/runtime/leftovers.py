"""What the starts and removals of a killed daemon left: monitors, containers of the runtime, bundles, cgroups.

A monitor goes on when the daemon is killed, also one that was just about to create its container. Nothing of it need be
written down yet, so it is found by its command line, which names our exec root.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path

from engine.runtime import cgroup
from engine.runtime.bundle import Bundle
from engine.runtime.conmon import Conmon, wait_exit
from engine.runtime.processes import command_line, kill_family, open_pidfd
from engine.spec.errors import EngineError

log = logging.getLogger(__name__)
_SECONDS = 10.0


def collect(conmon: Conmon, parent: str, keep: Collection[str]) -> None:
    """End and remove every container but those of the ids to `keep`; their cgroups are below `parent`.

    For the start of a daemon, while nothing else uses the exec root.
    """
    for pid in _monitors(conmon.exec_root, keep):
        _end(pid)
    for id in {*conmon.runtime.containers(), *(b.id for b in Bundle.all(conmon.exec_root))} - set(keep):
        try:
            conmon.delete(conmon.bundle(id), force=True)
        except EngineError as err:  # the runtime was killed before it wrote its state, or while it removed it
            log.info("a half-made container: %s", err)
            conmon.bundle(id).remove()
        shutil.rmtree(conmon.runtime.root / id, ignore_errors=True)
    for path in _cgroups(parent, {*keep, Path(conmon.cgroup).name}):
        _end_all(path)
        cgroup.remove(path)
    for directory in conmon.exec_root.glob("probe.*"):  # a trial container, of a daemon that was killed at its start
        path = f"/engine-{directory.name.replace('.', '-')}"
        _end_all(path)
        cgroup.remove(path)
        shutil.rmtree(directory, ignore_errors=True)


def _monitors(exec_root: Path, keep: Collection[str]) -> Iterator[int]:
    """Find monitors below an exec root that are of none of the ids."""
    for entry in os.listdir("/proc"):  # noqa: PTH208 - names are all that is wanted
        arguments = command_line(int(entry)) if entry.isdecimal() else []
        if len(arguments) < 2 or Path(arguments[0]).name != "conmon" or "-b" not in arguments[:-1]:
            continue
        bundle = Path(arguments[arguments.index("-b") + 1])
        if bundle.is_relative_to(exec_root) and not any(id in bundle.relative_to(exec_root).parts for id in keep):
            yield int(entry)


def _end(pid: int) -> None:
    """Kill a monitor with the runtime and the container below it, and wait until it is gone."""
    pidfd = open_pidfd(pid)
    if pidfd is None:
        return
    try:
        kill_family(pid)
        if not wait_exit(pidfd, _SECONDS):
            log.warning("the monitor with the process id %d does not end", pid)
    finally:
        os.close(pidfd)


def _cgroups(parent: str, keep: Collection[str]) -> set[str]:
    """Return the cgroups below a parent but those of the names to keep."""
    names: set[str] = set()
    for directory in cgroup.hierarchy().directories(parent):
        with suppress(OSError):
            names.update(entry.name for entry in directory.iterdir() if entry.is_dir())
    return {f"{parent}/{name}" for name in names - set(keep)}


def _end_all(path: str) -> None:
    for pid in cgroup.processes(path):
        pidfd = open_pidfd(pid)
        if pidfd is not None:
            try:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                wait_exit(pidfd, _SECONDS)
            except ProcessLookupError:
                pass
            finally:
                os.close(pidfd)
