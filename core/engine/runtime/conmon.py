"""conmon: the monitor that holds a container's terminal, output, log and exit code, and outlives the daemon.

Protocol (conmon 2.1, `src/conmon.c`): the environment names two pipes. conmon waits for a byte on the start pipe,
forks, runs the OCI runtime, and writes one JSON line to the sync pipe: `{"data": PID}`, or `{"data": -1, "message":
TEXT}`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.directories import CONTAINER_UMASK
from engine.runtime.bundle import Bundle
from engine.runtime.cgroup import hierarchy, own_paths
from engine.runtime.failures import runtime_error
from engine.runtime.oci import OciRuntime
from engine.runtime.processes import Deadline, command_line, kill_family, open_pidfd, read_pid, reap, wait_readable
from engine.spec.errors import EngineError, Internal, NotFound, Unavailable

log = logging.getLogger(__name__)

CREATE_SECONDS = 60.0
_DRAIN_SECONDS = 5.0  # a monitor ends when its container and all that hold its output have ended


@dataclass(frozen=True, slots=True)
class ExitStatus:
    """How a container ended: exit code (128 + signal when killed by one), time in nanoseconds since the epoch, and
    whether for memory.
    """

    code: int
    finished_at_ns: int
    oom_killed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Conmon:
    """Starts containers under a monitor, and finds them again. Without state of its own: everything is in the
    bundle.

    `cgroup` is where monitors go (`/engine-TAG/conmon`), so that neither a limit nor the end of the daemon's own
    cgroup meets them; empty leaves them with the daemon.
    """

    runtime: OciRuntime
    exec_root: Path
    binary: Path = field(default_factory=lambda: find_conmon())
    cgroup: str = ""

    def bundle(self, container_id: str) -> Bundle:
        """The bundle of a container below our exec root."""
        return Bundle.at(self.exec_root, container_id)

    def create(
        self,
        bundle: Bundle,
        config: str,
        *,
        tty: bool = False,
        open_stdin: bool = False,
        stdin_once: bool = False,
        log_path: Path | None = None,
        pass_fds: Sequence[int] = (),
        seconds: float = CREATE_SECONDS,
    ) -> int:
        """Make the bundle and the container, and return the pid of its first process, which waits for
        `OciRuntime.start`.

        `config` is OCI JSON (`oci_config_text`). Without `log_path` nothing is logged. conmon inherits `pass_fds` and
        holds them open as long as the container lives. Raises CommandNotFound or CommandNotExecutable for the
        command, Internal with the runtime's message, DeadlineExceeded; then nothing is left.
        """
        bundle.create(config)
        try:
            arguments = self.arguments(bundle, bundle.id, tty=tty, stdin=open_stdin)
            arguments += ["--persist-dir", str(bundle.persist), "-l", f"k8s-file:{log_path}" if log_path else "none"]
            if open_stdin and (tty or not stdin_once):  # as docker: a terminal stays usable after a detach
                arguments.append("--leave-stdin-open")
            command = json.loads(config)["process"]["args"][0]
            what = f"cannot create container {bundle.id[:12]}"
            with Launch(self, bundle, arguments, what=what, seconds=seconds, fds=pass_fds) as launch:
                launch.go()
                return launch.pid(command)
        except BaseException:
            self._undo(bundle)
            raise

    def delete(self, bundle: Bundle, *, force: bool = False) -> None:
        """Remove a container from the runtime, then its bundle.

        Raises Conflict while it runs, unless `force` (it is killed).
        """
        if force and exit_status(bundle) is None:  # one that has ended needs no further process of 6 ms
            with contextlib.suppress(EngineError):  # a frozen one would not die (cgroup v1)
                self.runtime.resume(bundle.id)
        self.runtime.delete(bundle.id, force=force)
        pidfd = self.pidfd(bundle)
        if pidfd is not None:
            try:
                if not wait_exit(pidfd, _DRAIN_SECONDS):
                    log.warning(
                        "the monitor of the deleted container %s still waits for output: ending it", bundle.id[:12]
                    )
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                    wait_exit(pidfd, _DRAIN_SECONDS)
            finally:
                os.close(pidfd)
        bundle.remove()

    def pidfd(self, bundle: Bundle) -> int | None:
        """A pidfd of the container's monitor, readable when it ends, that is when the container has ended and
        `exit_status` is complete.

        None when there is none (any more). A pid that was given to another process is not taken for it. The caller
        closes it.
        """
        return monitor_pidfd(bundle)

    def warm_up(self) -> None:
        """Begin, in the background, the kernel's grace period that the first move of a process between cgroups
        waits for (4-9 ms).

        To be called when a container is about to be created: then it passes while its network and root file system
        are prepared.
        """
        threading.Thread(target=_touch_cgroup, name="cgroup-warm-up", daemon=True).start()

    def arguments(self, bundle: Bundle, container_id: str, *, tty: bool, stdin: bool) -> list[str]:
        """The part of conmon's command line that containers and execs have in common."""
        program, *wrapping = self.runtime.monitored
        arguments = [str(self.binary), "--api-version", "1", "-c", container_id, "-u", bundle.id, "-n", bundle.id[:12]]
        arguments += [
            "-b",
            str(bundle.path),
            "-p",
            str(bundle.pidfile),
            "-P",
            str(bundle.conmon_pidfile),
            "-r",
            program,
        ]
        arguments += ["--full-attach", "--no-sync-log", "--log-level", "error"]
        for argument in (*wrapping, *self.runtime.global_arguments()):
            arguments += ["--runtime-arg", argument]
        return arguments + ["-t"] * tty + ["-i"] * stdin

    def _undo(self, bundle: Bundle) -> None:
        """After a failed create: remove what was made; the first error is the one to report."""
        if (self.runtime.root / bundle.id).exists():
            try:
                self.runtime.delete(bundle.id, force=True)
            except EngineError as err:
                log.warning("could not remove the remains of container %s: %s", bundle.id[:12], err)
        bundle.remove()


