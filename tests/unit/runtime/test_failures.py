"""The runtimes' words, as crun 1.8.1 and runc 1.1.5 said them, and what they become."""

from __future__ import annotations

import pytest

from engine.runtime.failures import CommandNotExecutable, CommandNotFound, plain_message, runtime_error
from engine.spec.errors import Conflict, EngineError, Internal, InvalidParameter, NotFound

RUNC = 'time="2026-11-24T13:58:40Z" level=error msg="{}"'
RUNC_CREATE = "runc create failed: unable to start container process: "


@pytest.mark.parametrize(
    ("command", "message", "kind", "docker_words"),
    [
        (
            "nosuch",
            "executable file `nosuch` not found in $PATH: No such file or directory",
            CommandNotFound,
            "not found in $PATH",
        ),
        (
            "nosuch",
            RUNC.format(RUNC_CREATE + 'exec: \\"nosuch\\": executable file not found in $PATH'),
            CommandNotFound,
            "executable file not found",
        ),
        (
            "/no/such",
            RUNC.format(RUNC_CREATE + 'exec: \\"/no/such\\": stat /no/such: no such file or directory'),
            CommandNotFound,
            "no such file or directory",
        ),
        ("/x", "open executable: Permission denied", CommandNotExecutable, "permission denied"),
        ("/etc", "open executable: Operation not permitted", CommandNotExecutable, "permission denied"),
        (
            "/x",
            RUNC.format(RUNC_CREATE + 'exec: \\"/x\\": permission denied'),
            CommandNotExecutable,
            "permission denied",
        ),
    ],
)
def test_commands(command: str, message: str, kind: type[EngineError], docker_words: str) -> None:
    error = runtime_error("cannot create", message, command=command)
    assert type(error) is kind
    assert docker_words in error.why
    assert command in error.why


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("error opening file `/run/x/crun/zz/status`: No such file or directory", NotFound),
        ("cannot open directory '/run/x/crun/zz': No such file or directory", NotFound),
        (RUNC.format("container does not exist"), NotFound),
        ("container `q` already exists", Conflict),
        ("writing file `pids.max`: Invalid argument", InvalidParameter),
        (RUNC.format('failed to write \\"9\\": write /sys/fs/cgroup/q/pids.max: invalid argument'), InvalidParameter),
        ("cannot open `/run/x/crun/q/exec.fifo`: No such file or directory", Conflict),
        ("the container `q` is not in `created` or `stopped` state", Conflict),
        ("the container `q` is paused", Conflict),
        ("the container `q` is not running", Conflict),
        (RUNC.format("cannot start an already running container"), Conflict),
        (RUNC.format("container not running"), Conflict),
        (RUNC.format("error setting rlimit type 7: operation not permitted"), Internal),
        ("", Internal),
    ],
)
def test_states(message: str, kind: type[EngineError]) -> None:
    error = runtime_error("cannot start", message)
    assert type(error) is kind
    assert error.why


def test_mount_source_is_not_the_command() -> None:
    error = runtime_error("x", "error stat'ing file `/data`: No such file or directory", command="sh")
    assert type(error) is Internal
    assert "/data" in error.why


def test_plain_message() -> None:
    assert plain_message(RUNC.format('a \\"b\\"')) == 'a "b"'
    assert plain_message('{"level": "error", "msg": "m"}\n{broken') == "m; {broken"
    assert plain_message("same\nsame\n") == "same"
