"""Hosts that are lost: what was on them disappears from all others, and is there again when they come back."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address

import pytest
from tests.cluster.hosts import QUICK, ClusterHost, TestCluster, cluster_of
from tests.host import until


@pytest.fixture(scope="module")
def machines() -> Iterator[TestCluster]:
    """Three hosts that are not patient with one another."""
    with cluster_of(hosts=3, options=QUICK) as made:
        yield made


def test_a_host_that_dies_disappears_with_its_containers(net: TestCluster) -> None:
    first, second, third = net.hosts
    third.lose_power()
    try:
        until(lambda: "node3" not in first.engine("node", "ls").stdout, "the end of the node")
        for host in (first, second):
            until(lambda: len(host.entries()["fdb"]) == 1, "the end of its container's entries")  # noqa: B023
        assert first.engine("exec", "c1", "nslookup", "c3", check=False).returncode
        assert first.ping("c1", "c2")
    finally:
        third.boot()
    until(lambda: "node3" in first.engine("node", "ls").stdout, "the node is back")
    net.until_consistent()


def _address(host: ClusterHost, container: str) -> str:
    return host.engine("inspect", "-f", "{{.NetworkSettings.Networks.net.IPAddress}}", container).stdout.strip()


def test_a_split_network_heals(net: TestCluster) -> None:
    first, second, third = net.hosts
    third.cut()
    until(lambda: "node3" not in first.engine("node", "ls").stdout, "the loss of the node")
    until(lambda: len(first.entries()["fdb"]) == 1, "the end of its container's entries")
    second.engine("rm", "-f", "c2")
    # The cut host's address is free by now, and its container goes on with it: not the one that is given next.
    other = str(ip_address(_address(third, "c3")) + 100)
    first.engine("run", "-d", "--name", "new", "--network", "net", "--ip", other, "busybox", "sleep", "1000")
    assert third.engine("exec", "c3", "true").returncode == 0
    third.mend()
    until(lambda: third.ping("c3", "c1"), "the way to the others")
    until(lambda: first.ping("c1", "c3"), "the way back")
    until(lambda: third.ping("c3", "new"), "what came meanwhile")
    net.until_consistent()
    assert not third.ping("c3", "c2")
