"""A container's life: start, end, and what a new daemon makes of those that it finds.

The order at start is namespace, networks, root file system, volumes, monitor, process; the end unwinds it in reverse. A
start that fails or is interrupted leaves nothing: what is not recorded as running after a restart is unwound as well.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Collection
from concurrent.futures import Future
from contextlib import ExitStack

from engine.alone import alone
from engine.container.attachments import Attachments
from engine.container.environment import Environment
from engine.container.monitor import ExitMonitor
from engine.container.record import LOST, Container, ContainerState
from engine.container.restart import RestartTimers
from engine.container.store import ContainerStore
from engine.container.times import now
from engine.container.waiters import ExitResult, Waiters
from engine.events import EventBus
from engine.runtime.conmon import Conmon, exit_status
from engine.spec.errors import Conflict, EngineError, Locked, NotFound, Unavailable

log = logging.getLogger(__name__)


class Lifecycle:
    """Starts containers, handles their end, and adopts those that outlived a daemon."""

    def __init__(
        self,
        store: ContainerStore,
        environment: Environment,
        conmon: Conmon,
        events: EventBus,
        remove: Callable[[Container], None],
    ) -> None:
        """`remove` deletes an ended container (--rm); the caller holds its lock."""
        self._store = store
        self._environment = environment
        self._conmon = conmon
        self._events = events
        self._remove = remove
        self._monitor = ExitMonitor()
        self._restarts = RestartTimers()
        self._starting: dict[str, bool] = {}
        """By id of a container whose process does not run yet: whether its start was given up."""
        self._starting_lock = threading.Lock()
        self.attachments = Attachments(conmon)
        self.waiters = Waiters()

    def start(self, container: Container, *, by_hand: bool = True) -> bool:
        """Start a container; False if it runs already.

        Raises Conflict when it is paused or being removed, and whatever keeps it from starting; then nothing is left
        but the container as it was, with the error in its state.
        """
        with self._store.lock(container):
            state = container.state
            if state.status == "paused":
                raise Conflict("cannot start a paused container, try unpause instead")
            if state.running:
                return False
            if fault := self._store.fault(container):
                raise Conflict(
                    f"container {container.name} cannot be started: its record cannot be read",
                    why=fault,
                    hint=f"It can be removed: engine rm {container.name}.",
                )
            if state.status in ("removing", "dead") or not self._store.exists(container):
                raise Conflict(f"container {container.short_id} is marked for removal and cannot be started")
            self._restarts.cancel(container.id)
            with self._starting_lock:
                self._starting[container.id] = False
            try:
                self._launch(container, by_hand=by_hand)
            except EngineError as err:
                self._failed(container, err)
                if container.host_config.auto_remove:
                    self._remove(container)
                raise
            finally:
                self._no_longer_starting(container)
            self._events.emit("container", "start", container.id, container.attributes())
            self._watch(container)
        return True

    def _launch(self, container: Container, *, by_hand: bool) -> None:
        """Make everything, start the process and record it; a failure of any of them leaves nothing."""
        self._conmon.warm_up()
        bundle = self._conmon.bundle(container.id)
        before = container.state.model_copy()
        with ExitStack() as copies, ExitStack() as undo:
            config = self._environment.prepare(container, undo)
            pid = self._conmon.create(
                bundle,
                config,
                tty=container.config.tty,
                open_stdin=container.config.open_stdin,
                stdin_once=container.config.stdin_once,
                log_path=self._environment.log_path(container),
                pass_fds=self._environment.descriptors(container, copies),
            )
            undo.callback(self._conmon.delete, bundle, force=True)
            self.attachments.connect(container)
            if self._no_longer_starting(container):
                raise Conflict(f"the start of container {container.name} was given up")
            self._conmon.runtime.start(container.id)
            undo.callback(setattr, container, "state", before)
            container.state = ContainerState(
                status="running", pid=pid, started_at=now(), restart_count=0 if by_hand else before.restart_count
            )
            self._store.save(container)
            undo.pop_all()

    def _no_longer_starting(self, container: Container) -> bool:
        """End the time in which a start can be given up; return whether it was."""
        with self._starting_lock:
            return self._starting.pop(container.id, False)

    def give_up_start(self, container: Container) -> bool:
        """Let a start that is under way fail before the process runs; False if none is.

        For who does not want to wait for the container's lock, which a start holds as long as a mount takes.
        """
        with self._starting_lock:
            if container.id not in self._starting:
                return False
            self._starting[container.id] = True
            return True

    def _failed(self, container: Container, err: EngineError) -> None:
        state = container.state
        state.error = str(err)
        state.exit_code = {"command-not-found": 127, "command-not-executable": 126}.get(err.kind, 128)
        if state.status == "restarting":
            state.status = "exited"
        self.note(container)
        self.attachments.fail(container.id, err)

    def _watch(self, container: Container) -> None:
        pidfd = self._conmon.pidfd(self._conmon.bundle(container.id))
        if pidfd is None:  # it has ended already
            read, write = os.pipe()
            os.close(write)
            pidfd = read
        started_at = container.state.started_at
        self._monitor.watch(pidfd, lambda: self.ended(container, started_at))

    def ended(self, container: Container, started_at: str) -> None:
        """Handle the end of the run that began at `started_at`."""
        with self._store.lock(container):
            state = container.state
            if not state.running or state.started_at != started_at:
                return
            code, oom_killed = self._exit_of(container)
            state.status, state.pid, state.exit_code, state.oom_killed = "exited", 0, code, oom_killed
            state.finished_at = now()
            attributes = {**container.attributes(), "exitCode": str(code)}
            again = self._restarts.delay(container)
            if again is not None:
                state.status = "restarting"
                state.restart_count += 1
            remove = container.host_config.auto_remove and again is None
            if not remove:
                self.note(container)
            if oom_killed:
                self._events.emit("container", "oom", container.id, container.attributes())
            self._events.emit("container", "die", container.id, attributes)
            self.waiters.ended(container.id, ExitResult(code))
            self.unwind(container)
            if remove:
                self._remove(container)
            elif again is not None:
                self._restarts.set(container.id, again, lambda: self._start_again(container))

    def note(self, container: Container) -> None:
        """Save what the next daemon would find out by itself: a full disk must not keep an end from being handled."""
        try:
            self._store.save(container)
        except EngineError as err:
            log.error("container %s: %s", container.name, err)

    def _exit_of(self, container: Container) -> tuple[int, bool]:
        status = exit_status(self._conmon.bundle(container.id))
        if status is None:
            log.warning("the exit code of container %s is not known: its monitor was killed", container.short_id)
            return LOST, False
        return status.code, status.oom_killed

    def _start_again(self, container: Container) -> None:
        """Start a container as its restart policy says, later if something that it needs is not there yet.

        After a reboot a parent link, a DHCP server or a remote volume may be a while longer in coming than the daemon.
        """
        with self._store.lock(container):
            try:
                self.start(container, by_hand=False)
            except EngineError as err:
                log.warning("container %s could not be started again: %s", container.name, err)
                waits = isinstance(err, Unavailable) and not isinstance(err, Locked)  # for a key: `start_waiting`
                again = self._restarts.delay_after_failure(container) if waits else None
                if again is not None and container.state.status == "exited":
                    container.state.status = "restarting"
                    self.note(container)
                    self._restarts.set(container.id, again, lambda: self._start_again(container))

    def unwind(self, container: Container) -> None:
        """Take away everything that a run made. What cannot be is logged, and found again by the collector."""
        for step in (self._delete_process, self._environment.release):
            try:
                step(container)
            except NotFound:
                continue
            except EngineError as err:
                log.warning("cleaning up after container %s: %s", container.name, err)

    def _delete_process(self, container: Container) -> None:
        self._conmon.delete(self._conmon.bundle(container.id), force=True)

    def give_up_restart(self, container: Container) -> None:
        """Do not start a container again that waits for it."""
        self._restarts.cancel(container.id)
        if container.state.status == "restarting":
            container.state.status = "exited"
            self._store.save(container)

    def when_ended(self, container: Container) -> Future[ExitResult]:
        """Return the future of a running container's end."""
        return self.waiters.wait(container, "next-exit")

    def restore(self) -> list[str]:
        """After a start of the daemon: end what no record says to run. Return the ids of those that do run."""
        running = [c.id for c in self._store.all() if c.state.running]
        self._environment.end_leftovers(self._conmon, running)
        living: list[str] = []
        for id in running:
            pidfd = self._conmon.pidfd(self._conmon.bundle(id))
            if pidfd is not None:
                os.close(pidfd)
                living.append(id)
        return living

    def resume(self, living: list[str]) -> None:
        """After the managers were restored: watch the living, handle ends that nobody saw, start what restarts."""
        for container in self._store.all():
            with alone(f"container {container.name}"):
                if container.id in living:
                    self._watch(container)
                else:
                    self._resume_ended(container)

    def _resume_ended(self, container: Container) -> None:
        was_running, state = container.state.running, container.state
        if was_running:
            self.ended(container, state.started_at)
        if not self._store.exists(container):
            return
        if state.status == "removing":
            self._remove(container)
        elif state.status == "restarting" or (not was_running and self._restarts.at_boot(container)):
            threading.Thread(target=self._start_again, args=(container,), name="restart", daemon=True).start()

    def start_waiting(self, ids: Collection[str]) -> list[str]:
        """Start, of these, the containers whose restart policy wants them to run and whose last start failed.

        It is done in the background; their names are returned.
        """
        waiting = [c for c in self._store.all() if c.id in ids and c.state.error and self._restarts.at_boot(c)]
        for container in waiting:
            threading.Thread(target=self._start_again, args=(container,), name="restart", daemon=True).start()
        return [container.name for container in waiting]

    def close(self) -> None:
        """Stop watching; the containers go on."""
        self._restarts.close()
        self._monitor.close()
