"""A mount namespace of the test's own, and volumes in it that can be restarted and killed."""

from __future__ import annotations

import ctypes
import functools
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from engine.helper.config import HelperConfigs
from engine.helper.launch import ARGV
from engine.plugins import Plugins
from engine.reconcile import loops, mountinfo
from engine.reconcile.applier import Tag
from engine.reconcile.appliers import mount_appliers
from engine.reconcile.reconciler import Reconciler
from engine.reconcile.trees import TreeApplier
from engine.secrets.keys import VolumeKeys
from engine.secrets.store import SecretStore
from engine.state import State
from engine.storage.secrets import Secrets
from engine.storage.stores import Stores
from engine.volume.manager import VolumeManager

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
CLONE_NEWNS, MS_REC, MS_PRIVATE = 0x20000, 0x4000, 1 << 18
DEADLINE = 110.0
_libc = ctypes.CDLL(None, use_errno=True)


def _enter_namespace() -> None:
    if _libc.unshare(CLONE_NEWNS) or _libc.mount(None, b"/", None, ctypes.c_ulong(MS_REC | MS_PRIVATE), None):
        raise OSError(ctypes.get_errno(), "cannot make a mount namespace")


def in_child(function: Callable[[], object], deadline: float = DEADLINE) -> int:
    """Run a function in a forked process; return its wait status. A failure's traceback goes to our stderr."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(read)
            function()
            code = 0
        except BaseException:  # noqa: BLE001 - it is told to the parent
            os.write(write, traceback.format_exc().encode())
        finally:
            os._exit(code)
    os.close(write)
    text = b""
    end = time.monotonic() + deadline
    with os.fdopen(read, "rb", buffering=0) as pipe:
        while True:
            if not select.select([pipe], [], [], max(0, end - time.monotonic()))[0]:
                os.kill(pid, signal.SIGKILL)
                text += b"\nthe process did not end in time"
                break
            part = pipe.read(65536)
            if not part:
                break
            text += part
    _, status = os.waitpid(pid, 0)
    if text:
        sys.stderr.write(text.decode())
    return status


def isolated(test: Callable[..., None]) -> Callable[..., None]:
    """Run a test in a forked process with a mount namespace of its own: nothing that it mounts outlives it."""

    @needs_root
    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        def body() -> None:
            _enter_namespace()
            test(*args, **kwargs)

        status = in_child(body)
        if status:
            pytest.fail(f"the test failed in its namespace (wait status {status}); see stderr")

    return run


class Events:
    """Remembers what happened."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, Mapping[str, str]]] = []

    def emit(self, type: str, action: str, id: str, attributes: Mapping[str, str] | None = None) -> None:
        assert type == "volume"
        self.seen.append((action, id, dict(attributes or {})))


class World:
    """One engine's volumes. A second World on the same directory is the engine after a restart."""

    helper: tuple[str, ...] = ARGV
    """What is run as a helper of volumes whose content is kept in a store."""

    def __init__(self, base: Path, run: Path | None = None) -> None:
        self.base = base
        base.mkdir(parents=True, exist_ok=True)
        self.root, self.run = base / "data" / "volumes", run or base / "exec" / "vol"
        self.state = State(base / "state.db")
        self.events = Events()
        self.plugins = Plugins()
        self.secrets = SecretStore(base / "data" / "secrets")
        secrets = Secrets(engine_secrets=self.secrets.read, volume_keys=lambda path: self.keys.password(path))
        self.keys = VolumeKeys(secrets.read)
        configs = HelperConfigs(Stores(self.plugins), secrets, host="testhost")
        trees = TreeApplier(configs.of_tree, self.run, argv=self.helper)
        tag = Tag(instance="0badcafe", link_group=1, table="t")
        self.reconciler = Reconciler(tag, mount_appliers([self.run], trees, self.keys))
        self.volumes = VolumeManager(
            self.state, self.plugins, self.reconciler, self.root, self.run, self.events, configs, self.keys
        )

    def restarted(self, live: tuple[str, ...] = ()) -> World:
        """Return the engine after a restart; problems of its start fail the test."""
        self.close()
        after = type(self)(self.base)
        problems = after.volumes.restore(live)
        assert problems == []
        after.reconciler.collect()
        return after

    def close(self) -> None:
        self.volumes.close()
        self.reconciler.close()
        self.state.close()

    def mounts(self) -> list[str]:
        return [m.target for m in mountinfo.below(str(self.base))]

    def loops(self) -> list[str]:
        """Loop devices on images of ours (or on deleted files that were)."""
        found = []
        for loop in loops.attached():
            try:
                backing = Path("/sys/block", Path(loop.device).name, "loop/backing_file").read_text()
            except OSError:  # somebody else's, let go just now
                continue
            if backing.startswith(str(self.base)):
                found.append(loop.device)
        return found

    def assert_nothing_left(self) -> None:
        assert self.mounts() == []
        deadline = time.monotonic() + 2
        while self.loops() and time.monotonic() < deadline:  # the kernel detaches a little after the unmount
            time.sleep(0.01)
        assert self.loops() == []
        assert list(self.run.iterdir()) == []
        assert self.reconciler.owners() == []
