"""A tree with its helper on a bucket behind the fault proxy; each of the processes can be killed, and is started again.

Helpers are those of the engine (`engine.helper.process`), forked by a process that has imported everything: a start
costs no imports. Run as a program it is that process.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.kernel.kills.fault_proxy import FAULTS
from tests.kernel.storage.servers import Place as Bucket
from tests.kernel.storage.servers import free_ports
from tests.kernel.tree.grounds import keys, store_of

from engine import lockfile
from engine.helper import process
from engine.helper.client import HelperClient
from engine.helper.config import HelperConfig, HelperConfigs
from engine.helper.messages import HelperGone
from engine.helper.place import HelperPlace
from engine.plugins import Plugins
from engine.spec.errors import EngineError
from engine.spec.trees import Durability, StoreSpec, SyncedTree, TreeMode, TreeStatus
from engine.storage.secrets import Secrets
from engine.storage.stores import Stores
from engine.tree import holder, transfers
from engine.tree.names import SIDECAR
from engine.tree.tree import Tree

ROOT = Path(__file__).resolve().parents[3]
SECONDS = 60.0
"""Deadline of every wait: generous, for machines where much else runs."""
PATIENCE = 2.0
"""Seconds that a client of the store waits for an answer: what hangs costs no more."""


class Child:
    """A program of ours that answers each line with a line."""

    def __init__(self, *argv: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", *argv], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, text=True
        )
        self._lock = threading.Lock()

    def line(self) -> str:
        """Return the next line that it says."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"{self._process.args!r} has ended"
        return line.strip()

    def ask(self, text: str) -> str:
        """Say a line, and return the answer."""
        assert self._process.stdin is not None
        with self._lock:
            self._process.stdin.write(f"{text}\n")
            self._process.stdin.flush()
            return self.line()

    def kill(self) -> None:
        """Kill it, and wait until it is gone."""
        self._process.kill()
        self._process.wait(SECONDS)
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()


class Front:
    """The fault proxy before a bucket's server."""

    def __init__(self, server: str) -> None:
        (self._port,) = free_ports(1)
        self._server = server.rpartition(":")[2]
        self.endpoint = f"http://127.0.0.1:{self._port}"
        self._child: Child | None = None
        self.start()

    def start(self) -> None:
        """Start it, if it does not run."""
        if self._child is None:
            self._child = Child("tests.kernel.kills.fault_proxy", str(self._port), self._server)
            assert self._child.line() == "ok"

    def spoil(self, rate: float, seed: int, faults: Sequence[str] = FAULTS) -> None:
        """Have such a part of the requests fail, in one of these ways."""
        self.start()
        assert self._child is not None
        self._child.ask(json.dumps({"rate": rate, "seed": seed, "faults": faults}))

    def calm(self) -> None:
        """Have all requests pass."""
        self.spoil(0, 0)

    def kill(self) -> None:
        """Kill it: to clients, the server is gone with all that was under way."""
        if self._child is not None:
            self._child.kill()
            self._child = None


