"""Clients that keep more connections than there are descriptors: the engine works on, and says so once."""

from __future__ import annotations

import contextlib
import json
import resource
import socket
from collections.abc import Iterator
from http.client import HTTPResponse
from pathlib import Path

import pytest
from tests.host import SECONDS, EngineHost, skip_unless_possible, until

SPARE = 40
"""Descriptors that the daemon may open beside those that it has: fewer than there will be clients."""


@pytest.fixture
def narrow() -> Iterator[EngineHost]:
    """A machine with a container, whose daemon may open only a few more descriptors."""
    skip_unless_possible()
    with EngineHost() as host:
        host.load_busybox()
        host.engine("run", "-d", "--name", "sleeper", "busybox", "sleep", "10000")
        assert host.daemon is not None
        limit = descriptors(host) + SPARE
        resource.prlimit(host.daemon.pid, resource.RLIMIT_NOFILE, (limit, limit))
        yield host


def descriptors(host: EngineHost) -> int:
    assert host.daemon is not None
    return len([*Path(f"/proc/{host.daemon.pid}/fd").iterdir()])


def connect(host: EngineHost) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(SECONDS)
    client.connect(str(host.socket))
    return client


def ask(client: socket.socket, method: str, path: str) -> tuple[int, bytes]:
    """Make a request on a connection that is kept."""
    client.sendall(f"{method} {path} HTTP/1.1\r\nHost: engine\r\nContent-Length: 0\r\n\r\n".encode())
    answer = HTTPResponse(client)
    answer.begin()
    return answer.status, answer.read()


def test_connections_wait_and_the_engine_works(narrow: EngineHost) -> None:
    lines = len(narrow.log().splitlines())
    with contextlib.ExitStack() as kept:
        first = kept.enter_context(connect(narrow))
        assert ask(first, "GET", "/_ping")[0] == 200
        for _ in range(4 * SPARE):
            kept.enter_context(connect(narrow))
        until(lambda: "new connections wait" in narrow.log(), "a word about connections")
        assert json.loads(ask(first, "GET", "/engine/doctor")[1]) == {"differences": []}
        assert ask(first, "POST", "/containers/sleeper/restart?t=0")[0] == 204
        assert ask(first, "POST", "/containers/sleeper/kill")[0] == 204
        until(lambda: b'"exited"' in ask(first, "GET", "/containers/sleeper/json")[1], "the end of a container")
    assert narrow.request("GET", "/_ping")[0] == 200, "connections that were closed are still counted"
    said = narrow.log().splitlines()[lines:]
    assert len(said) < 10, said[:20]
    assert "Traceback" not in "".join(said)


def test_the_limit_is_raised_as_far_as_it_can_be(narrow: EngineHost) -> None:
    narrow.stop_daemon()
    narrow.start_daemon()
    assert narrow.daemon is not None
    soft, hard = resource.prlimit(narrow.daemon.pid, resource.RLIMIT_NOFILE)
    assert soft == hard
