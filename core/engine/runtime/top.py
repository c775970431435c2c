"""Docker's `/containers/ID/top`: the host's ps, restricted to the container's processes."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass

from engine.runtime.cgroup import processes
from engine.runtime.processes import run
from engine.spec.errors import InvalidParameter, Unavailable

_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Top:
    """`titles` names the columns; each process has as many values. The last column may hold blanks."""

    titles: tuple[str, ...]
    processes: tuple[tuple[str, ...], ...]


def top(cgroup_path: str, ps_args: str = "-ef") -> Top:
    """The processes of a container, with pids of the host. Raises InvalidParameter for arguments that ps refuses
    or that leave out the pid, Unavailable without ps.
    """
    ps = shutil.which("ps")
    if ps is None:
        raise Unavailable(
            "cannot list the container's processes", why="ps is not installed", hint="`apt install procps`"
        )
    try:
        arguments = shlex.split(ps_args)
    except ValueError as err:
        raise InvalidParameter(f"invalid ps arguments {ps_args!r}", why=str(err)) from err
    pids = processes(cgroup_path)
    done = run([ps, *arguments], seconds=_SECONDS, what="cannot list the container's processes")
    if done.returncode != 0:
        raise InvalidParameter(
            "ps failed", why=done.stderr.strip().partition("\n")[0], hint="See ps(1) for its options"
        )
    return parse_ps(done.stdout, pids)


def parse_ps(output: str, pids: Sequence[int]) -> Top:
    """Split the output of ps, and keep the lines whose PID is one of `pids`.

    Raises InvalidParameter without a PID column.
    """
    first, *lines = output.splitlines()
    titles = first.split()
    if "PID" not in titles:
        raise InvalidParameter("Couldn't find PID field in ps output", hint="Use a format that has the pid")
    column = titles.index("PID")
    wanted = {str(pid) for pid in pids}
    rows = (line.split(None, len(titles) - 1) for line in lines)
    return Top(tuple(titles), tuple(tuple(row) for row in rows if len(row) > column and row[column] in wanted))
