"""A whole engine with a volume on a bucket behind the fault proxy: daemon, helper, holder and monitor are killed.

`tests.kernel.kills` kills helpers, which is quick. Here a tenth of its kills is of what starts helpers again, and of
what uses the volume: what a kill must not do is the same.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.host import EngineHost, until
from tests.kernel.kills.machine import SECONDS, Front, kill
from tests.kernel.kills.settings import KILLS, RATES, SEED, keep
from tests.kernel.kills.shadow import Shadow, Writer
from tests.kernel.storage.servers import Place, seaweed
from tests.kernel.tree.grounds import need_on_demand
from tests.namespaces import call_in


@pytest.fixture(scope="module")
def bucket(host: EngineHost, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    server = seaweed(tmp_path_factory.mktemp("weed"))
    place = call_in(host.netns, server.__enter__)
    try:
        yield place
    finally:
        server.__exit__(None, None, None)


@pytest.fixture
def front(host: EngineHost, bucket: Place) -> Iterator[Front]:
    made = call_in(host.netns, lambda: Front(bucket.options["endpoint-url"]))
    try:
        yield made
    finally:
        made.kill()


class Run:
    """A container, its volume, a writer in that volume's directory, and many kills."""

    def __init__(self, host: EngineHost, front: Front, bucket: Place, mode: str) -> None:
        self._host, self._front, self._mode = host, front, mode
        options = {**bucket.options, "endpoint-url": front.endpoint, "patience": "2"}
        given = [f"url={bucket.url}/{mode}", *(f"{name}={value}" for name, value in options.items())]
        self._words = [word for option in given for word in ("-o", option)]
        self._random = random.Random(f"{SEED} {mode}")
        self._shadow = Shadow()
        self.kills = self._looks = 0
        self._root = self._use("vol", "writer", "-o", f"mode={mode}", "-o", "cache-size=200k")
        self.writer = Writer(self._root, self._shadow, self._random.randrange(1 << 32))

    def _use(self, volume: str, container: str, *words: str) -> Path:
        """Make a volume and a container that uses it; return the volume's directory."""
        trees = (self._host.data_root / "volumes").glob
        before = set(trees("*/tree"))
        self._host.engine("volume", "create", "-d", "remote", *self._words, *words, volume)
        self._host.engine("run", "-d", "--name", container, "-v", f"{volume}:/v", "busybox", "sleep", "10000")
        (found,) = set(trees("*/tree")) - before
        return found

    def _status(self) -> dict[str, Any]:
        return dict(json.loads(self._host.engine("volume", "inspect", "vol").stdout)[0]["Status"])

    def _processes(self, *words: str) -> list[int]:
        found = []
        for pid in self._host.processes():
            try:
                line = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue  # it has ended
            found += [pid] if any(word in line for word in words) else []
        return found

    def kill(self) -> None:
        """Let the writer work through faults, and kill something."""
        spoil = self._random.choice(RATES)
        self._front.spoil(spoil, self._random.randrange(1 << 32))
        self.writer.resume()
        time.sleep(self._random.uniform(0, 0.5))
        ways = ["daemon", "helper", "monitor", "server", "daemon and helper"]
        ways += ["holder", "helper and holder"] if self._mode == "on-demand" else []
        victims = self._random.choice(ways).split(" and ")
        for victim in victims:
            getattr(self, f"_kill_{victim}")()
            self.kills += 1
        if "daemon" in victims:
            self._host.start_daemon()
        call_in(self._host.netns, self._front.start)

    def _kill_daemon(self) -> None:
        self._host.kill_daemon()

    def _kill_helper(self) -> None:
        for pid in self._processes("engine.helper"):
            kill(pid)

    def _kill_holder(self) -> None:
        for pid in self._processes("holder.py"):
            kill(pid)

    def _kill_server(self) -> None:
        self._front.kill()

    def _kill_monitor(self) -> None:
        """Kill conmon and the container, as a shortage of memory does; nobody writes until it is started again."""
        self._calm()
        for pid in self._processes("conmon", "sleep"):
            kill(pid)
        until(lambda: not self._running(), "the container has ended")
        self._host.engine("start", "writer")

    def _running(self) -> bool:
        return bool(json.loads(self._host.engine("inspect", "writer").stdout)[0]["State"]["Running"])

    def _calm(self) -> None:
        """End the faults, and let the writer come to rest."""
        call_in(self._host.netns, self._front.calm)
        assert self.writer.pause(SECONDS), f"the writer hangs: {self._status()}"

    def settle(self) -> None:
        """Compare the directory, and what a fresh volume makes of the store, with the model."""
        self._calm()
        assert self._running(), "the container must outlive all but its monitor"
        until(lambda: self._status().get("State") in ("ready", "degraded"), "the volume has a helper")
        self._host.engine("volume", "sync", "-t", f"{SECONDS:g}", "vol", timeout=2 * SECONDS)
        until(lambda: self._status()["PendingFiles"] == 0, "what fetching did to other names of a file is looked at")
        assert not self._status().get("Conflicts"), self._status()
        contents = self._mode == "sync" or self._random.random() < 0.3
        wrong = [f"here: {each}" for each in self._shadow.differences(self._root, contents=contents)]
        self._looks += 1
        name = f"look{self._looks}"
        other = self._use(name, name)
        wrong += [f"on another host: {each}" for each in self._shadow.differences(other)]
        assert not wrong, f"{len(wrong)} differences: " + "; ".join(wrong[:12])
        self._host.engine("rm", "-f", name)
        self._host.engine("volume", "rm", name)

    def until(self, kills: int) -> None:
        """Kill so often."""
        while self.kills < kills:
            for _ in range(self._random.randint(1, 3)):
                self.kill()
            self.settle()


@pytest.mark.timeout(max(300, KILLS * 2))
@pytest.mark.parametrize("mode", ["sync", "on-demand"])
def test_kills(clean: EngineHost, front: Front, bucket: Place, mode: str, tmp_path: Path) -> None:
    if mode == "on-demand":
        need_on_demand(tmp_path)
    run = None
    try:
        run = Run(clean, front, bucket, mode)
        run.until(-(-KILLS // 20))
    except BaseException as err:
        err.add_note(f"ENGINE_KILLS_SEED={SEED}, kill {run.kills if run else 0}")
        keep([*clean.root.glob("x/**/log"), *clean.data_root.glob("volumes/*/journal.db*")], tmp_path)
        raise
    finally:
        if run is not None:
            run.writer.stop()
        call_in(clean.netns, front.calm)
    print(f"whole engine, {mode}: {run.kills} kills, {run.writer.operations} operations")
