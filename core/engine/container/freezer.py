"""Pauses containers: their cgroups are frozen and thawed as their records say.

A pause is written down before the cgroup is frozen, and its end after the cgroup is thawed: whatever is interrupted, a
container that is frozen is recorded as paused, and the next daemon makes its freezer what the record says (`restore`).
What is paused for the time of some work names that work, and goes on when the work has ended, or died with the daemon.
"""

from __future__ import annotations

import logging
from collections.abc import Collection

from engine.alone import alone
from engine.container.lifecycle import Lifecycle
from engine.container.record import Container
from engine.container.store import ContainerStore
from engine.events import EventBus
from engine.reconcile.applier import Difference
from engine.reconcile.convergence import Report
from engine.runtime import cgroup
from engine.runtime.conmon import Conmon
from engine.spec.errors import Conflict, EngineError

log = logging.getLogger(__name__)


class Freezer:
    """Pauses the containers of one engine, and compares what is frozen with what is recorded as paused."""

    def __init__(self, store: ContainerStore, lifecycle: Lifecycle, conmon: Conmon, events: EventBus) -> None:
        self._store = store
        self._lifecycle = lifecycle
        self._conmon = conmon
        self._events = events

    def pause(self, container: Container, work: str = "") -> None:
        """Freeze a container, for the time of some work if it is named.

        Raises Conflict when it is paused already or does not run, and what the runtime says; then it is not paused.
        """
        with self._store.lock(container):
            state = container.state
            if state.status == "paused":
                raise Conflict(f"Container {container.id} is already paused")
            if not state.running:
                raise Conflict(f"Container {container.id} is not running")
            state.status, state.paused_for = "paused", work
            try:
                self._store.save(container)
                self._settle(container)
            except EngineError:
                self.thaw(container)
                raise
        self._emit(container, "pause")

    def unpause(self, container: Container) -> None:
        """Thaw a container. Raises Conflict when it is not paused, and what the runtime says; then it is paused."""
        with self._store.lock(container):
            if container.state.status != "paused":
                raise Conflict(f"Container {container.id} is not paused")
            self._thaw(container)
            self._store.save(container)
        self._emit(container, "unpause")

    def end_pause(self, container: Container, work: str) -> None:
        """Thaw a container that is paused for some work; nothing happens if somebody ended that pause before."""
        with self._store.lock(container):
            if container.state.status != "paused" or container.state.paused_for != work:
                return
            self.thaw(container)
        self._emit(container, "unpause")

    def thaw(self, container: Container) -> None:
        """Let a container that runs go on, also one that somebody else froze. The caller holds its lock.

        Not even a full disk prevents it: the next daemon thaws what was paused for some work, or is to be killed.
        """
        if container.state.status == "paused" or self._differs(container):
            self._thaw(container)
            self._lifecycle.note(container)

    def restore(self, living: Collection[str], working: Collection[str]) -> None:
        """After a start of the daemon: freeze and thaw what lives as recorded; `working` is the work that goes on."""
        for container in self._store.all():
            if container.id not in living:
                continue
            with alone(f"container {container.name}"):
                work = container.state.paused_for
                if work and work not in working:
                    self.end_pause(container, work)
                self._repair(container)

    def diff(self) -> list[Difference]:
        """Return where the freezer is not as recorded; nothing is changed."""
        found: list[Difference] = []
        for container in self._store.all():
            if self._differs(container):
                with self._store.lock(container):  # somebody may just be about it
                    found += self._difference(container)
        return found

    def repair(self) -> Report:
        """Freeze and thaw as recorded."""
        whole = Report()
        for container in self._store.all():
            report = self._repair(container)
            whole = Report(whole.fixed + report.fixed, whole.left + report.left, whole.errors + report.errors)
        return whole

    def _repair(self, container: Container) -> Report:
        if not self._differs(container):
            return Report()
        with self._store.lock(container):
            found = tuple(self._difference(container))
            try:
                self._settle(container)
            except EngineError as err:
                log.warning("not repaired: container %s: %s", container.name, err)
                return Report(left=found, errors=(err,))
        for difference in found:
            log.info("repaired: container %s: %s", container.name, difference)
        return Report(fixed=found)

    def _difference(self, container: Container) -> list[Difference]:
        if not self._differs(container):
            return []
        wanted = container.state.status == "paused"
        key, owner = ("freezer", container.short_id), f"container:{container.id}"
        return [Difference(key, "differs", {"frozen": (wanted, not wanted)}, owner)]

    def _thaw(self, container: Container) -> None:
        state = container.state
        work, state.status, state.paused_for = state.paused_for, "running", ""
        try:
            self._settle(container)
        except EngineError:
            state.status, state.paused_for = "paused", work
            raise

    def _settle(self, container: Container) -> None:
        if self._differs(container):
            runtime = self._conmon.runtime
            (runtime.pause if container.state.status == "paused" else runtime.resume)(container.id)

    def _differs(self, container: Container) -> bool:
        return container.state.running and self._is_frozen(container) is (container.state.status != "paused")

    def _is_frozen(self, container: Container) -> bool | None:
        try:
            return cgroup.frozen(self._conmon.bundle(container.id).cgroup())
        except FileNotFoundError:  # it has just ended
            return None

    def _emit(self, container: Container, action: str) -> None:
        self._events.emit("container", action, container.id, container.attributes())
