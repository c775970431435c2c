"""Fixtures of tests that need a whole engine on a machine of its own (`tests/e2e`, `tests/crash`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from tests.host import EngineHost, skip_unless_possible

# Four tests share two cores: how long an example takes, or its making, says nothing.
settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared")

ONE_CLUSTER = tuple(f"tests/e2e/cluster/test_{name}.py" for name in ("encrypted", "overlay", "restarts", "verify"))
"""Files whose tests use one cluster."""
SHARING = tuple(f"tests/{name}/" for name in ("e2e", "crash", "kernel/cluster", "kernel/dns", "kernel/image"))
"""Directories in which the tests of a file share what takes seconds to start: a machine, a server, a registry."""


def unit_of_work(nodeid: str) -> str:
    """Return what names the tests that one worker does together: another worker would start all of it once more."""
    file = nodeid.partition("::")[0]
    if file in ONE_CLUSTER:
        return "cluster"
    return file if file.startswith(SHARING) else nodeid


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give tests that share something to one worker, with any `--dist load…`. (Group marks are lost with pytest 9.)"""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return unit_of_work(nodeid)

    return Scheduling(config, log) if config.getoption("dist").startswith("load") else None


@pytest.fixture(scope="module")
def host() -> Iterator[EngineHost]:
    """A machine with a running daemon and the image `busybox`, for the tests of a file; at its end nothing is left."""
    skip_unless_possible()
    with EngineHost() as machine:
        machine.load_busybox()
        machine.engine("run", "--rm", "busybox", "true")  # what the first container makes for good is no leak
        before = machine.settled()
        yield machine
        machine.clear()
        machine.assert_clean(before)


@pytest.fixture
def clean(host: EngineHost) -> Iterator[EngineHost]:
    """The machine; the test must leave it as it was, but for containers, networks and volumes."""
    before = host.settled()  # what the test before removed may still be on its way out
    yield host
    host.clear()
    host.assert_clean(before)
