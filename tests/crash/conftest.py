"""A machine whose daemon is killed, and the look at it afterwards."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests.host import EngineHost, skip_unless_possible


class CrashHost(EngineHost):
    """A machine with the image `busybox`, and requests that survive the daemon's death."""

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
        """Make a request; the status is 0 if the daemon ended before it answered."""
        try:
            status, answer = self.request(method, path, None if body is None else json.dumps(body))
        except OSError:
            return 0, None
        except Exception as err:  # http.client raises its own for an answer that is cut off
            if "HTTP" not in type(err).__mro__[-4].__name__ and type(err).__module__ != "http.client":
                raise
            return 0, None
        try:
            return status, json.loads(answer or b"null")
        except ValueError:
            return 0, None

    def inspect(self, name: str) -> dict[str, Any] | None:
        """Return a container's inspection, or None if there is none."""
        status, answer = self.call("GET", f"/containers/{name}/json")
        assert status in (200, 404), answer
        return answer if status == 200 else None

    def remove_all(self) -> None:
        """Remove all containers by force, with their anonymous volumes."""
        for container in self.call("GET", "/containers/json?all=1")[1]:
            assert self.call("DELETE", f"/containers/{container['Id']}?force=1&v=1")[0] == 204

    def snapshot(self) -> dict[str, Any]:
        """Return all that an engine can leave on the machine; its table is not of interest while it holds nothing."""
        state = super().snapshot()
        if not any("elements" in line for line in state["firewall"]):
            state["firewall"] = []
        return state

    def assert_whole(self) -> None:
        """Fail unless the host, sandboxes included, is as the database wants it, and every running container lives.

        A container says that it has ended a moment before its networks are taken down: until then the doctor differs.
        """
        deadline = time.monotonic() + 5
        while (answer := self.call("GET", "/engine/doctor")) != (200, {"differences": []}):
            assert answer[0] == 200, answer
            assert time.monotonic() < deadline, answer
            time.sleep(0.05)
        for summary in self.call("GET", "/containers/json")[1]:
            container = self.inspect(summary["Id"])
            assert container is not None
            status, answer = self.call("GET", f"/containers/{summary['Id']}/top")
            assert status == 200, answer
            assert answer["Processes"], f"{summary['Names']} has no process"
            for network in container["NetworkSettings"]["Networks"].values():
                assert network["EndpointID"]


@pytest.fixture(scope="module")
def machine() -> Iterator[CrashHost]:
    """A machine with a running daemon, for all tests of a file."""
    skip_unless_possible()
    with CrashHost() as host:
        host.load_busybox()
        host.engine("run", "--rm", "busybox", "true")
        yield host


@pytest.fixture
def crashing(machine: CrashHost) -> Iterator[CrashHost]:
    """The machine; at the end it must be as it was."""
    before = machine.settled()
    yield machine
    machine.remove_all()
    machine.assert_clean(before)
