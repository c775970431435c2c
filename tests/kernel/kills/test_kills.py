"""Whatever is killed, and whatever the store answers: nothing is lost, and nothing that was removed comes back.

A writer changes a tree and a model of it; requests to the store fail in all ways that a network and a server know; the
helper, the holder and the server are killed. Then the faults end, `sync` has to answer 0, and three things have to be
the model: the directory, the objects, and what a host makes of them that has never seen the store.

ENGINE_KILLS says how many kills there are in all, ENGINE_KILLS_SEED repeats a run, as far as threads let it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.kernel.kills.machine import SECONDS, Site, until
from tests.kernel.kills.settings import KILLS, RATES, SEED, keep
from tests.kernel.kills.shadow import Shadow, Writer
from tests.kernel.storage.servers import Place as Bucket
from tests.kernel.storage.servers import seaweed
from tests.kernel.tree.grounds import need_on_demand, picture

from engine.spec.trees import Durability, TreeMode, TreeStatus

MODES: tuple[TreeMode, ...] = ("sync", "on-demand")
DURABILITIES: tuple[Durability, ...] = ("close", "fsync", "async")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bucket]:
    with seaweed(tmp_path_factory.mktemp("weed")) as place:
        yield place


class Run:
    """One writer, one tree, and many kills."""

    def __init__(self, site: Site, seed: int) -> None:
        self.site, self.seed = site, seed
        self.chance = random.Random(seed)
        self.shadow = Shadow()
        self.kills = self.rounds = self.operations = 0
        self.host = site.host()
        self.writer = self._writer()

    def _writer(self) -> Writer:
        return Writer(self.host.root, self.shadow, self.chance.randrange(1 << 32))

    def kill(self) -> None:
        """Let the writer work through faults, kill something, and start it again."""
        self.site.front.spoil(self.chance.choice(RATES), self.chance.randrange(1 << 32))
        self.writer.resume()
        time.sleep(self.chance.uniform(0, 0.25))
        victims = self._victims()
        for victim in victims:
            match victim:
                case "helper":
                    self.host.kill_helper()
                case "holder":
                    self.host.kill_holder()
                case _:
                    self.site.front.kill()
            self.kills += 1
        time.sleep(self.chance.choice([0, 0, 0.02, 0.1]))
        self.host.start()
        self.site.front.start()

    def _victims(self) -> list[str]:
        ways = [["helper"]] * 8 + [["server"], ["helper", "server"], ["server", "helper"]]
        if self.host.tree.mode == "on-demand":
            ways += [["holder"], ["helper", "holder"], ["holder", "helper"]]
        return self.chance.choice(ways)

    def settle(self) -> None:
        """End the faults, and compare everything with the model. Raises AssertionError with all that is wrong."""
        self.rounds += 1
        self.site.front.calm()
        self.host.start()
        self.host.ready()
        assert self.writer.pause(SECONDS), f"the writer hangs: {self.host.status()}"
        assert self.host.client.barrier(SECONDS) == 0, self.host.status()
        until(lambda: self._status().pending_files == 0, "what fetching did to other names of a file is looked at")
        status = self._status()
        assert (status.conflicts, status.unstorable_files) == ((), 0), status
        contents = self.host.tree.mode == "sync" or self.chance.random() < 0.3  # what is read is fetched, and stays
        wrong = [f"here: {each}" for each in self.shadow.differences(self.host.root, contents=contents)]
        files = self.shadow.of_kind("file")
        wrong += [f"object: {key}" for key in set(files) ^ set(self.site.keys())]
        wrong += [f"sidecar: {d}" for d in self.site.directories() - set(self.shadow.of_kind("directory"))]
        other = self.site.host("sync")
        wrong += [f"on another host: {each}" for each in self.shadow.differences(other.root)]
        if contents and not wrong:  # owners, times, extended attributes, names of one file
            here, there = picture(self.host.root), picture(other.root)
            wrong += [f"on another host: {p}: {there[p][2:]}, not {here[p][2:]}" for p in here if here[p] != there[p]]
        assert not wrong, f"{len(wrong)} differences: " + "; ".join(wrong[:12])
        self.site.drop(other)

    def _status(self) -> TreeStatus:
        status = self.host.status()
        assert status is not None, self.host.place.last_words()
        return status

    def take_over(self) -> None:
        """Lose the host, and go on with one that has nothing."""
        self.operations += self.writer.operations
        self.writer.stop()
        self.site.drop(self.host)
        self.host = self.site.host()
        self.writer = self._writer()

    def until(self, kills: int) -> None:
        """Kill so often."""
        while self.kills < kills:
            for _ in range(self.chance.randint(1, 4)):
                self.kill()
            self.settle()
            if self.chance.random() < (0.3 if self.host.tree.mode == "on-demand" else 0.1):
                self.take_over()
        self.operations += self.writer.operations


@pytest.mark.timeout(max(300, KILLS * 20))
@pytest.mark.parametrize("durability", DURABILITIES)
@pytest.mark.parametrize("mode", MODES)
def test_kills(tmp_path: Path, server: Bucket, mode: TreeMode, durability: Durability) -> None:
    if mode == "on-demand":
        need_on_demand(tmp_path)
    bucket = Bucket(f"{server.url}/{mode}-{durability}", server.options)
    seed = SEED + 10 * MODES.index(mode) + DURABILITIES.index(durability)
    site = Site(tmp_path, bucket, mode, durability)
    run = None
    try:
        run = Run(site, seed)
        run.until(-(-KILLS // (len(MODES) * len(DURABILITIES))))
    except BaseException as err:
        err.add_note(f"ENGINE_KILLS_SEED={SEED}, kill {run.kills if run else 0}, round {run.rounds if run else 0}")
        keep([*tmp_path.glob("host*/run/log"), *tmp_path.glob("host*/journal.db*")], tmp_path)
        raise
    finally:
        if run is not None:
            run.writer.stop()
        site.close()
    print(f"{mode} {durability}: {run.kills} kills, {run.rounds} rounds, {run.operations} operations")
