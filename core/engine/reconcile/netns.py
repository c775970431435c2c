"""Network namespaces that outlive the process: made in a thread of their own, held by a bind mount.

A namespace is entered only in the reconciler's thread, and only to open a socket or a file in it: both stay bound to
the namespace after the thread has left it (namespaces(7), setns(2)).
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from engine.reconcile import advertisements
from engine.reconcile.applier import Sandbox

NS_GET_NSTYPE = 0xB703  # linux/nsfs.h
CLONE_NEWNET = 0x40000000
MS_BIND = 4096
MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8
SIOCGIFFLAGS, SIOCSIFFLAGS = 0x8913, 0x8914
IFF_UP = 1

T = TypeVar("T")
_libc = ctypes.CDLL(None, use_errno=True)


def _call(name: str, path: object, *args: object) -> None:
    if getattr(_libc, name)(*args) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}", str(path))


def unshare_network() -> None:
    """Put the calling thread into a network namespace of its own, for good: only for a thread that then ends."""
    _call("unshare", "", CLONE_NEWNET)


def create(path: Path) -> Sandbox:
    """Make a network namespace, held by a mount at `path` (which must not exist; its parent must).

    `lo` is up, and links that are made there ignore router advertisements.
    """
    failure: list[OSError] = []

    def make() -> None:
        try:
            unshare_network()
            advertisements.ignore(advertisements.NEW_LINKS)
            _loopback_up()
            os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444))
            try:
                source = f"/proc/self/task/{threading.get_native_id()}/ns/net"
                _call("mount", path, source.encode(), os.fsencode(path), None, MS_BIND, None)
            except OSError:
                path.unlink()
                raise
        except OSError as err:
            failure.append(err)

    thread = threading.Thread(target=make, name="unshare")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return Sandbox(path)


def _loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        request = bytearray(struct.pack("16sH22x", b"lo", 0))
        fcntl.ioctl(sock, SIOCGIFFLAGS, request)
        (flags,) = struct.unpack_from("H", request, 16)
        struct.pack_into("H", request, 16, flags | IFF_UP)
        fcntl.ioctl(sock, SIOCSIFFLAGS, request)


def destroy(path: Path) -> None:
    """Let go of a namespace: it vanishes, with the links in it, when nothing else holds it. Absent: no error."""
    try:
        _call("umount2", path, os.fsencode(path), MNT_DETACH | UMOUNT_NOFOLLOW)
    except FileNotFoundError:
        return
    except OSError as err:
        if err.errno != errno.EINVAL:  # not a mount point, what a kill between open and mount leaves
            raise
    path.unlink(missing_ok=True)


def present(directory: Path) -> list[Path]:
    """Return what is held in a directory of namespaces, for the collection of garbage."""
    try:
        return sorted(directory.iterdir())
    except FileNotFoundError:
        return []


@contextmanager
def entered(namespace: int) -> Iterator[None]:
    """Put the calling thread into the namespace of that descriptor, and back.

    Only for a thread that is nobody else's. If it cannot go back, RuntimeError: the thread must not be used further.
    """
    home = os.open(f"/proc/self/task/{threading.get_native_id()}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _call("setns", "", namespace, CLONE_NEWNET)
        try:
            yield
        finally:
            if _libc.setns(home, CLONE_NEWNET) != 0:
                raise RuntimeError("cannot leave a network namespace")
    finally:
        os.close(home)


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """Open a namespace; the value is its descriptor. FileNotFoundError if it is gone."""
    namespace = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            fcntl.ioctl(namespace, NS_GET_NSTYPE)
        except OSError as err:
            # Between the two steps of `destroy` the name is still there, and no namespace behind it.
            raise FileNotFoundError(errno.ENOENT, "no namespace any more", str(path)) from err
        yield namespace
    finally:
        os.close(namespace)


def call_within(path: Path, function: Callable[[], T]) -> T:
    """Call a function in a namespace, in a thread that ends with it; what it raises is raised here.

    It should do no more than open something there: that stays bound to the namespace. FileNotFoundError if it is gone.
    """
    results: list[T] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            with opened(path) as namespace:
                _call("setns", path, namespace, CLONE_NEWNET)
            results.append(function())
        except BaseException as err:  # noqa: BLE001 - raised again by the caller
            failures.append(err)

    thread = threading.Thread(target=run, name="within")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return results[0]
