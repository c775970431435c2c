"""One cluster for the tests of several files; each test leaves it without containers and networks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cluster.hosts import TestCluster, cluster_of


@pytest.fixture(scope="session")
def machines() -> Iterator[TestCluster]:
    """Three hosts and one member of etcd, for all files that have none of their own (see `ONE_CLUSTER` in tests)."""
    with cluster_of(hosts=3) as made:
        yield made


@pytest.fixture
def cluster(machines: TestCluster) -> Iterator[TestCluster]:
    """The cluster; what the test made is removed, and then the hosts have no entry of any other."""
    yield machines
    machines.clear()
    machines.assert_nothing_left()


@pytest.fixture
def net(cluster: TestCluster) -> TestCluster:
    """The cluster with an overlay `net`, and a container on each host that reaches those of the others."""
    cluster.hosts[0].engine("network", "create", "-d", "overlay", "net")
    cluster.run_everywhere("net")
    cluster.until_all_reach_all()
    cluster.until_consistent()
    return cluster


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give these tests more time than others: their clusters take long to start where much else runs."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.timeout(300))
