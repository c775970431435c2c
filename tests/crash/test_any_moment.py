"""kill -9 of the daemon at any moment of 50 starts: what was acknowledged is there afterwards, and nothing else.

Containers start, stop and go (some with --rm), networks and ports come and go while they run, volumes are made.

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
from tests.host import until

STARTS = 50
CLIENTS = 4
NETWORK = "second"
AUTO = "auto"
"""Names of containers with --rm begin so."""
FIRST_PORT = 20000


@dataclass(frozen=True)
class Known:
    """What is known of a container; `connected`: to a second network; `port`: published while it ran."""

    exists: bool = False
    running: bool = False
    connected: bool = False
    port: bool = False


GONE = Known()


@dataclass
class Ledger:
    """What was acknowledged, and what may have happened besides."""

    acknowledged: dict[str, Known] = field(default_factory=dict)
    possible: dict[str, tuple[Known, ...]] = field(default_factory=dict)
    volumes: set[str] = field(default_factory=set)
    """Those that were acknowledged."""
    starts: int = 0
    done: Counter[str] = field(default_factory=Counter)


DONE = {"create", "start", "connect", "disconnect", "ports", "ports/remove", "stop", "remove"}


class Client(threading.Thread):
    """Creates, starts, connects, disconnects, stops and removes containers until the daemon is dead."""

    def __init__(self, host: CrashHost, ledger: Ledger, names: Iterator[int], rng: random.Random) -> None:
        super().__init__(daemon=True)
        self._host, self._ledger, self._names, self._rng = host, ledger, names, rng
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            while self._live(next(self._names)):
                pass
        except BaseException as err:  # noqa: BLE001 - the test raises it
            self.failure = err

    def _live(self, number: int) -> bool:
        """Give a container a life; False if the daemon died in it."""
        auto = self._rng.random() < 0.3
        name = f"{AUTO if auto else 'life'}-{number}"  # never the prefix of an id
        if self._rng.random() < 0.5 and not self._volume(f"v-{name}"):
            return False
        now = Known(exists=True)
        body = {
            "Image": "busybox", "Cmd": ["sleep", "1000"], "Volumes": {"/data": {}},
            "HostConfig": {"Binds": [f"v-{name}:/kept"], "AutoRemove": auto},
        }  # fmt: skip
        if not self._ask(name, "POST", f"/containers/create?name={name}", body, now):
            return False
        now = replace(now, running=True)
        if not self._ask(name, "POST", f"/containers/{name}/start", None, now):
            return False
        self._ledger.starts += 1
        for step in self._rng.sample(("connect", "port", "stop", "remove"), self._rng.randrange(1, 5)):
            if step in ("connect", "port") and now.running:
                for come in (True, False)[: self._rng.choice((1, 2, 2))]:
                    field = "connected" if step == "connect" else "port"
                    now = replace(now, **{field: come})
                    path, change = self._change(step, come, name, number)
                    if not self._ask(name, "POST", path, change, now):
                        return False
            elif step == "stop" and now.running:
                now = GONE if auto else replace(now, running=False)
                if not self._ask(name, "POST", f"/containers/{name}/stop?t=0", None, now):
                    return False
                if auto:
                    return True
            elif step == "remove":
                path = f"/containers/{name}?force=1&v=1"
                return self._ask(name, "DELETE", path, None, GONE, replace(now, running=False))
        return True

    def _change(self, step: str, come: bool, name: str, number: int) -> tuple[str, dict[str, object]]:
        """Return the request by which a container joins or leaves the second network, or gets or loses a port."""
        if step == "connect":
            return f"/networks/{NETWORK}/{'connect' if come else 'disconnect'}", {"Container": name}
        host_port = FIRST_PORT + number
        if come:
            return f"/engine/containers/{name}/ports", {"PortBindings": {"80/tcp": [{"HostPort": str(host_port)}]}}
        return f"/engine/containers/{name}/ports/remove", {"Ports": [{"HostPort": host_port}]}

    def _volume(self, name: str) -> bool:
        """Create a volume; False if the daemon died meanwhile."""
        status, answer = self._host.call("POST", "/volumes/create", {"Name": name})
        assert status in (0, 201), answer
        if status:
            self._ledger.volumes.add(name)
        return bool(status)

    def _ask(self, name: str, method: str, path: str, body: object, *after: Known) -> bool:
        """Make a request after which the container is `after[0]`, or any of them if the daemon dies meanwhile."""
        ledger = self._ledger
        ledger.possible[name] = after
        status, answer = self._host.call(method, path, body)  # type: ignore[arg-type]
        if status == 0:
            return False
        assert status < 300, f"{method} {path}: {answer}"
        ledger.acknowledged[name] = after[0]
        done = path.partition("?")[0].removeprefix("/engine").split("/", 3)[-1].removeprefix("create")
        ledger.done[(done or "create") if method == "POST" else "remove"] += 1
        del ledger.possible[name]
        return True


def seen(host: CrashHost, name: str) -> Known:
    found = host.inspect(name)
    if found is None:
        return GONE
    assert found["State"]["Status"] in ("created", "running", "exited", "removing"), found["State"]
    running, settings = found["State"]["Running"], found["NetworkSettings"]
    port = bool(found["HostConfig"]["PortBindings"])
    if running:
        published = any(settings["Ports"].values())
        assert published == port, f"{name} publishes {settings['Ports']}, and will {found['HostConfig']}"
    return Known(True, running, NETWORK in settings["Networks"], port)


@pytest.fixture
def second(crashing: CrashHost) -> Iterator[CrashHost]:
    assert crashing.call("POST", "/networks/create", {"Name": NETWORK})[0] == 201
    before = crashing.settled()
    yield crashing
    crashing.remove_all()
    for volume in crashing.call("GET", "/volumes")[1]["Volumes"]:
        assert volume["Name"].startswith("v-"), f"a volume that nobody named is left: {volume}"
        assert crashing.call("DELETE", f"/volumes/{volume['Name']}")[0] == 204
    crashing.assert_clean(before)
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
    assert set(ledger.done) == DONE, ledger.done
    assert ledger.volumes


def check(host: CrashHost, ledger: Ledger) -> None:
    """Compare the host with the ledger, and finish what was in doubt."""
    for name, known in list(ledger.acknowledged.items()):
        if name not in ledger.possible:
            if name.startswith(AUTO) and not known.exists:  # it had ended, and goes by itself
                until(lambda name=name: seen(host, name) == GONE, f"the end of {name}")
            assert seen(host, name) == known, f"{name} was acknowledged as {known}: {host.inspect(name)}"
    for name, after in ledger.possible.items():
        allowed = {ledger.acknowledged.get(name, GONE), *after}
        if name.startswith(AUTO):  # ended, but still there: it goes by itself
            until(lambda name=name, allowed=allowed: seen(host, name) in allowed, f"{name} in one of {allowed}")
        known = seen(host, name)
        assert known in allowed, f"{name} is {known}, not one of {allowed}"
        if known.exists and not known.running:  # whole: it can be started
            status, answer = host.call("POST", f"/containers/{name}/start")
            assert status == 204, answer
            known = replace(known, running=True)
        ledger.acknowledged[name] = known
    ledger.possible.clear()
    volumes = {volume["Name"] for volume in host.call("GET", "/volumes")[1]["Volumes"]}
    assert ledger.volumes <= volumes, "a volume that was acknowledged is lost"
    listed = {c["Names"][0].removeprefix("/") for c in host.call("GET", "/containers/json?all=1")[1]}
    assert listed == {name for name, known in ledger.acknowledged.items() if known.exists}
    host.assert_whole()
    running = {n for n, known in ledger.acknowledged.items() if known.running}
    assert len(sleepers(host)) == len(running), "as many processes as containers that run"


def sleepers(host: CrashHost) -> list[int]:
    """Return the first processes of containers."""
    lines = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in host.processes()}
    return [pid for pid, line in lines.items() if line.startswith(b"sleep\0")]
