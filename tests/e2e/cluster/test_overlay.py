"""Overlay networks of a cluster of three hosts, with the real command line, daemons and etcd."""

from __future__ import annotations

from tests.cluster.hosts import GATEWAY, GATEWAY6, ClusterHost, TestCluster
from tests.host import until


def _address(host: ClusterHost, container: str, network: str, field: str = "IPAddress") -> str:
    form = f'{{{{(index .NetworkSettings.Networks "{network}").{field}}}}}'
    return host.engine("inspect", "-f", form, container).stdout.strip()


def test_a_network_made_on_one_host_is_on_all(cluster: TestCluster) -> None:
    first, second, third = cluster.hosts
    id = first.engine("network", "create", "-d", "overlay", "--attachable", "net").stdout.strip()
    for host in cluster.hosts:
        until(lambda: "net" in host.engine("network", "ls", "-q", "--format", "{{.Name}}").stdout, "it")  # noqa: B023
        shown = host.engine("network", "inspect", "-f", "{{.Id}} {{.Scope}} {{.Attachable}}", "net").stdout.split()
        assert shown == [id, "global", "true"]
    again = second.engine("network", "create", "-d", "overlay", "net", check=False)
    assert again.returncode
    assert "already exists" in again.stderr
    third.engine("run", "-d", "--name", "c3", "--network", "net", "busybox", "sleep", "1000")
    refused = first.engine("network", "rm", "net", check=False)
    assert refused.returncode
    assert "in use" in refused.stderr
    third.engine("rm", "-f", "c3")
    first.engine("network", "rm", "net")
    for host in cluster.hosts:
        until(lambda: "net" not in host.engine("network", "ls", "--format", "{{.Name}}").stdout.split(), "its end")  # noqa: B023


def test_containers_reach_each_other_by_address_and_by_name(cluster: TestCluster) -> None:
    first, second, _ = cluster.hosts
    first.engine("network", "create", "-d", "overlay", "--ipv6", "net")
    cluster.run_everywhere("net")
    cluster.until_all_reach_all()
    cluster.until_consistent()
    for family in ("IPAddress", "GlobalIPv6Address"):
        address = _address(second, "c2", "net", family)
        assert address
        assert first.ping("c1", address)
        assert address in first.engine("exec", "c1", "nslookup", "c2").stdout
    second.engine(
        "run", "-d", "--name", "late", "--network", "net", "--network-alias", "db", "busybox", "sleep", "1000"
    )
    until(lambda: first.ping("c1", "db"), "an alias on another host")
    second.engine("rm", "-f", "late")
    until(lambda: first.engine("exec", "c1", "nslookup", "db", check=False).returncode, "the end of the name")
    cluster.until_consistent()


def test_two_overlays_with_one_subnet_are_apart(cluster: TestCluster) -> None:
    first, second, _ = cluster.hosts
    for name in ("red", "blue"):
        first.engine("network", "create", "-d", "overlay", "--subnet", "10.77.0.0/24", name)
        first.engine(
            "run", "-d", "--name", f"{name}1", "--network", name, "--ip", "10.77.0.11", "busybox", "sleep", "1000"
        )
    for name, address in (("red", "10.77.0.12"), ("blue", "10.77.0.22")):
        second.engine("run", "-d", "--name", f"{name}2", "--network", name, "--ip", address, "busybox", "sleep", "1000")
    until(lambda: first.ping("red1", "10.77.0.12"), "an answer within red")
    until(lambda: first.ping("blue1", "10.77.0.22"), "an answer within blue")
    assert not first.ping("red1", "10.77.0.22")
    assert not first.ping("blue1", "10.77.0.12")
    assert first.engine("exec", "red1", "nslookup", "blue2", check=False).returncode
    # Both have the same address on one host; replies from the outside find the right one.
    assert first.ping("red1", GATEWAY)
    assert first.ping("blue1", GATEWAY)


def test_ports_are_published_and_the_outside_is_reached(cluster: TestCluster) -> None:
    first, second, _ = cluster.hosts
    first.engine("network", "create", "-d", "overlay", "--ipv6", "net")
    serve = "while true; do echo served | nc -l -p 80; done"
    first.engine("run", "-d", "--name", "web", "--network", "net", "-p", "8080:80", "busybox", "sh", "-c", serve)
    second.engine("run", "-d", "--name", "c2", "--network", "net", "busybox", "sleep", "1000")
    until(lambda: _served(first), "an answer of the published port")
    assert "8080" in first.engine("port", "web").stdout
    for target in (GATEWAY, GATEWAY6):
        until(lambda: second.ping("c2", target), f"the outside: {target}")  # noqa: B023
    fetched = second.engine("exec", "c2", "nc", "-w", "3", "web", "80", check=False).stdout
    assert fetched.strip() == "served", "inside the network, by name, at the container's own port"
    first.engine("network", "create", "-d", "overlay", "--internal", "closed")
    second.engine("run", "-d", "--name", "shut", "--network", "closed", "busybox", "sleep", "1000")
    assert not second.ping("shut", GATEWAY)


def _served(host: ClusterHost) -> bool:
    try:
        return host.connect(host.address, 8080, lan=True, seconds=2).strip() == b"served"
    except OSError:
        return False


def test_the_largest_packets_pass(cluster: TestCluster) -> None:
    first, second, _ = cluster.hosts
    first.engine("network", "create", "-d", "overlay", "net")
    cluster.run_everywhere("net")
    address = _address(second, "c2", "net")
    until(lambda: first.ping("c1", address), "an answer")
    full = ["ping", "-c1", "-W2", "-M", "do", "-s"]
    assert first.inside("c1", *full, "1422", address, check=False).returncode == 0
    assert first.inside("c1", *full, "1423", address, check=False).returncode != 0


def test_connect_and_disconnect_while_running(cluster: TestCluster) -> None:
    first, second, _ = cluster.hosts
    first.engine("network", "create", "-d", "overlay", "net")
    cluster.run_everywhere("net")
    first.engine("run", "-d", "--name", "guest", "busybox", "sleep", "1000")
    first.engine("network", "connect", "net", "guest")
    until(lambda: first.ping("guest", "c2"), "an answer after connect")
    until(lambda: second.ping("c2", "guest"), "an answer from the guest")
    first.engine("network", "disconnect", "net", "guest")
    until(lambda: not second.ping("c2", "guest"), "the guest's end")
    assert first.ping("guest", GATEWAY)
    cluster.until_consistent()


def test_a_daemon_in_no_cluster_says_how_to_get_one(cluster: TestCluster) -> None:
    host = cluster.hosts[0]
    host.stop_daemon()
    host.start_alone()
    try:
        refused = host.engine("network", "create", "-d", "overlay", "net", check=False)
        assert refused.returncode
        assert "--cluster etcd://" in refused.stderr
    finally:
        host.stop_daemon()
        host.start_daemon()
