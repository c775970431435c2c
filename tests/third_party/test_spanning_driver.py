"""A multi-host driver in a package of its own gets from the core all that the shipped one gets."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.cluster.hosts import cluster_of
from tests.host import until

PACKAGE = Path(__file__).parent / "engine-net-hostroutes"


def test_it_is_conformant(site):
    site.install(PACKAGE)
    verdict = site.run("pytest", "--network-driver", "hostroutes").stdout
    word = "conformant" if os.geteuid() == 0 else "partly conformant"
    assert f"network driver hostroutes: {word} to network spec 1.1: " in verdict
    assert ", 0 failed" in verdict


def routes(host):
    return sorted(host.run("ip", "route", "show", "10.77.0.0/24").stdout.split("\n")) + sorted(
        line for line in host.run("ip", "route").stdout.splitlines() if line.startswith("10.77.0.") and " via " in line
    )


def test_containers_of_two_hosts_reach_each_other(site, monkeypatch):
    site.install(PACKAGE)
    monkeypatch.setenv("PYTHONPATH", str(site.packages))
    with cluster_of(2) as cluster:
        one, two = cluster.hosts
        one.engine("network", "create", "-d", "hostroutes", "--subnet", "10.77.0.0/24", "app")
        until(lambda: "app" in two.engine("network", "ls").stdout, "the network on the other host")
        one.engine("run", "-d", "--name", "aa", "--network", "app", "busybox", "sleep", "1000")
        two.engine("run", "-d", "--name", "bb", "--network", "app", "busybox", "sleep", "1000")
        until(lambda: one.ping("aa", "bb"), "an answer by name")
        assert two.ping("bb", "aa")
        assert len([r for r in routes(one) if f"via {two.address}" in r]) == 1
        # A killed daemon leaves the way to the peers, and its successor keeps it.
        two.kill_daemon()
        assert one.ping("aa", "10.77.0.3")
        two.start_daemon()
        assert two.ping("bb", "aa")
        assert "Everything is as it should be" in two.engine("doctor").stdout
        # The peer ends: nothing of it is left, by address or by name.
        two.engine("rm", "-f", "bb")
        until(lambda: not [r for r in routes(one) if " via " in r], "the end of the route")
        assert "is in use by aa on node1" in two.engine("network", "rm", "app", check=False).stderr
        one.engine("rm", "-f", "aa")
        two.engine("network", "rm", "app")
        until(lambda: "app" not in one.engine("network", "ls").stdout, "the end of the network on the other host")


pytestmark = pytest.mark.timeout(150)