class Launch:
    """One start of conmon: the pipes, the move to its cgroup, and the end of all of it on failure."""

    def __init__(
        self,
        conmon: Conmon,
        bundle: Bundle,
        arguments: Sequence[str],
        *,
        what: str,
        seconds: float,
        attach: bool = False,
        fds: Sequence[int] = (),
    ) -> None:
        self._what = what
        self._deadline = Deadline(seconds)
        self._bundle = bundle
        self._cgroup = conmon.cgroup
        self.sync, sync_write = os.pipe()
        start_read, self._start = os.pipe()
        self.attach, attach_write = os.pipe() if attach else (-1, -1)
        theirs = [fd for fd in (sync_write, start_read, attach_write) if fd >= 0]
        environment = _environment(sync_write, start_read, attach_write)
        try:
            self._process = subprocess.Popen(
                arguments, env=environment, pass_fds=[*theirs, *fds], start_new_session=True, cwd="/",
                umask=CONTAINER_UMASK,
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
        except OSError as err:
            self._close()
            raise Unavailable(
                what, why=f"cannot run {arguments[0]}: {err.strerror}", hint="`apt install conmon`"
            ) from err
        finally:
            for fd in theirs:
                os.close(fd)

    def __enter__(self) -> Launch:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._kill()
        self._close()

    def _kill(self) -> None:
        if self._process.poll() is None:
            kill_family(self._process.pid)
            self._process.wait()
        pidfd = monitor_pidfd(self._bundle)
        if pidfd is not None:
            try:
                kill_family(read_pid(self._bundle.conmon_pidfile) or self._process.pid)
                wait_exit(pidfd, _DRAIN_SECONDS)
            finally:
                os.close(pidfd)

    def keep_sync(self) -> int:
        """Take over the sync pipe, on which the exit code of an exec comes later."""
        fd, self.sync = self.sync, -1
        return fd

    def go(self) -> None:
        """Let conmon run the OCI runtime, and wait until it has put itself in the background."""
        if self._cgroup:
            move_to_cgroup(self._process.pid, self._cgroup)
        self.signal()
        try:
            self._process.wait(self._deadline.left())
        except subprocess.TimeoutExpired as err:
            raise self._deadline.error(self._what) from err

    def signal(self) -> None:
        """Write a byte to the start pipe.

        An attached exec waits for a second one, which says that its client has connected.
        """
        with contextlib.suppress(BrokenPipeError):  # it ended already; `pid` says why
            os.write(self._start, b"\0")

    def pid(self, command: str) -> int:
        """The pid that conmon reports; raises what the runtime said instead."""
        report = self.read(self.sync)
        if report is None:
            raise Internal(self._what, why=f"conmon ended with code {self._process.returncode} and reported nothing")
        if int(report["data"]) <= 0:
            raise runtime_error(self._what, str(report.get("message", "")), command=command)
        return int(report["data"])

    def read(self, fd: int) -> dict[str, Any] | None:
        """The next JSON line of a pipe; None when it was closed. Raises DeadlineExceeded."""
        line = read_line(fd, self._deadline, self._what)
        return dict(json.loads(line)) if line else None

    def _close(self) -> None:
        for fd in (self.sync, self._start, self.attach):
            if fd >= 0:
                os.close(fd)


def read_line(fd: int, deadline: Deadline, what: str) -> bytes:
    """One line, byte by byte so that nothing of the next is consumed; empty at the end of file."""
    line = b""
    while not line.endswith(b"\n"):
        if not wait_readable(fd, deadline.left()):
            raise deadline.error(what)
        byte = os.read(fd, 1)
        if not byte:
            break
        line += byte
    return line


def attach(bundle: Bundle) -> socket.socket:
    """Connect to the streams of a container or exec: a SOCK_SEQPACKET socket.

    Each message received is one stream byte (2 stdout, 3 stderr; with a terminal always 2) and at most 8192 bytes of
    data. Send at most 8192 raw bytes at a time for stdin; `shutdown(SHUT_WR)` ends it. Raises NotFound when no
    monitor listens.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    try:
        # The path may be longer than the 108 bytes of sockaddr_un.
        directory = os.open(bundle.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            connection.connect(f"/proc/self/fd/{directory}/attach")
        finally:
            os.close(directory)
    except (FileNotFoundError, ConnectionRefusedError) as err:
        connection.close()
        raise NotFound(f"container {bundle.id[:12]} cannot be attached to", why="it is not running") from err
    except BaseException:
        connection.close()
        raise
    return connection


def resize(bundle: Bundle, rows: int, columns: int) -> None:
    """Set the window size of a container or exec with a terminal. Raises NotFound when no monitor listens."""
    try:
        fd = os.open(bundle.control, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as err:  # ENXIO: nobody reads the fifo any more
        raise NotFound(f"cannot resize the terminal of {bundle.id[:12]}", why="it is not running") from err
    try:
        os.write(fd, f"1 {rows} {columns}\n".encode())
    finally:
        os.close(fd)


def monitor_pidfd(bundle: Bundle) -> int | None:
    """See `Conmon.pidfd`."""
    pid = read_pid(bundle.conmon_pidfile)
    pidfd = None if pid is None else open_pidfd(pid)
    if pidfd is None or pid is None:
        return None
    # The pidfd is held while the command line is read, so both are of one process or that is gone.
    if _is_monitor(pid, bundle):
        return pidfd
    os.close(pidfd)
    return None


def wait_exit(pidfd: int, seconds: float | None) -> bool:
    """Wait for the process of `pidfd` to end, without end when `seconds` is None; False at the deadline."""
    if not wait_readable(pidfd, seconds):
        return False
    reap(pidfd)
    return True


def exit_status(bundle: Bundle) -> ExitStatus | None:
    """How the container ended; None while it runs, or when its monitor was killed before it could tell."""
    file = bundle.persist / "exit"
    try:
        text = file.read_text()
        finished = file.stat().st_mtime_ns
    except FileNotFoundError:
        return None
    if not text.strip():  # the file exists before its digits do
        return None
    return ExitStatus(code=int(text), finished_at_ns=finished, oom_killed=(bundle.persist / "oom").exists())


def move_to_cgroup(pid: int, path: str) -> None:
    """Move a process out of our own cgroup, wherever that is not the root: best effort, since some hosts forbid
    it.
    """
    for controller, own in own_paths().items():
        if own == "/" or controller not in ("", "memory", "pids", "name=systemd"):
            continue
        directory = hierarchy().directory(controller, path)
        if directory is None:
            continue
        try:
            directory.mkdir(parents=True, exist_ok=True)
            (directory / "cgroup.procs").write_text(str(pid))
        except OSError as err:
            log.info("a monitor stays in the daemon's %s cgroup: %s", controller or "unified", err)


def find_conmon() -> Path:
    """Path of conmon. Raises Unavailable."""
    found = shutil.which("conmon") or shutil.which(
        "conmon", path="/usr/libexec/podman:/usr/lib/podman:/usr/local/libexec/podman"
    )
    if found is None:
        raise Unavailable("containers need conmon", why="it is not installed", hint="`apt install conmon`")
    return Path(found)


def _environment(sync: int, start: int, attach_pipe: int) -> Mapping[str, str]:
    environment = {name: os.environ[name] for name in ("PATH", "XDG_RUNTIME_DIR") if name in os.environ}
    environment |= {"_OCI_SYNCPIPE": str(sync), "_OCI_STARTPIPE": str(start)}
    if attach_pipe >= 0:
        environment["_OCI_ATTACHPIPE"] = str(attach_pipe)
    return environment


def _is_monitor(pid: int, bundle: Bundle) -> bool:
    arguments = command_line(pid)
    return len(arguments) > 1 and str(bundle.path) in arguments and bundle.id in arguments


def _touch_cgroup() -> None:
    """Move this process to where it is: changes nothing, and takes the kernel's lock for moves."""
    for controller in ("", "pids", "memory"):
        own = own_paths().get(controller)
        directory = None if own is None else hierarchy().directory(controller, own)
        if directory is not None:
            with contextlib.suppress(OSError):  # only a matter of speed
                (directory / "cgroup.procs").write_text(str(os.getpid()))
            return
