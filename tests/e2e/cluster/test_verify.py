"""`engine network verify`: every host's entries against the cluster's, and the largest packets between every pair."""

from __future__ import annotations

import json
from typing import Any

from tests.cluster.hosts import ClusterHost, TestCluster
from tests.host import until


def _verify(host: ClusterHost) -> dict[str, Any]:
    done = host.engine("network", "verify", "--format", "json", "net", check=False)
    found: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == (0 if found["Ok"] else 1)
    return found


def _problems(found: dict[str, Any]) -> dict[str, list[str]]:
    rows = {h["node"]: [*h["problems"], *(p["problem"] for p in h["paths"] if p["problem"])] for h in found["Hosts"]}
    return {node: problems for node, problems in rows.items() if problems}


def test_all_hosts_are_asked_and_agree(net: TestCluster) -> None:
    first = net.hosts[0]
    until(lambda: _verify(first)["Ok"], "agreement")
    found = _verify(first)
    assert [(h["node"], h["containers"], h["entries"]) for h in found["Hosts"]] == [
        ("node1", 1, 2), ("node2", 1, 2), ("node3", 1, 2),
    ]  # fmt: skip
    for host in found["Hosts"]:
        others = sorted({"node1", "node2", "node3"} - {host["node"]})
        assert [(p["to"], p["bytes"], p["problem"]) for p in host["paths"]] == [(o, 1500, "") for o in others]
    table = first.engine("network", "verify", "net").stdout
    assert "PROBLEMS" in table
    assert table.count("none") == 3
    assert not net.keys("engine/1/questions/")
    assert not net.keys("engine/1/answers/")


def test_what_is_wrong_on_another_host_is_found(net: TestCluster) -> None:
    first, second, _ = net.hosts
    until(lambda: _verify(first)["Ok"], "agreement")
    # An endpoint that nobody has: the cluster's records are wrong, and the hosts take them for true.
    (known, *_) = [e for e in net.values("engine/1/endpoints/") if e["node"] == "node3"]
    ghost = known | {"id": "0" * 64, "mac": "02:00:00:00:00:99", "addresses": [], "name": "ghost"}
    key = f"engine/1/endpoints/{ghost['network']}/{ghost['id']}"
    net.members[0].control("put", key, json.dumps(ghost))
    until(lambda: "node3" in _problems(_verify(first)), "a complaint of the host")
    assert any("a container ghost here which is not there" in p for p in _problems(_verify(first))["node3"])
    net.members[0].control("del", key)
    until(lambda: _verify(first)["Ok"], "agreement")
    # A path that carries less than all believe.
    second.wire.run("ip", "link", "set", second.port, "mtu", "1400")
    try:
        found = _problems(_verify(first))
        assert any("1500 bytes do not reach" in p for p in found["node1"]), found
    finally:
        second.wire.run("ip", "link", "set", second.port, "mtu", "1500")
    # A host that is silent.
    second.kill_daemon()
    try:
        found = _problems(_verify(first))
        assert found == {"node2": ["its daemon gives no answer"]}
    finally:
        second.start_daemon()
    until(lambda: _verify(first)["Ok"], "agreement")


def test_a_network_of_one_host_is_not_verified(net: TestCluster) -> None:
    refused = net.hosts[0].engine("network", "verify", "bridge", check=False)
    assert refused.returncode
    assert "this host's alone" in refused.stderr
