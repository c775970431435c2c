"""The hosts' own network: links that carry less than others, IPv6, and etcd of three members that loses its leader."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.cluster.hosts import Member, TestCluster, cluster_of
from tests.host import until


@pytest.fixture(scope="module")
def machines() -> Iterator[TestCluster]:
    """Two hosts and three members of etcd."""
    with cluster_of(hosts=2, members=3) as made:
        yield made


def _mtu(cluster: TestCluster, number: int) -> str:
    host = cluster.hosts[number - 1]
    return host.inside(f"c{number}", "ip", "link", "show", "eth0").stdout.split("mtu ")[1].split()[0]


def test_the_smallest_link_decides_how_large_packets_are(cluster: TestCluster) -> None:
    first, second = cluster.hosts
    first.engine("network", "create", "-d", "overlay", "net")
    cluster.run_everywhere("net")
    assert [_mtu(cluster, n) for n in (1, 2)] == ["1450", "1450"]
    second.run("ip", "link", "set", "eth0", "mtu", "1400")
    second.restart_daemon()
    try:
        until(lambda: [_mtu(cluster, n) for n in (1, 2)] == ["1350", "1350"], "smaller packets on both hosts")
        cluster.until_all_reach_all()
        until(lambda: first.engine("network", "verify", "net", check=False).returncode == 0, "agreement")
    finally:
        second.run("ip", "link", "set", "eth0", "mtu", "1500")
        second.restart_daemon()
    until(lambda: [_mtu(cluster, n) for n in (1, 2)] == ["1450", "1450"], "larger packets again")


def test_etcd_loses_its_leader(net: TestCluster) -> None:
    first, second = net.hosts
    leader = _leader(net)
    leader.end()
    try:
        until(lambda: _joins(net), "joins with another leader")
        until(lambda: first.ping("c1", "new"), "the new container")
        net.members.sort(key=lambda member: member is leader)  # ask one that lives
        net.until_consistent()
        second.engine("rm", "-f", "new")
        net.until_consistent()
    finally:
        leader.start()
        leader.wait()


def _joins(cluster: TestCluster) -> bool:
    host = cluster.hosts[1]
    done = host.engine("run", "-d", "--name", "new", "--network", "net", "busybox", "sleep", "1000", check=False)
    if done.returncode:
        host.engine("rm", "-f", "new", check=False)
    return done.returncode == 0


def _leader(cluster: TestCluster) -> Member:
    for member in cluster.members:
        status = member.control("endpoint", "status", "-w", "simple").stdout.split(", ")
        if status[4] == "true":
            return member
    raise AssertionError("there is no leader")


def test_the_hosts_may_speak_ipv6_with_each_other(cluster: TestCluster) -> None:
    four = [host.address for host in cluster.hosts]
    for host in cluster.hosts:
        host.stop_daemon()
        host.address = host.address6
        host.start_daemon()
    try:
        cluster.hosts[0].engine("network", "create", "-d", "overlay", "net")
        cluster.run_everywhere("net")
        cluster.until_all_reach_all()
        assert _mtu(cluster, 1) == "1430"
        assert f"dst {cluster.hosts[1].address6}" in "".join(cluster.hosts[0].entries()["fdb"])
        cluster.clear()
    finally:
        for host, address in zip(cluster.hosts, four, strict=True):
            host.stop_daemon()
            host.address = address
            host.start_daemon()
