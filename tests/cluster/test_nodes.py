"""Joining with one command, leaving, nodes that are alike, an etcd that is away, a file of peers: real daemons."""

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


def test_an_etcd_that_is_away():
    with cluster_of(2) as cluster:
        one, two = cluster.hosts
        one.engine("network", "create", "-d", "overlay", "app")
        until(lambda: "app" in two.engine("network", "ls").stdout, "the network on the second machine")
        join(one, "web")
        join(two, "db")
        until(lambda: two.ping("db", "web"), "an answer by name")
        cluster.members[0].end()
        assert two.ping("db", "web")
        refused = two.engine("run", "--rm", "--network", "app", "busybox", "true", check=False)
        assert "the cluster's etcd cannot be reached" in refused.stderr
        two.engine("run", "--rm", "busybox", "true")
        assert "cannot be reached" in two.engine("doctor", check=False).stdout
        one.engine("rm", "-f", "web")
        two.kill_daemon()
        two.start_daemon()
        cluster.members[0].start()
        cluster.members[0].wait()
        until(lambda: not two.entries()["fdb"], "the end of what is left of the peer")
        join(one, "web")
        until(lambda: two.ping("db", "web"), "an answer by name")
        until(lambda: two.engine("doctor", check=False).returncode == 0, "a doctor that is content")


def test_a_file_of_peers(tmp_path):
    with cluster_of(2) as cluster:
        peers = tmp_path / "peers.json"
        nodes = [{"name": h.node, "address": h.address} for h in cluster.hosts]
        peers.write_text(json.dumps({"nodes": nodes, "addresses_per_node": 16}))
        for host in cluster.hosts:
            host.stop_daemon()
            host.daemon_options[host.daemon_options.index("--cluster") + 1] = f"file://{peers}"
        for member in cluster.members:
            member.end()
        for host in cluster.hosts:
            host.start_daemon()
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
