"""Fixtures of tests that need a whole engine on a machine of its own (`tests/e2e`, `tests/crash`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from tests.host import EngineHost, skip_unless_possible


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep the tests of one file on one worker: they share a daemon or a registry."""
    from xdist.scheduler import LoadFileScheduling

    return LoadFileScheduling(config, log) if config.getoption("dist") == "load" else None


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
