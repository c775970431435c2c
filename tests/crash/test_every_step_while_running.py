"""The daemon is killed at every step of what changes while containers run: ports, networks, an end with --rm, volumes.

After each kill things are either as before or as they were asked to be, the host is as the database says, and the same
request can be made (again).
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.crash.killing_host import MOST_STEPS, KillingHost
from tests.host import ADDRESS, skip_unless_possible, until

SECOND = "second"
SERVE = "mkdir -p /www && echo -n {0} >/www/index.html && exec httpd -f -p 8080 -h /www"


@pytest.fixture(scope="module")
def machine() -> Iterator[KillingHost]:
    skip_unless_possible()
    with KillingHost() as host:
        host.load_busybox()
        host.engine("run", "--rm", "busybox", "true")
        assert host.call("POST", "/networks/create", {"Name": SECOND})[0] == 201
        yield host


@pytest.fixture
def servers(crashing: KillingHost) -> KillingHost:
    """The machine with two servers that run, `red` and `blue`, which publish nothing."""
    for name in ("red", "blue"):
        crashing.engine("run", "-d", "--name", name, "busybox", "sh", "-c", SERVE.format(name))
    return crashing


def published(host: KillingHost, name: str) -> set[str]:
    """Return the host's ports that a container publishes, which are those that it will publish at its next start."""
    found = host.inspect(name)
    assert found is not None
    actual = {b["HostPort"] for bs in found["NetworkSettings"]["Ports"].values() for b in bs or ()}
    wished = {b["HostPort"] for bs in found["HostConfig"]["PortBindings"].values() for b in bs}
    assert actual == wished, f"{name} publishes {actual}, and will publish {wished}"
    return actual


def answer(host: KillingHost, port: int) -> str:
    """Return what answers at a port, seen from outside; "" if nothing does."""
    try:
        said = host.connect(ADDRESS, port, lan=True, send=b"GET / HTTP/1.0\r\n\r\n", seconds=3)
    except OSError:
        return ""
    return said.rpartition(b"\r\n")[2].decode()


def every_step(attempt: Callable[[int], bool], least: int) -> None:
    """Attempt an operation with the death of the daemon at step 0, 1, ..., until it survives; it has `least` steps."""
    for step in range(MOST_STEPS):
        if not attempt(step):
            assert step >= least, f"only {step} steps"
            return
    pytest.fail("the operation has no end")


def test_port_add(servers: KillingHost) -> None:
    path = "/engine/containers/red/ports"
    before = servers.settled()

    def attempt(step: int) -> bool:
        killed = servers.killed_at(step, "POST", path, {"PortBindings": {"8080/tcp": [{"HostPort": "8090"}]}})
        there = published(servers, "red")
        assert there == {"8090"} or (killed and not there)
        servers.assert_whole()
        assert answer(servers, 8090) == ("red" if there else "")
        if there:
            assert servers.call("POST", f"{path}/remove", {"Ports": [{"HostPort": 8090}]})[0] == 204
        servers.assert_clean(before)
        return killed

    every_step(attempt, 3)


def test_port_remove(servers: KillingHost) -> None:
    path = "/engine/containers/red/ports"

    def attempt(step: int) -> bool:
        if not published(servers, "red"):
            status, said = servers.call("POST", path, {"PortBindings": {"8080/tcp": [{"HostPort": "8090"}]}})
            assert status == 200, said
        killed = servers.killed_at(step, "POST", f"{path}/remove", {"Ports": [{"HostPort": 8090}]})
        there = published(servers, "red")
        assert not there or (killed and there == {"8090"})
        servers.assert_whole()
        assert answer(servers, 8090) == ("red" if there else "")
        return killed

    every_step(attempt, 3)


def test_port_move(servers: KillingHost) -> None:
    """At no moment do both have the port, or neither."""
    assert servers.call(
        "POST", "/engine/containers/red/ports", {"PortBindings": {"8080/tcp": [{"HostPort": "8090"}]}}
    )[0] == 200  # fmt: skip
    holders = ["red", "blue"]

    def attempt(step: int) -> bool:
        giver, taker = holders
        body = {"To": taker, "Port": {"HostPort": 8090}}
        killed = servers.killed_at(step, "POST", f"/engine/containers/{giver}/ports/move", body)
        moved = published(servers, taker) == {"8090"}
        assert published(servers, giver) == (set() if moved else {"8090"})
        assert moved or killed, "an acknowledged move is lost"
        servers.assert_whole()
        if moved:
            holders.reverse()
        assert answer(servers, 8090) == holders[0]
        return killed

    every_step(attempt, 4)


