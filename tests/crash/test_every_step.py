"""The daemon is killed at every step of one operation, one after the other; each time a new daemon puts it right."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.crash.conftest import CrashHost
from tests.host import until

PROGRAM = Path(__file__).with_name("killing_daemon.py")
BODY: dict[str, Any] = {
    "Image": "busybox", "Cmd": ["sleep", "1000"], "Volumes": {"/data": {}}, "ExposedPorts": {"80/tcp": {}},
    "HostConfig": {"Binds": ["kept:/kept"], "PortBindings": {"80/tcp": [{"HostPort": "18080"}]}},
}  # fmt: skip
MOST_STEPS = 200


class KillingHost(CrashHost):
    """A machine whose daemon kills itself at a step."""

    @property
    def armed(self) -> Path:
        return self.root / "armed"

    def start_daemon(self, *options: str) -> None:
        self.armed.unlink(missing_ok=True)
        argv = [sys.executable, str(PROGRAM), str(self.armed), "--host", self.url, "--data-root", str(self.data_root)]
        argv += ["--exec-root", str(self.exec_root), "--no-cli-server", *self.daemon_options, *options]
        with (self.root / "log").open("ab") as log:
            self.daemon = subprocess.Popen(
                [*self.enter, *argv], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment()
            )
        until(self._answers, "the daemon's first answer")

    def killed_at(self, step: int, method: str, path: str, body: dict[str, Any] | None = None) -> bool:
        """Make a request of a daemon that kills itself; tell whether it did. A new one runs then."""
        self.armed.write_text(str(step))
        status, answer = self.call(method, path, body)
        if status:
            assert status < 300, answer
            self.armed.unlink()
            self.kill_daemon()
            self.start_daemon()
            return False
        until(lambda: not self.armed.exists() and self._answers(), "a new daemon")
        return True


@pytest.fixture(scope="module")
def machine() -> Any:
    from tests.host import skip_unless_possible

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
        crashing.assert_clean(before, 10)
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
        crashing.assert_clean(before, 10)
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
        crashing.assert_clean(before, 10)
        if not killed:
            assert step > 10
            return
    pytest.fail("the operation has no end")
