"""A process in which checks run, each in a fork of its own.

What a driver does in a check (hang, crash, leave a mount, change a module) ends with the fork. The lab imports
everything once, so that a check costs milliseconds. It is single-threaded: forking it is safe, forking pytest might not
be.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from engine_sdk import EngineError
from engine_sdk.testing.checks import Check, Checks, NotDeclared, NotRun

KINDS = ("network", "ipam", "volume", "storage")
_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
_GRACE = 15.0
"""Seconds that the lab has, beyond the check's own deadline, to start and to answer."""


class Outcome(NamedTuple):
    """What came of a check: passed, failed, "not declared" or "not run", and why."""

    outcome: str
    message: str = ""


def checks_of(kind: str) -> Checks:
    """Return the checks of one kind of driver."""
    checks: Checks = importlib.import_module(f"engine_sdk.testing.{kind}_checks").CHECKS
    return checks


class Lab:
    """The lab as the test process sees it. `close` ends it."""

    def __init__(self, kind: str, driver: str, options: Mapping[str, str]) -> None:
        self.kind = kind
        argument = json.dumps({"kind": kind, "driver": driver, "options": dict(options)})
        self._process = subprocess.Popen(
            [sys.executable, "-m", "engine_sdk.testing.lab", argument],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "PYTHONHASHSEED": "0"},
        )

    def run(self, check: Check, deadline: float | None = None) -> Outcome:
        """Run one check, in its own time or the given one, and return what came of it."""
        deadline = deadline or check.deadline
        process = self._process
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("the lab has no pipes")
        process.stdin.write(json.dumps({"check": check.name, "deadline": deadline}).encode() + b"\n")
        process.stdin.flush()
        answer = _read_line(process.stdout.fileno(), deadline + _GRACE)
        if answer is None:
            return Outcome("failed", f"the lab did not answer (exit status {process.poll()})")
        return Outcome(**json.loads(answer))

    def close(self) -> None:
        """End the lab: it stops when its input ends."""
        if self._process.stdin:
            self._process.stdin.close()
        try:
            self._process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()


def _read_line(descriptor: int, seconds: float) -> bytes | None:
    """Read up to the end of a line; None if the writer went away or did not write one in time."""
    end = time.monotonic() + seconds
    data = b""
    while not data.endswith(b"\n"):
        if not select.select([descriptor], [], [], max(0.0, end - time.monotonic()))[0]:
            return None
        more = os.read(descriptor, 1 << 16)
        if not more:
            return None
        data += more
    return data


def _try(check: Check, subject: Any, directory: Path) -> Outcome:
    """Run a check in this process, which exists for it alone."""
    try:
        if check.level == "kernel":
            from engine_sdk.testing.host import PrivateHost

            check.body(subject, PrivateHost.enter(directory))
        elif check.level == "live":
            check.body(subject, directory)
        else:
            check.body(subject)
    except NotDeclared as err:
        return Outcome("not declared", str(err))
    except NotRun as err:
        return Outcome("not run", str(err))
    except AssertionError as err:
        return Outcome("failed", str(err) or traceback.format_exc())
    except EngineError as err:
        return Outcome("failed", f"{type(err).__name__}: {err}\n{_place(err)}")
    except BaseException as err:  # noqa: BLE001  # whatever a driver raises (SystemExit, too) is a result, not our end
        return Outcome("failed", f"{err}\n{traceback.format_exc()}")
    return Outcome("passed")


def _place(err: BaseException) -> str:
    """Return where an error was raised, innermost calls last: the lines of the check and of the driver."""
    return "".join(traceback.format_tb(err.__traceback__)[-4:])


def _in_fork(check: Check, subject: Any, deadline: float) -> Outcome:
    """Run a check in a fork with a deadline; whatever it started is killed with it."""
    directory = Path(tempfile.mkdtemp(prefix="engine-conformance-"))
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        os.close(reader)
        outcome = _try(check, subject, directory)
        os.write(writer, json.dumps(outcome._asdict()).encode() + b"\n")
        os._exit(0)
    os.close(writer)
    try:
        answer = _read_line(reader, deadline)
    finally:
        os.close(reader)
        for target in (-child, child):  # the group may not be there yet
            with contextlib.suppress(ProcessLookupError):
                os.kill(target, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        _end_orphans()
        _empty(directory)
    if answer is not None:
        return Outcome(**json.loads(answer))
    if status == -signal.SIGKILL:
        return Outcome("failed", f"gave no answer within {deadline:g} s")
    return Outcome("failed", f"the process ended with status {status}: the driver crashed it")


def _adopt_orphans() -> None:
    """Become the parent of what a check has started in a session of its own (helpers of volumes) and did not end."""
    import ctypes

    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _end_orphans() -> None:
    while children := Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
        for orphan in children:
            os.kill(int(orphan), signal.SIGKILL)
            os.waitpid(int(orphan), 0)


def _empty(directory: Path) -> None:
    """Remove the check's directory: what a kernel check made went with its mount namespace."""
    import shutil

    shutil.rmtree(directory)


def main() -> None:
    """Serve checks: one JSON object a line on standard input, one answer a line on standard output."""
    from engine_sdk.testing.subject import subject_of

    answers = os.dup(1)
    os.dup2(2, 1)  # what a driver prints is no answer
    given = json.loads(sys.argv[1])
    checks = checks_of(given["kind"])
    subject = subject_of(given["kind"], given["driver"], given["options"])
    _adopt_orphans()
    for line in sys.stdin:
        request = json.loads(line)
        outcome = _in_fork(checks[request["check"]], subject, request["deadline"])
        os.write(answers, json.dumps(outcome._asdict()).encode() + b"\n")


if __name__ == "__main__":
    main()