def networks_of(host: KillingHost, name: str) -> set[str]:
    found = host.inspect(name)
    assert found is not None
    assert found["State"]["Running"]
    return set(found["NetworkSettings"]["Networks"])


def test_connect(servers: KillingHost) -> None:
    before = servers.settled()

    def attempt(step: int) -> bool:
        killed = servers.killed_at(step, "POST", f"/networks/{SECOND}/connect", {"Container": "red"})
        connected = SECOND in networks_of(servers, "red")
        assert connected or killed, "an acknowledged connection is lost"
        servers.assert_whole()
        if connected:
            assert servers.call("POST", f"/networks/{SECOND}/disconnect", {"Container": "red"})[0] == 200
        servers.assert_clean(before)
        return killed

    every_step(attempt, 5)


def test_disconnect(servers: KillingHost) -> None:
    """Of the network that has the default route and the published port: both go over to the other one."""
    assert servers.call(
        "POST", "/engine/containers/red/ports", {"PortBindings": {"8080/tcp": [{"HostPort": "8090"}]}}
    )[0] == 200  # fmt: skip
    endpoint = {"EndpointConfig": {"GwPriority": 1}}

    def attempt(step: int) -> bool:
        if SECOND not in networks_of(servers, "red"):
            status, said = servers.call("POST", f"/networks/{SECOND}/connect", {"Container": "red", **endpoint})
            assert status == 200, said
        killed = servers.killed_at(step, "POST", f"/networks/{SECOND}/disconnect", {"Container": "red"})
        connected = SECOND in networks_of(servers, "red")
        assert killed or not connected, "an acknowledged end of a connection was undone"
        servers.assert_whole()
        assert answer(servers, 8090) == "red"
        return killed

    every_step(attempt, 5)


def test_end_with_rm(crashing: KillingHost) -> None:
    before = crashing.settled()
    body: dict[str, Any] = {
        "Image": "busybox", "Cmd": ["sleep", "1000"], "Volumes": {"/data": {}}, "ExposedPorts": {"80/tcp": {}},
        "HostConfig": {"AutoRemove": True, "PortBindings": {"80/tcp": [{"HostPort": "18080"}]}},
        "NetworkingConfig": {"EndpointsConfig": {"bridge": {}, SECOND: {}}},
    }  # fmt: skip

    def attempt(step: int) -> bool:
        name = f"ends-{step}"
        assert crashing.call("POST", f"/containers/create?name={name}", body)[0] == 201
        assert crashing.call("POST", f"/containers/{name}/start")[0] == 204
        found = crashing.inspect(name)
        assert found is not None
        pid = found["State"]["Pid"]
        gone = "the removal of a container with --rm"
        killed = crashing.killed_while(
            step, lambda: os.kill(pid, signal.SIGKILL), lambda: crashing.inspect(name) is None, gone
        )
        until(lambda: crashing.inspect(name) is None, gone)
        crashing.assert_whole()
        crashing.assert_clean(before)
        return killed

    every_step(attempt, 10)


def test_volume_create(crashing: KillingHost) -> None:
    """Before the answer nobody has the volume; after a kill it is whole, or it is not there."""
    before = crashing.settled()

    def attempt(step: int) -> bool:
        name = f"volume-{step}"
        killed = crashing.killed_at(step, "POST", "/volumes/create", {"Name": name})
        there = crashing.call("GET", f"/volumes/{name}")[0] == 200
        assert there or killed, "an acknowledged volume is lost"
        crashing.assert_whole()
        if there:
            crashing.engine("run", "--rm", "-v", f"{name}:/v", "busybox", "touch", "/v/file")
            assert crashing.call("DELETE", f"/volumes/{name}")[0] == 204
        crashing.assert_clean(before)
        return killed

    every_step(attempt, 4)
