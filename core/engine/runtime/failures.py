"""What the OCI runtimes say when they fail, turned into our error kinds in docker's words.

The docker client derives its exit codes from the words: 127 for "executable file not found" or "no such file or
directory", 126 for "permission denied" or "is a directory", else 125 (docker/cli, cli/command/container/run.go). The
messages matched here are those of crun 1.8 and runc 1.1; the texts in the unit tests were taken from them.
"""

from __future__ import annotations

import json
import re

from engine.spec.errors import Conflict, EngineError, Internal, InvalidParameter, NotFound


class CommandNotFound(InvalidParameter):
    """The container's command does not exist: exit code 127."""

    kind = "command-not-found"
    exit_code = 127


class CommandNotExecutable(InvalidParameter):
    """The container's command exists and cannot be executed: exit code 126."""

    kind = "command-not-executable"
    exit_code = 126


_LEVEL = re.compile(r"level=\w+ msg=(\"(?:[^\"\\]|\\.)*\")")

_WRONG_STATE = (
    "not running",
    "already running",
    "paused",
    "already exists",
    "already finished",
    "process not found",
    "stopped",
    "no such process",
    "/exec.fifo",
)


_REFUSED_LIMIT = re.compile(r"\bwrit(e|ing)\b.*(invalid argument|result out of range)")
"""The kernel refuses the value of a control file of a cgroup: EINVAL, ERANGE."""


def runtime_error(
    what: str,
    message: str,
    *,
    command: str = "",
    default: type[EngineError] = Internal,
    conflict: type[EngineError] = Conflict,
) -> EngineError:
    """The error for a runtime's message; `command` is the container's argv[0], where one was to be executed."""
    text = plain_message(message)
    lower = text.lower()
    if command:
        classified = _command_error(what, lower, command)
        if classified is not None:
            return classified
    if "does not exist" in lower or (
        "no such file" in lower and ("/status`" in lower or "cannot open directory" in lower)
    ):
        return NotFound(what, why=text)
    if any(part in lower for part in _WRONG_STATE):
        return conflict(what, why=text)
    if _REFUSED_LIMIT.search(lower):
        return InvalidParameter(what, why=text, hint="The kernel refuses this value of a limit")
    return default(what, why=text or "the OCI runtime gave no reason")


def plain_message(message: str) -> str:
    """The runtime's words without time stamps, log levels and JSON wrapping; several lines become one."""
    lines = []
    for raw in message.strip().splitlines():
        line = raw.strip()
        match = _LEVEL.search(line)
        if match:
            line = json.loads(match.group(1))
        elif line.startswith("{"):
            try:
                line = str(json.loads(line).get("msg", line))
            except ValueError:
                pass
        lines.append(line)
    return "; ".join(dict.fromkeys(line for line in lines if line))


def _command_error(what: str, lower: str, command: str) -> EngineError | None:
    quoted = f'exec: "{command}"'
    named = command.lower() in lower
    if "executable file" in lower and "not found" in lower:
        return CommandNotFound(what, why=f"{quoted}: executable file not found in $PATH")
    if named and "no such file or directory" in lower and "exec" in lower:
        return CommandNotFound(what, why=f"{quoted}: stat {command}: no such file or directory")
    if named and "is a directory" in lower:
        return CommandNotExecutable(what, why=f"{quoted}: is a directory")
    if "exec" in lower and ("permission denied" in lower or "operation not permitted" in lower):
        return CommandNotExecutable(what, why=f"{quoted}: permission denied")
    if "exec" in lower and "exec format error" in lower:
        return CommandNotExecutable(what, why=f"{quoted}: exec format error: permission denied")
    return None
