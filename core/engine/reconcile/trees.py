"""The applier of trees that are kept in a store: a helper process runs for each, or it does not.

Starting one is quick, and says nothing of its state: whether everything is local, and what is still to be uploaded, is
asked of the helper by who waits for it. Ending one loses nothing: its journal knows what is left.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar

from engine.helper.client import HelperClient
from engine.helper.config import HelperConfig
from engine.helper.launch import ARGV, launch
from engine.helper.place import LOCK, HelperPlace
from engine.reconcile import mountinfo
from engine.reconcile.applier import BatchError, Context, Difference
from engine.runtime import cgroup
from engine.runtime.conmon import move_to_cgroup
from engine.spec.errors import ApplyFailed, EngineError, Unsupported
from engine.spec.resource import Key, Resource
from engine.spec.trees import SyncedTree
from engine.tree import holder
from engine.treewalk import remove_tree

END_SECONDS = 5.0
"""For a helper that was told to end, and again for one that was killed."""
_LEAVE_SECONDS = 2.0


class TreeApplier:
    """Applier of the family "tree".

    `configure` reads a tree's secrets; `run_root` holds a directory for each volume, in which those of helpers lie.
    `group` is the cgroup of helpers (`/engine-TAG/helpers`): never a container's, which can be frozen; "" leaves them
    with the daemon.
    """

    families: ClassVar[frozenset[str]] = frozenset({"tree"})

    def __init__(
        self,
        configure: Callable[[SyncedTree], HelperConfig],
        run_root: Path,
        *,
        group: str = "",
        argv: Sequence[str] = ARGV,
    ) -> None:
        self._configure, self._run_root, self._group, self._argv = configure, run_root, group, argv

    def create(self, batch: Sequence[Resource], context: Context) -> Sequence[Resource]:
        """Start helpers. Raises BatchError."""
        created: list[Resource] = []
        for resource in batch:
            assert isinstance(resource, SyncedTree)
            try:
                launch(
                    HelperPlace(resource.run), self._configure(resource), argv=self._argv,
                    started=partial(self._own_group, tree=resource),
                )  # fmt: skip
            except BlockingIOError as err:
                raise BatchError(resource, err, created, exists=True) from err
            except EngineError as err:
                raise BatchError(resource, err, created) from err
            except OSError as err:
                cause = ApplyFailed(f"the helper of {resource.path} cannot be started", why=str(err))
                cause.__cause__ = err
                raise BatchError(resource, cause, created, errno=err.errno or 0) from err
            created.append(resource)
        return created

    def update(self, old: Resource, new: Resource, context: Context) -> None:
        """Never called, because nothing is changed in place: raises Unsupported."""
        raise Unsupported(f"{'/'.join(new.key)} cannot be changed in place")

    def remove(self, batch: Sequence[Resource], context: Context) -> list[tuple[Resource, Exception]]:
        """End helpers at once. What they have not uploaded stays in the journal."""
        left: list[tuple[Resource, Exception]] = []
        for resource in batch:
            assert isinstance(resource, SyncedTree)
            try:
                self._end(HelperPlace(resource.run))
            except (OSError, EngineError) as err:
                left.append((resource, err))
        return left

    def diff(self, wanted: Mapping[Key, Resource], contexts: Mapping[Key, Context]) -> list[Difference]:
        """Return trees without a helper, or with one that was started for something else."""
        found: list[Difference] = []
        for key, resource in wanted.items():
            assert isinstance(resource, SyncedTree)
            owner = contexts[key].owner if key in contexts else ""
            place = HelperPlace(resource.run)
            if not place.alive():
                found.append(Difference(key, "missing", owner=owner, resource=resource))
                continue
            running = place.resource()
            if running is not None and running != resource:  # None: it has just been started, by us
                changes = {
                    name: (value, getattr(running, name, None))
                    for name, value in resource
                    if value != getattr(running, name, None)
                }
                found.append(Difference(key, "replace", changes, owner, resource))
        return found

    def unwanted(self, wanted: Mapping[Key, Resource]) -> list[Difference]:
        """Return running helpers that nobody wants."""
        needed = {resource.run for resource in wanted.values() if isinstance(resource, SyncedTree)}
        mounted = {mount.target for mount in mountinfo.read()}  # a lock in there would be a container's
        found: list[Difference] = []
        for lock in self._run_root.glob(f"*/*/{LOCK}"):
            directory = str(lock.parent)
            if directory in needed or directory in mounted or lock.parent.is_symlink():
                continue
            place = HelperPlace(directory)
            running = place.resource()
            key = running.key if running is not None else ("tree", "host", directory)
            found.append(Difference(key, "unwanted", {"run": (None, directory)}, resource=running))
        return found

    def discard(self, difference: Difference) -> None:
        """End a helper that nobody wants."""
        self._end(HelperPlace(str(difference.fields["run"][1])))

    def _own_group(self, pid: int, tree: SyncedTree) -> None:
        if self._group:
            move_to_cgroup(pid, self._group_of(HelperPlace(tree.run)))

    def _group_of(self, place: HelperPlace) -> str:
        return f"{self._group}/{place.directory.parent.name[:12]}-{place.directory.name}"

    def _end(self, place: HelperPlace) -> None:
        """End a helper, if it has to be by force, and remove its directory. Raises ApplyFailed, OSError."""
        if place.alive():
            try:
                HelperClient(place).stop()
            except EngineError:
                pass  # it hangs or has just ended: both are seen below
            if not place.gone(END_SECONDS):
                self._kill(place)
        if not holder.end(place.directory, END_SECONDS):
            raise ApplyFailed("the holder of a volume's files does not end", why=f"see {place.directory}")
        remove_tree(place.directory)
        if self._group:
            self._remove_group(self._group_of(place))

    def _remove_group(self, path: str) -> None:
        """Remove a helper's cgroup, which a process leaves a moment after it has let go of its lock."""
        end = time.monotonic() + _LEAVE_SECONDS
        while True:
            cgroup.remove(path)
            cgroup.remove(self._group)  # after the last one
            if not any(d.exists() for d in cgroup.hierarchy().directories(path)) or time.monotonic() > end:
                return
            time.sleep(0.01)

    def _kill(self, place: HelperPlace) -> None:
        pid = place.pid()
        if pid is not None:
            pidfd = os.pidfd_open(pid)
            try:
                if place.alive() and place.pid() == pid:  # it has the lock, so the number is still its own
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            finally:
                os.close(pidfd)
        if not place.gone(END_SECONDS):
            raise ApplyFailed("a volume's helper does not end", why=f"process {pid} was killed and is still there")
