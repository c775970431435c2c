"""kill -9 of the daemon at any moment of 50 starts: what was acknowledged is there afterwards, and nothing else.

Clients work at the same time, each on a container of its own after the other. A ledger says what the daemon has
acknowledged, and what was asked of it when it died.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from tests.crash.conftest import CrashHost

STARTS = 50
CLIENTS = 4
NETWORK = "second"


@dataclass(frozen=True)
class Known:
    """What is known of a container; `connected`: to a second network."""

    exists: bool = False
    running: bool = False
    connected: bool = False


GONE = Known()


@dataclass
class Ledger:
    """What was acknowledged, and what may have happened besides."""

    acknowledged: dict[str, Known] = field(default_factory=dict)
    possible: dict[str, tuple[Known, ...]] = field(default_factory=dict)
    volumes: dict[str, bool] = field(default_factory=dict)
    starts: int = 0
    done: Counter[str] = field(default_factory=Counter)


class Client(threading.Thread):
    """Creates, starts, connects, disconnects, stops and removes containers until the daemon is dead."""

    def __init__(self, host: CrashHost, ledger: Ledger, names: Iterator[int], rng: random.Random) -> None:
        super().__init__(daemon=True)
        self._host, self._ledger, self._names, self._rng = host, ledger, names, rng
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            while self._live(f"life-{next(self._names)}"):  # never the prefix of an id
                pass
        except BaseException as err:  # noqa: BLE001 - the test raises it
            self.failure = err

    def _live(self, name: str) -> bool:
        """Give a container a life; False if the daemon died in it."""
        now = Known(exists=True)
        body = {
            "Image": "busybox", "Cmd": ["sleep", "1000"], "Volumes": {"/data": {}},
            "HostConfig": {"Binds": [f"v-{name}:/kept"]},
        }  # fmt: skip
        if not self._ask(name, "POST", f"/containers/create?name={name}", body, now):
            return False
        now = replace(now, running=True)
        if not self._ask(name, "POST", f"/containers/{name}/start", None, now):
            return False
        self._ledger.starts += 1
        for step in self._rng.sample(("connect", "stop", "remove"), self._rng.randrange(1, 4)):
            if step == "connect" and now.running:
                for action in ("connect", "disconnect")[: self._rng.choice((1, 2, 2))]:
                    now = replace(now, connected=action == "connect")
                    path = f"/networks/{NETWORK}/{action}"
                    if not self._ask(name, "POST", path, {"Container": name}, now):
                        return False
            elif step == "stop" and now.running:
                now = replace(now, running=False)
                if not self._ask(name, "POST", f"/containers/{name}/stop?t=0", None, now):
                    return False
            elif step == "remove":
                path = f"/containers/{name}?force=1&v=1"
                return self._ask(name, "DELETE", path, None, GONE, replace(now, running=False))
        return True

    def _ask(self, name: str, method: str, path: str, body: object, *after: Known) -> bool:
        """Make a request after which the container is `after[0]`, or any of them if the daemon dies meanwhile."""
        ledger = self._ledger
        ledger.possible[name] = after
        status, answer = self._host.call(method, path, body)  # type: ignore[arg-type]
        if status == 0:
            return False
        assert status < 300, f"{method} {path}: {answer}"
        ledger.acknowledged[name] = after[0]
        ledger.done[path.partition("?")[0].rpartition("/")[2] if method == "POST" else "remove"] += 1
        del ledger.possible[name]
        return True


def seen(host: CrashHost, name: str) -> Known:
    found = host.inspect(name)
    if found is None:
        return GONE
    assert found["State"]["Status"] in ("created", "running", "exited"), found["State"]
    return Known(True, found["State"]["Running"], NETWORK in found["NetworkSettings"]["Networks"])


@pytest.fixture
def second(crashing: CrashHost) -> Iterator[CrashHost]:
    assert crashing.call("POST", "/networks/create", {"Name": NETWORK})[0] == 201
    before = crashing.settled()
    yield crashing
    crashing.remove_all()
    for volume in crashing.call("GET", "/volumes")[1]["Volumes"]:
        assert volume["Name"].startswith("v-"), f"a volume that nobody named is left: {volume}"
        assert crashing.call("DELETE", f"/volumes/{volume['Name']}")[0] == 204
    crashing.assert_clean(before, 15)
    assert crashing.call("DELETE", f"/networks/{NETWORK}")[0] == 204


@pytest.mark.timeout(300)
def test_any_moment(second: CrashHost) -> None:
    host, rng = second, random.Random(20260101)
    names, ledger = itertools.count(), Ledger()
    rounds = 0
    while ledger.starts < STARTS:
        rounds += 1
        clients = [Client(host, ledger, names, random.Random(rng.random())) for _ in range(CLIENTS)]
        goal = min(ledger.starts + rng.randrange(3, 9), STARTS)
        for client in clients:
            client.start()
        while ledger.starts < goal and any(client.is_alive() for client in clients):
            time.sleep(0.002)
        time.sleep(rng.random() * 0.1)
        host.kill_daemon()
        for client in clients:
            client.join(30)
            assert not client.is_alive()
            if client.failure is not None:
                raise client.failure
        host.start_daemon()
        check(host, ledger)
    assert rounds >= 5
    assert set(ledger.done) == {"create", "start", "connect", "disconnect", "stop", "remove"}, ledger.done


def check(host: CrashHost, ledger: Ledger) -> None:
    """Compare the host with the ledger, and finish what was in doubt."""
    for name, known in list(ledger.acknowledged.items()):
        if name not in ledger.possible:
            assert seen(host, name) == known, f"{name} was acknowledged as {known}: {host.inspect(name)}"
    for name, after in ledger.possible.items():
        known = seen(host, name)
        allowed = {ledger.acknowledged.get(name, GONE), *after}
        assert known in allowed, f"{name} is {known}, not one of {allowed}"
        if known.exists and not known.running:  # whole: it can be started
            status, answer = host.call("POST", f"/containers/{name}/start")
            assert status == 204, answer
            known = replace(known, running=True)
        ledger.acknowledged[name] = known
    ledger.possible.clear()
    listed = {c["Names"][0].removeprefix("/") for c in host.call("GET", "/containers/json?all=1")[1]}
    assert listed == {name for name, known in ledger.acknowledged.items() if known.exists}
    host.assert_whole()
    running = {n for n, known in ledger.acknowledged.items() if known.running}
    assert len(sleepers(host)) == len(running), "as many processes as containers that run"


def sleepers(host: CrashHost) -> list[int]:
    """Return the first processes of containers."""
    lines = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in host.processes()}
    return [pid for pid, line in lines.items() if line.startswith(b"sleep\0")]
