"""A host for one check: network and mount namespaces of its own, which end with the process."""

from __future__ import annotations

import ctypes
import functools
import os
import subprocess
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from engine_sdk.testing.checks import NotRun

_CLONE_NEWNS, _CLONE_NEWNET = 0x00020000, 0x40000000  # linux/sched.h
_MS_REC, _MS_PRIVATE = 0x4000, 0x40000  # linux/mount.h
_COMMAND_SECONDS = 20.0
ResultT = TypeVar("ResultT")


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _call(name: str, *arguments: Any) -> None:
    if getattr(_libc(), name)(*arguments) != 0:
        errno = ctypes.get_errno()
        raise OSError(errno, f"{name}: {os.strerror(errno)}")


def why_not() -> str:
    """Return why kernel checks cannot run here; empty if they can."""
    if os.geteuid() != 0:
        return "plans are applied only by root, in namespaces of the kit's own"
    return ""


def run(*argv: str) -> None:
    """Run a program of the system; RuntimeError with its words if it fails."""
    environment = {**os.environ, "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"}
    done = subprocess.run(argv, capture_output=True, text=True, timeout=_COMMAND_SECONDS, check=False, env=environment)
    if done.returncode:
        raise RuntimeError(f"{' '.join(argv)}: {done.stderr.strip()}")


def inside(namespace: Path, function: Callable[[], ResultT]) -> ResultT:
    """Call a function in a network namespace, in a thread that ends with it. Its sockets and programs stay there."""
    results: list[ResultT] = []
    errors: list[BaseException] = []

    def body() -> None:
        try:
            descriptor = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
            try:
                _call("setns", descriptor, _CLONE_NEWNET)
            finally:
                os.close(descriptor)
            results.append(function())
        except BaseException as err:  # noqa: BLE001  # handed to the caller's thread
            errors.append(err)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


class PrivateHost:
    """The private host of one check. `root` is an empty file system in memory that goes with it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.has_base_rules = False
        """The core laid its firewall: every engine on this host wants it."""

    @classmethod
    def enter(cls, directory: Path) -> PrivateHost:
        """Move this process into new namespaces and mount an empty file system at `directory`. Raises NotRun."""
        reason = why_not()
        if reason:
            raise NotRun(reason)
        try:
            _call("unshare", _CLONE_NEWNS | _CLONE_NEWNET)
            _call("mount", b"none", b"/", None, _MS_REC | _MS_PRIVATE, None)
            _call("mount", b"conformance", os.fsencode(directory), b"tmpfs", 0, b"mode=755")
        except OSError as err:
            raise NotRun(f"no private namespaces here: {err}") from err
        run("ip", "link", "set", "lo", "up")
        return cls(directory)

    def add_wire(self, name: str, *, mtu: int, mac: str, addresses: Sequence[str] = ()) -> None:
        """Make a link that stands for a network card: one end of a veth pair whose other end is up, too."""
        other = f"{name}-far"[:15]
        run("ip", "link", "add", name, "mtu", str(mtu), "address", mac, "type", "veth", "peer", "name", other)
        for end in (name, other):
            run("ip", "link", "set", end, "addrgenmode", "none")
            run("ip", "link", "set", end, "up")
        for address in addresses:
            run("ip", "address", "add", address, "dev", name, *(["nodad"] if ":" in address else []))
