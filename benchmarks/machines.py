"""Machines of their own for what is compared: network and mount namespaces, which a sleeping process holds.

Each has a link `eth0`, one end of a veth pair, and a default route. Nothing of the real machine's network is touched.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

START_SECONDS = 60.0
_MACHINE = """
ip link set lo up
ip link add eth0 type veth peer name lan0
ip link set eth0 up
ip link set lan0 up
ip address add 192.0.2.2/24 dev eth0
ip route add default via 192.0.2.1
%s
exec sleep 1000000
"""


class Machine:
    """A machine; a context manager. Afterwards what it had in its root is removed."""

    name = "machine"
    prelude = ":"
    """A shell command that the machine needs before."""

    def __init__(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix=f"bench-{self.name}-"))
        self._machine: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self._machine = subprocess.Popen(
                ["unshare", "--net", "--mount", "--propagation", "private", "sh", "-c", _MACHINE % self.prelude]
            )
            until(self._machine_is_up, "the namespaces")
            return self
        except BaseException:
            self.__exit__(None, None, None)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._machine is not None:
            self._machine.send_signal(signal.SIGKILL)
            self._machine.wait()
        shutil.rmtree(self.root, ignore_errors=True)

    @property
    def pid(self) -> int:
        """The process that holds the namespaces."""
        assert self._machine is not None
        return self._machine.pid

    def inside(self, *argv: str) -> str:
        """Run a program on the machine."""
        return output(*self.entering(), *argv)

    def entering(self) -> list[str]:
        """Return the words before a command that is to run on the machine."""
        return ["nsenter", f"--target={self.pid}", "--net", "--mount"]

    def _machine_is_up(self) -> bool:
        if Path("/proc/self/ns/net").readlink() == Path(f"/proc/{self.pid}/ns/net").readlink():
            return False
        return Path(f"/proc/{self.pid}/comm").read_text() == "sleep\n"


def descendants(pid: int) -> list[int]:
    """Return a process, its children, theirs, and so on."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").iterdir():
            found += [int(word) for word in (task / "children").read_text().split()]
    return found


def memory_kib(pids: Sequence[int]) -> int:
    """Return the memory of processes in KiB, with what they share divided among those that share it (PSS)."""
    total = 0
    for pid in pids:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total


def output(*argv: str) -> str:
    """Run a program and return what it says. SubprocessError if it fails."""
    done = subprocess.run(argv, capture_output=True, text=True, timeout=180, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise subprocess.SubprocessError(f"{' '.join(argv)}: {done.stderr[-2000:]}")
    return done.stdout


def until(ready: Callable[[], object], what: str) -> None:
    """Wait until something is so. TimeoutError, with `what`, if it does not come to be."""
    deadline = time.monotonic() + START_SECONDS
    while not ready():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not start within {START_SECONDS:.0f} s")
        time.sleep(0.05)
