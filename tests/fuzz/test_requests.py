"""No request that a client can make is answered by "internal error", ends the daemon or leaves a traceback in its log.

`ENGINE_FUZZ_REQUESTS` is how many are made (2,000; the long run makes 20,000), `ENGINE_FUZZ_SEED` repeats a run.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
from collections import Counter
from collections.abc import Iterator
from random import Random

import pytest
from tests.fuzz.requests import IMAGE, NETWORK, RUNNING, SECRET, STOPPED, VOLUME, Request, request, routes
from tests.host import EngineHost, skip_unless_possible

REQUESTS = int(os.environ.get("ENGINE_FUZZ_REQUESTS", "2000"))
SEED = int(os.environ.get("ENGINE_FUZZ_SEED", "0")) or Random().randrange(1, 2**32)
SECONDS = 5.0
"""In which an answer begins, or the request is one that waits: what counts is that the daemon answers others."""
STREAM_SECONDS = 0.2
"""How long more of an answer is waited for: streams have no end."""
ROUND = 20
"""Requests after which what they removed is made again."""


@pytest.fixture(scope="module")
def engine() -> Iterator[EngineHost]:
    """A machine of its own: what thousands of odd objects leave in a daemon is no other test's."""
    skip_unless_possible()
    with EngineHost() as machine:
        machine.load_busybox()
        yield machine


class Target:
    """The objects that requests are about."""

    def __init__(self, host: EngineHost) -> None:
        self._host = host
        self.exec_id = ""

    def refill(self) -> None:
        """Remove what requests have made, and make again what they have removed."""
        for row in self._list("/containers/json?all=1"):
            if not {f"/{RUNNING}", f"/{STOPPED}"} & set(row["Names"]):
                self._host.request("DELETE", f"/containers/{row['Id']}?force=1&v=1")
        for network in self._list("/networks"):
            if network["Name"] not in (NETWORK, "bridge", "host", "none"):
                self._host.request("DELETE", f"/networks/{network['Id']}")
        if self._host.request("GET", f"/images/{IMAGE}/json")[0] != 200:
            self._host.load_busybox()
        self._make("/networks/create", {"Name": NETWORK})
        self._make("/volumes/create", {"Name": VOLUME})
        self._make("/secrets/create", {"Name": SECRET, "Data": "c2VjcmV0"})
        for name in (RUNNING, STOPPED):
            self._make(f"/containers/create?name={name}", {"Image": IMAGE, "Cmd": ["sleep", "1000"]})
        self._host.request("POST", f"/containers/{RUNNING}/unpause")
        self._host.request("POST", f"/containers/{RUNNING}/start")
        status, data = self._host.request("POST", f"/containers/{RUNNING}/exec", json.dumps({"Cmd": ["true"]}))
        if status != 201:  # it was made useless: as root file system, by limits, by files
            self._host.request("DELETE", f"/containers/{RUNNING}?force=1&v=1")
        else:
            self.exec_id = json.loads(data)["Id"]

    def _list(self, path: str) -> list[dict[str, object]]:
        status, data = self._host.request("GET", path)
        assert status == 200, data
        found: list[dict[str, object]] = json.loads(data)
        return found

    def _make(self, path: str, body: dict[str, object]) -> None:
        status, data = self._host.request("POST", path, json.dumps(body))
        assert status in (200, 201, 409), (path, data)


def send(host: EngineHost, request: Request) -> tuple[int, bytes]:
    """Return the status, and the first part of the body; 0 when the answer is still to come."""
    connection = http.client.HTTPConnection("localhost", timeout=SECONDS)
    with contextlib.closing(connection):
        connection.sock = raw = socket.socket(socket.AF_UNIX)
        raw.settimeout(SECONDS)
        raw.connect(str(host.socket))
        try:
            connection.putrequest(request.method, request.path, skip_accept_encoding=True)
            for name, value in {**request.headers, "Content-Length": str(len(request.body))}.items():
                connection.putheader(name, value)
            connection.endheaders(request.body)
            answer = connection.getresponse()
            raw.settimeout(STREAM_SECONDS)
            with contextlib.suppress(TimeoutError, http.client.IncompleteRead):
                return answer.status, answer.read(4096)
            return answer.status, b""
        except (TimeoutError, ConnectionError, http.client.BadStatusLine):
            return 0, b""


def test_every_route_is_asked() -> None:
    """A route that is added is asked, without anybody having to think of it."""
    assert len(routes()) > 100
    assert ("POST", "/containers/create") in routes()


@pytest.mark.timeout(300 + REQUESTS)
def test_no_request_is_an_internal_error(engine: EngineHost) -> None:
    random, target, statuses = Random(SEED), Target(engine), Counter[int]()
    all_routes = routes()
    print(f"ENGINE_FUZZ_SEED={SEED}")
    for number in range(REQUESTS):
        if number % ROUND == 0:
            target.refill()
        method, path = random.choice(all_routes)
        made = request(random, method, path, target.exec_id)
        status, body = send(engine, made)
        statuses[status] += 1
        assert status != 500, f"seed {SEED}, request {number}: {made}\n{body!r}"
        assert b"failed unexpectedly" not in body, f"seed {SEED}, request {number}: {made}\n{body!r}"
        if status == 0:
            assert engine.request("GET", "/_ping")[0] == 200, f"seed {SEED}, after request {number}: {made}"
        if number % 100 == 0:
            assert "Traceback" not in engine.log(), f"seed {SEED}, before request {number}\n{engine.log()[-4000:]}"
    print(dict(statuses))
    assert "Traceback" not in engine.log(), f"seed {SEED}\n{engine.log()[-4000:]}"
    well_formed = sum(count for status, count in statuses.items() if 200 <= status < 300)
    assert well_formed > REQUESTS // 20, "hardly any request came past the first look at it"
