"""Fixtures for the tests of driver authors."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture
def leak_guard() -> Iterator[None]:
    """Fail a test that leaves or takes away links, addresses, routes, firewall rules, mounts or loop devices.

    It looks at the namespaces that the test runs in: give them to the test alone (`unshare --net --mount pytest`), or
    whatever else happens on the machine is taken for a leak.
    """
    from engine_sdk.testing.snapshot import changes, mount_state, network_state

    before = network_state() | mount_state()
    yield
    left = changes(before, network_state() | mount_state())
    if left:
        pytest.fail("the test left or took away:\n" + "\n".join(f"  {line}" for line in left), pytrace=False)
