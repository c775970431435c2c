"""Further processes in a running container, each under a conmon of its own."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from socket import socket as Socket
from typing import Any

from engine.runtime.bundle import Bundle
from engine.runtime.conmon import CREATE_SECONDS, Conmon, Launch, attach, read_line
from engine.runtime.failures import runtime_error
from engine.runtime.processes import Deadline
from engine.spec.errors import Internal


@dataclass(slots=True)
class ExecProcess:
    """A started exec. `fileno()` is readable when it has ended; `wait` then gives its exit code; `close` releases
    everything.

    `socket` is the attach socket (see `conmon.attach`), None when detached.
    """

    bundle: Bundle
    pid: int
    socket: Socket | None
    _sync: int
    _command: str
    _code: int | None = None

    def fileno(self) -> int:
        """The pipe on which the exit code comes."""
        return self._sync

    def wait(self, seconds: float | None = None) -> int:
        """The exit code. Raises DeadlineExceeded after `seconds`, Internal when the monitor was killed."""
        if self._code is None:
            deadline = Deadline(seconds if seconds is not None else 10.0**9)
            line = read_line(self._sync, deadline, f"exec {self.bundle.id[:12]} has not ended")
            if not line:
                raise Internal(
                    f"the exit code of exec {self.bundle.id[:12]} is not known",
                    why="its monitor ended without telling it",
                )
            report = json.loads(line)
            if int(report["data"]) < 0:
                raise runtime_error(
                    f"exec {self.bundle.id[:12]} failed", str(report.get("message", "")), command=self._command
                )
            self._code = int(report["data"])
        return self._code

    def close(self) -> None:
        """Close the descriptors (also of `socket`, unless detached from here with `take_socket`) and remove the
        exec's directory.
        """
        if self.socket is not None:
            self.socket.close()
            self.socket = None
        if self._sync >= 0:
            os.close(self._sync)
            self._sync = -1
        self.bundle.remove()

    def take_socket(self) -> Socket:
        """Hand over the attach socket; the receiver closes it. Raises Internal when there is none."""
        if self.socket is None:
            raise Internal(f"exec {self.bundle.id[:12]} has no attach socket")
        taken, self.socket = self.socket, None
        return taken


def start_exec(
    conmon: Conmon,
    container: Bundle,
    exec_id: str,
    process: Mapping[str, Any],
    *,
    stdin: bool = False,
    attached: bool = True,
    seconds: float = CREATE_SECONDS,
) -> ExecProcess:
    """Run `process` (an OCI process object, see `exec_process`) in a running container.

    The attach socket is connected before the process starts, so that no output is lost. Raises CommandNotFound,
    CommandNotExecutable, Conflict when the container does not run or is paused, DeadlineExceeded; then nothing is
    left.
    """
    bundle = container.exec_bundle(exec_id)
    what = f"cannot exec in container {container.id[:12]}"
    bundle.create(json.dumps(process))
    connection = None
    try:
        arguments = conmon.arguments(bundle, container.id, tty=bool(process["terminal"]), stdin=stdin)
        # Its own exit directory: in a shared one conmon writes a file with the name of the *container*, a false
        # "container exited".
        arguments += ["-l", "none", "--exit-dir", str(bundle.persist), "-e", "--exec-process-spec", str(bundle.config)]
        if attached:
            arguments.append("--exec-attach")
        command = str(process["args"][0])
        with Launch(conmon, bundle, arguments, what=what, seconds=seconds, attach=attached) as launch:
            launch.go()
            if attached:
                if launch.read(launch.attach) is None:
                    raise Internal(what, why="conmon ended before it could be attached to")
                connection = attach(bundle)
                launch.signal()
            pid = launch.pid(command)
            return ExecProcess(bundle, pid, connection, launch.keep_sync(), command)
    except BaseException:
        if connection is not None:
            connection.close()
        bundle.remove()
        raise
