"""Joining with one command, leaving, nodes that are alike, a file of peers: real daemons."""

from __future__ import annotations

import json

import pytest
from tests.cluster.hosts import QUICK, cluster_of
from tests.host import EngineHost, until

pytestmark = pytest.mark.timeout(240)


def join(host, name):
    host.engine("run", "-d", "--name", name, "--network", "app", "busybox", "sleep", "1000")


def test_a_second_machine_joins_with_one_command_and_leaves():
    with cluster_of(2, options=QUICK) as cluster:
        one, two = cluster.hosts
        two.kill_daemon()
        until(lambda: "node2" not in one.engine("node", "ls").stdout, "the end of the node")
        plain = two.daemon_options.index("--cluster")
        del two.daemon_options[plain : plain + 2]
        grace = two.daemon_options.index("--cluster-grace")
        del two.daemon_options[grace : grace + 2]
        EngineHost.start_daemon(two)
        refused = two.engine("network", "create", "-d", "overlay", "app", check=False)
        assert "this daemon is in none" in refused.stderr
        assert "--cluster etcd://" in refused.stderr
        token = one.engine("node", "token").stdout.strip()
        taken = two.engine("node", "join", token, "--node-name", "node1", "--advertise", two.address, check=False)
        assert "has a node node1 already" in taken.stderr
        told = two.engine("node", "join", token, "--node-name", "second", "--advertise", two.address).stdout
        assert told == f"node second at {two.address} is in the cluster\n"
        one.engine("network", "create", "-d", "overlay", "app")
        until(lambda: "app" in two.engine("network", "ls").stdout, "the network on the second machine")
        join(one, "web")
        join(two, "db")
        until(lambda: two.ping("db", "web"), "an answer by name")
        # It is a node again after a restart, without an option.
        two.kill_daemon()
        EngineHost.start_daemon(two)
        assert two.ping("db", "web")
        assert "second" in one.engine("node", "ls", "-q").stdout
        refused = two.engine("node", "leave", check=False)
        assert "containers are on networks of the cluster: app" in refused.stderr
        two.engine("rm", "-f", "db")
        two.engine("node", "leave")
        until(lambda: "second" not in one.engine("node", "ls", "-q").stdout, "the end of the node")
        assert "app" not in two.engine("network", "ls").stdout


def test_a_file_of_peers(tmp_path):
    peers = tmp_path / "peers.json"
    nodes = [{"name": f"node{n}", "address": f"192.0.2.{10 + n}"} for n in (1, 2)]
    peers.write_text(json.dumps({"nodes": nodes, "addresses_per_node": 16}))
    with cluster_of(2, members=0, url=f"file://{peers}") as cluster:
        for host in cluster.hosts:
            host.engine("network", "create", "-d", "overlay", "--subnet", "10.66.0.0/24", "app")
        one, two = cluster.hosts
        assert "static" in one.engine("node", "ls").stdout
        join(one, "web")
        join(two, "db")
        address = json.loads(one.engine("inspect", "web").stdout)[0]["NetworkSettings"]["Networks"]["app"]["IPAddress"]
        until(lambda: two.ping("db", address), "an answer by address")
        one.kill_daemon()
        one.start_daemon()
        assert two.ping("db", address)
        for host, name in ((one, "web"), (two, "db")):
            host.engine("rm", "-f", name)
            host.engine("network", "rm", "app")
            assert not host.entries()["fdb"]