class Host:
    """One host's copy of the tree: its directory, its helper, its holder."""

    def __init__(self, base: Path, zygote: Child, store: StoreSpec, mode: TreeMode, durability: Durability) -> None:
        for directory in (base / "data", base / "run"):
            directory.mkdir(parents=True)
        self.base, self.root = base, base / "data"
        self.tree = SyncedTree(
            path=str(self.root), journal=str(base / "journal.db"), store=store, mode=mode, durability=durability,
            run=str(base / "run"), patience=PATIENCE, cache_size=200_000 if mode == "on-demand" else 0,
        )  # fmt: skip
        self.place = HelperPlace(self.tree.run)
        self.client = HelperClient(self.place)
        self._zygote = zygote
        configs = HelperConfigs(Stores(Plugins()), Secrets(), host=base.name)
        self._config = configs.of_tree(self.tree).model_dump_json()
        self._held: list[int] = []

    def start(self) -> None:
        """Start a helper, if none runs."""
        if not self.place.alive():
            self._zygote.ask(self._config)

    def ready(self) -> TreeStatus:
        """Wait until the tree is open, and hold what a container's monitor would hold."""
        end = time.monotonic() + SECONDS
        while (status := self.status()) is None or status.state in ("loading", "failed"):
            assert time.monotonic() < end, (status, self.place.last_words())
            time.sleep(0.01)
        if not self._held:
            self._held = self.client.descriptors(SECONDS)
        return status

    def status(self) -> TreeStatus | None:
        """Return the helper's status; None if it is dead."""
        try:
            return self.client.status(SECONDS)
        except HelperGone:
            return None

    def kill_helper(self) -> None:
        """Kill the helper, wherever it is in its work."""
        pid = self.place.pid() if self.place.alive() else None
        if pid is not None:
            kill(pid)
            assert self.place.gone(SECONDS)

    def kill_holder(self) -> None:
        """Kill what keeps accesses waiting while there is no helper; only the monitor's copy is left then."""
        with contextlib.suppress(FileNotFoundError, ValueError):
            if lockfile.is_taken(self.base / "run" / holder.LOCK):
                kill(int((self.base / "run" / holder.LOCK).read_text()))

    def release(self) -> None:
        """Be the end of the last container: nobody looks at the tree."""
        for descriptor in self._held:
            os.close(descriptor)
        self._held = []

    def close(self) -> None:
        """End everything of this host, and remove it."""
        self.kill_helper()
        assert holder.end(self.base / "run")
        self.release()
        shutil.rmtree(self.base)


def kill(pid: int) -> None:
    """Kill a process that may have ended."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


class Site:
    """The bucket, the proxy, and hosts: one at work, others that only look."""

    def __init__(self, base: Path, bucket: Bucket, mode: TreeMode, durability: Durability) -> None:
        self._base = base
        self.front = Front(bucket.options["endpoint-url"])
        self.store = store_of(bucket.url, bucket.options)
        """Past the proxy."""
        self._spec = StoreSpec(url=bucket.url, options={**bucket.options, "endpoint-url": self.front.endpoint})
        self._mode, self._durability = mode, durability
        self._zygote = Child("tests.kernel.kills.machine")
        self._hosts: list[Host] = []
        self._number = 0

    def host(self, mode: TreeMode | None = None) -> Host:
        """Make a host that has never seen the store, and wait until its tree is open."""
        self._number += 1
        base = self._base / f"host{self._number}"
        host = Host(base, self._zygote, self._spec, mode or self._mode, self._durability)
        self._hosts.append(host)
        host.start()
        host.ready()
        return host

    def drop(self, host: Host) -> None:
        """Lose a host with all of its files."""
        self._hosts.remove(host)
        host.close()

    def keys(self) -> list[str]:
        """Return the objects that are files."""
        return keys(self.store)

    def directories(self) -> set[str]:
        """Return the directories that have sidecars."""
        found = {stat.key.rpartition("/") for stat in self.store.list()}
        return {directory for directory, _, name in found if name == SIDECAR and directory}

    def close(self) -> None:
        """End everything."""
        for host in list(self._hosts):
            self.drop(host)
        self.front.kill()
        self._zygote.kill()
        self.store.close()


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait until something is so."""
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, f"in vain waited for: {what}"
        time.sleep(0.01)


def _helper(config: HelperConfig) -> None:
    """Be a helper, in a process of its own."""
    assert config.tree is not None
    place = HelperPlace(config.tree.run)
    lock, listener = place.take(), place.listen()
    print(os.getpid(), flush=True)
    with place.output.open("ab") as output:
        for number in (1, 2):
            os.dup2(output.fileno(), number)
    os.umask(0o077)
    process.serve(lock, listener.detach(), config.sealed(), Tree)


def main() -> None:
    """Fork a helper for each configuration on the standard input; it says its process id."""
    transfers.FIRST_PAUSE, transfers.LONGEST_PAUSE = 0.05, 0.3
    process.FIRST_RETRY = process.LONGEST_RETRY = 0.1
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        config = HelperConfig.model_validate_json(line)
        if not os.fork():
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.close(0)
            try:
                _helper(config)
            except EngineError as err:
                print(err, file=sys.stderr)
            finally:
                os._exit(0)


if __name__ == "__main__":
    main()
