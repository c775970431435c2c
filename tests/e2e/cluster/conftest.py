"""One cluster for the tests of a file; each test leaves it without containers and networks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.cluster.hosts import TestCluster, cluster_of


@pytest.fixture(scope="module")
def machines() -> Iterator[TestCluster]:
    """Three hosts and one member of etcd."""
    with cluster_of(hosts=3) as made:
        yield made


@pytest.fixture
def cluster(machines: TestCluster) -> Iterator[TestCluster]:
    """The cluster; what the test made is removed, and then the hosts have no entry of any other."""
    yield machines
    machines.clear()
    machines.assert_nothing_left()
