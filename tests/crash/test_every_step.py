"""The daemon is killed at every step of one operation, one after the other; each time a new daemon puts it right."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from tests.crash.killing_host import MOST_STEPS, KillingHost
from tests.host import skip_unless_possible

BODY: dict[str, Any] = {
    "Image": "busybox", "Cmd": ["sleep", "1000"], "Volumes": {"/data": {}}, "ExposedPorts": {"80/tcp": {}},
    "HostConfig": {"Binds": ["kept:/kept"], "PortBindings": {"80/tcp": [{"HostPort": "18080"}]}},
}  # fmt: skip


@pytest.fixture(scope="module")
def machine() -> Iterator[KillingHost]:
    skip_unless_possible()
    with KillingHost() as host:
        host.load_busybox()
        host.engine("run", "--rm", "-v", "kept:/kept", "busybox", "true")
        yield host


def create(host: KillingHost, name: str, **changes: Any) -> None:
    status, answer = host.call("POST", f"/containers/create?name={name}", {**BODY, **changes})
    assert status == 201, answer


def start(host: KillingHost, name: str) -> None:
    status, answer = host.call("POST", f"/containers/{name}/start")
    assert status in (204, 304), answer


def remove(host: KillingHost, name: str) -> None:
    status, answer = host.call("DELETE", f"/containers/{name}?force=1&v=1")
    assert status in (204, 404), answer


def test_create(crashing: KillingHost) -> None:
    before = crashing.settled()
    for step in range(MOST_STEPS):
        name = f"made-{step}"
        killed = crashing.killed_at(step, "POST", f"/containers/create?name={name}", BODY)
        found = crashing.inspect(name)
        assert found or killed, "an acknowledged container is lost"
        if found:
            crashing.assert_whole()
            remove(crashing, name)
        crashing.assert_clean(before)
        if not killed:
            assert step > 4
            return
    pytest.fail("the operation has no end")


def test_start(crashing: KillingHost) -> None:
    before = crashing.settled()
    for step in range(MOST_STEPS):
        name = f"started-{step}"
        create(crashing, name)
        killed = crashing.killed_at(step, "POST", f"/containers/{name}/start")
        found = crashing.inspect(name)
        assert found, "an acknowledged container is lost"
        assert found["State"]["Running"] or killed
        crashing.assert_whole()
        start(crashing, name)
        crashing.assert_whole()
        remove(crashing, name)
        crashing.assert_clean(before)
        if not killed:
            assert step > 20
            return
    pytest.fail("the operation has no end")


def test_remove(crashing: KillingHost) -> None:
    before = crashing.settled()
    for step in range(MOST_STEPS):
        name = f"removed-{step}"
        create(crashing, name)
        start(crashing, name)
        killed = crashing.killed_at(step, "DELETE", f"/containers/{name}?force=1&v=1")
        found = crashing.inspect(name)
        assert not found or killed, "an acknowledged removal was undone"
        crashing.assert_whole()
        if found:
            start(crashing, name)
            crashing.assert_whole()
            remove(crashing, name)
        crashing.assert_clean(before)
        if not killed:
            assert step > 10
            return
    pytest.fail("the operation has no end")
