"""A host of its own for each test: the test's thread, and all that it starts, in a fresh network namespace."""

from __future__ import annotations

import ctypes
import os
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from engine.reconcile import netns
from engine.reconcile.applier import Applier, Sandbox, Tag
from engine.reconcile.appliers import network_appliers
from engine.reconcile.reconciler import Reconciler

CLONE_NEWNET = 0x40000000
TAG = Tag("0badcafe", 0x0BADCAFE, "engine_0badcafe")


class Host:
    """The test's host."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.run("ip", "link", "set", "lo", "up")
        self.run("sysctl", "-qw", "net.ipv4.ip_forward=0", "net.ipv6.conf.all.forwarding=0")  # inherited otherwise
        self.reconcilers: list[Reconciler] = []
        self.reconciler = self.start()

    def start(self, wrap: Callable[[Sequence[Applier]], Sequence[Applier]] = lambda appliers: appliers) -> Reconciler:
        """Return a further reconciler, as after a crash of the one before."""
        self.reconcilers.append(Reconciler(TAG, wrap(network_appliers(TAG))))
        return self.reconcilers[-1]

    def sandbox(self, name: str) -> Sandbox:
        return netns.create(self.path / name)

    def run(self, *argv: object, sandbox: Sandbox | None = None, check: bool = True) -> str:
        words = ["nsenter", f"--net={sandbox.path}"] if sandbox else []
        words += [str(word) for word in argv]
        done = subprocess.run(words, capture_output=True, text=True, timeout=20, check=False)
        if check and done.returncode:
            raise AssertionError(f"{' '.join(words)}: {done.stderr or done.stdout}")
        return done.stdout

    def ping(self, target: str, sandbox: Sandbox | None = None) -> bool:
        """Tell whether an answer comes; patiently, since a new link's carrier takes a moment."""
        return " 0 received" not in self.run("ping", "-c1", "-w3", target, sandbox=sandbox, check=False)

    def close(self) -> None:
        for path in netns.present(self.path):
            netns.destroy(path)
        for reconciler in self.reconcilers:
            reconciler.close()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    libc = ctypes.CDLL(None, use_errno=True)
    home = os.open(f"/proc/self/task/{threading.get_native_id()}/ns/net", os.O_RDONLY)
    if libc.unshare(CLONE_NEWNET) != 0:
        os.close(home)
        pytest.skip("needs root")
    made: Host | None = None
    try:
        made = Host(tmp_path)
        yield made
    finally:
        if made:
            made.close()
        assert libc.setns(home, CLONE_NEWNET) == 0
        os.close(home)
