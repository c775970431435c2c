"""Further processes in running containers."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from pydantic import Field

from engine.container.config import DockerModel, Words
from engine.container.monitor import ExitMonitor
from engine.container.naming import new_id
from engine.container.record import Container
from engine.events import EventBus
from engine.runtime.conmon import Conmon, resize
from engine.runtime.execs import ExecProcess, start_exec
from engine.runtime.model import ExecSpec
from engine.runtime.oci_spec import exec_process
from engine.runtime.processes import is_alive
from engine.spec.errors import Conflict, EngineError, InvalidParameter, NotFound

KEPT_SECONDS = 300.0
"""How long an exec that has ended can be asked for its exit code (Docker forgets it after five to ten minutes)."""
KEPT = 1000
"""How many execs that do not run (have ended, or were never started) are kept at most: the oldest go first."""


class ExecConfig(DockerModel):
    """The body of POST /containers/ID/exec."""

    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    detach_keys: str = ""
    tty: bool = False
    env: list[str] = Field(default_factory=list)
    cmd: Words = Field(default_factory=list)
    console_size: tuple[int, int] | None = None
    privileged: bool = False
    user: str = ""
    working_dir: str = ""


@dataclass
class Exec:
    """One exec: prepared, running or ended. Execs live no longer than the daemon, as Docker's do."""

    id: str
    container: Container
    config: ExecConfig
    process: ExecProcess | None = None
    started: bool = False
    pid: int = 0
    exit_code: int | None = None
    size: tuple[int, int] | None = None
    since: float = 0.0
    """When it was prepared, or has ended (monotonic seconds)."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def running(self) -> bool:
        """Whether it has a process."""
        return self.process is not None and self.exit_code is None

    def end(self, exit_code: int) -> None:
        """Note its end."""
        self.exit_code, self.since = exit_code, monotonic()


class Execs:
    """All execs of all containers."""

    def __init__(self, conmon: Conmon, events: EventBus) -> None:
        self._conmon = conmon
        self._events = events
        self._lock = threading.Lock()
        self._execs: dict[str, Exec] = {}
        self._monitor = ExitMonitor()

    def create(self, container: Container, body: dict[str, Any]) -> str:
        """Prepare an exec and return its id.

        Raises InvalidParameter without a command, Conflict unless the container runs.
        """
        config = ExecConfig.parse(body)
        if not config.cmd:
            raise InvalidParameter("No exec command specified")
        _check_running(container)
        exec = Exec(new_id(), container, config, size=config.console_size, since=monotonic())
        with self._lock:
            self._execs[exec.id] = exec
            self._forget_old()
        self._emit(exec, f"exec_create: {' '.join(config.cmd)}")
        return exec.id

    def start(self, id: str, *, detach: bool, console_size: tuple[int, int] | None) -> socket.socket | None:
        """Run an exec; return its attach socket, or None when detached.

        Raises Conflict when it ran before or its container does not run, and what the runtime says of the command.
        """
        exec = self.get(id)
        with exec.lock:
            if exec.started:
                raise Conflict(
                    f"Error: Exec command {id} is already running" if exec.running else f"exec {id} has already run"
                )
            _check_running(exec.container)
            exec.started = True
            size = exec.size or console_size
            spec = ExecSpec(
                args=tuple(exec.config.cmd),
                env=tuple(exec.config.env),
                cwd=exec.config.working_dir,
                user=exec.config.user,
                tty=exec.config.tty,
                console_size=size,
                privileged=exec.config.privileged,
            )
            bundle = self._conmon.bundle(exec.container.id)
            try:
                exec.process = start_exec(
                    self._conmon,
                    bundle,
                    exec.id,
                    exec_process(bundle.read_config(), spec),
                    stdin=exec.config.attach_stdin and not detach,
                    attached=not detach,
                )
            except EngineError as err:
                exec.end({"command-not-found": 127, "command-not-executable": 126}.get(err.kind, 126))
                raise
            exec.pid = exec.process.pid
            if exec.size is not None:  # it may have come while the process was being made
                with contextlib.suppress(EngineError):
                    resize(exec.process.bundle, *exec.size)
            connection = None if detach else exec.process.take_socket()
            self._emit(exec, f"exec_start: {' '.join(exec.config.cmd)}")
            # The monitor closes what it watches, and the process object its own: hence a duplicate.
            self._monitor.watch(os.dup(exec.process.fileno()), lambda: self._ended(exec))
        return connection

    def _ended(self, exec: Exec) -> None:
        with exec.lock:
            process = exec.process
            if process is None or exec.exit_code is not None:
                return
            try:
                exec.end(process.wait(5.0))
            except EngineError:
                exec.end(128 + signal.SIGKILL)
            finally:
                process.close()
        self._events.emit(
            "container",
            "exec_die",
            exec.container.id,
            {**exec.container.attributes(), "execID": exec.id, "exitCode": str(exec.exit_code)},
        )

    def get(self, id: str) -> Exec:
        """Return an exec. Raises NotFound."""
        with self._lock:
            exec = self._execs.get(id)
        if exec is None:
            raise NotFound(f"No such exec instance: {id}")
        return exec

    def resize(self, id: str, height: int, width: int) -> None:
        """Set the size of its terminal; before it runs, of the one it will get."""
        exec = self.get(id)
        exec.size = (height, width)
        if exec.running and exec.process is not None:
            resize(exec.process.bundle, height, width)

    def of(self, container: Container) -> list[str]:
        """Return the ids of a container's execs that run."""
        with self._lock:
            return [e.id for e in self._execs.values() if e.container.id == container.id and e.running]

    def _forget_old(self) -> None:
        """Forget execs that nobody will ask for any more; the caller holds the lock."""
        idle = [e for e in self._execs.values() if not e.running and not e.lock.locked()]  # locked: it is being started
        idle.sort(key=lambda e: e.since, reverse=True)
        oldest = monotonic() - KEPT_SECONDS
        for place, exec in enumerate(idle):
            over = exec.since < oldest if exec.exit_code is not None else not exec.container.state.running
            if over or place >= KEPT:
                del self._execs[exec.id]

    def forget(self, container: Container) -> None:
        """Forget the execs of a container that is removed."""
        with self._lock:
            for id in [e.id for e in self._execs.values() if e.container.id == container.id]:
                del self._execs[id]

    def inspect(self, id: str) -> dict[str, Any]:
        """Return GET /exec/ID/json.

        A client asks for the exit code as soon as the streams have ended, which is a moment before the code is there.
        """
        exec = self.get(id)
        if exec.running and not is_alive(exec.pid):
            self._ended(exec)
        config = exec.config
        return {
            "ID": exec.id,
            "Running": exec.running,
            "ExitCode": exec.exit_code,
            "ProcessConfig": {
                "tty": config.tty,
                "entrypoint": config.cmd[0],
                "arguments": config.cmd[1:],
                "privileged": config.privileged,
                "user": config.user,
            },
            "OpenStdin": config.attach_stdin,
            "OpenStderr": config.attach_stderr,
            "OpenStdout": config.attach_stdout,
            "CanRemove": exec.exit_code is not None,
            "ContainerID": exec.container.id,
            "DetachKeys": config.detach_keys,
            "Pid": exec.pid,
        }

    def close(self) -> None:
        """Stop watching."""
        self._monitor.close()
        with self._lock, contextlib.suppress(OSError):
            for exec in self._execs.values():
                if exec.process is not None and exec.exit_code is None:
                    exec.process.close()

    def _emit(self, exec: Exec, action: str) -> None:
        self._events.emit("container", action, exec.container.id, {**exec.container.attributes(), "execID": exec.id})


def _check_running(container: Container) -> None:
    if container.state.status == "paused":
        raise Conflict(f"Container {container.id} is paused, unpause the container before exec")
    if not container.state.running:
        raise Conflict(f"Container {container.id} is not running")
