"""Networks as containers, the host and the outside world see them, by both command lines."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.host import ADDRESS, GATEWAY, EngineHost, until

from .conftest import Cli

SERVE = "while :; do echo served | nc -l -p 8080; done"


def inspect(cli: Cli, *words: str) -> Any:
    return json.loads(cli(*words).stdout)[0]


def address(cli: Cli, container: str, network: str) -> str:
    found: str = inspect(cli, "inspect", container)["NetworkSettings"]["Networks"][network]["IPAddress"]
    return found


def reachable(cli: Cli, container: str, target: str, seconds: int = 5) -> bool:
    return cli("exec", container, "ping", "-c1", f"-W{seconds}", target, check=False).returncode == 0


def test_create_inspect_remove(cli: Cli, clean: EngineHost) -> None:
    id = cli("network", "create", "--subnet", "10.77.0.0/16", "--ip-range", "10.77.5.0/24", "--gateway", "10.77.0.9",
             "--aux-address", "spare=10.77.5.1", "--label", "a=b", "mine").stdout.strip()  # fmt: skip
    found = inspect(cli, "network", "inspect", "mine")
    assert (found["Id"], found["Driver"], found["Labels"]) == (id, "bridge", {"a": "b"})
    (pool,) = found["IPAM"]["Config"]
    assert (pool["Subnet"], pool["IPRange"], pool["Gateway"]) == ("10.77.0.0/16", "10.77.5.0/24", "10.77.0.9")
    text = cli("run", "--rm", "--network", "mine", "busybox", "sh", "-c", "ip addr show eth0; ip route").stdout
    assert "inet 10.77.5." in text
    assert "inet 10.77.5.1/" not in text
    assert "default via 10.77.0.9" in text
    assert id[:12] in cli("network", "ls", "-f", "label=a=b").stdout
    cli("network", "rm", "mine")
    assert cli("network", "inspect", "mine", check=False).returncode == 1


def test_fixed_address_and_mac(cli: Cli, clean: EngineHost) -> None:
    cli("network", "create", "--subnet", "10.78.0.0/24", "fixed")
    text = cli("run", "--rm", "--network", "fixed", "--ip", "10.78.0.77", "--mac-address", "02:00:00:00:00:77",
               "busybox", "ip", "addr", "show", "eth0").stdout  # fmt: skip
    assert "inet 10.78.0.77/24" in text
    assert "02:00:00:00:00:77" in text
    cli("run", "-d", "--name", "holder", "--network", "fixed", "--ip", "10.78.0.77", "busybox", "sleep", "1000")
    done = cli("run", "--rm", "--network", "fixed", "--ip", "10.78.0.77", "busybox", "true", check=False)
    assert done.returncode == 125
    assert "10.78.0.77" in done.stderr


def test_containers_of_one_bridge_meet_and_those_of_two_do_not(cli: Cli, clean: EngineHost) -> None:
    for name in ("red", "blue"):
        cli("network", "create", name)
    cli("run", "-d", "--name", "red1", "--network", "red", "busybox", "sleep", "1000")
    cli("run", "-d", "--name", "red2", "--network", "red", "busybox", "sleep", "1000")
    cli("run", "-d", "--name", "blue1", "--network", "blue", "busybox", "sleep", "1000")
    assert reachable(cli, "red1", address(cli, "red2", "red"))
    assert not reachable(cli, "red1", address(cli, "blue1", "blue"), 1)
    cli("network", "connect", "red", "blue1")
    assert reachable(cli, "blue1", address(cli, "red1", "red"))
    assert len(inspect(cli, "network", "inspect", "red")["Containers"]) == 3
    done = cli("network", "rm", "red", check=False)
    assert done.returncode == 1
    assert "red1" in done.stderr or "active endpoints" in done.stderr
    cli("network", "disconnect", "red", "blue1")
    assert not reachable(cli, "blue1", address(cli, "red1", "red"), 1)
    assert "eth1" not in cli("exec", "blue1", "ip", "addr").stdout


def test_the_world_outside_sees_the_hosts_address(cli: Cli, clean: EngineHost) -> None:
    with clean.listen(7000, lan=True) as server:
        server.settimeout(20)
        cli("run", "-d", "busybox", "sh", "-c", f"echo hello | nc -w 5 {GATEWAY} 7000")
        connection, (source, _) = server.accept()
        with connection:
            assert connection.recv(100) == b"hello\n"
        assert source == ADDRESS


def test_internal_networks_have_no_way_out(cli: Cli, clean: EngineHost) -> None:
    cli("network", "create", "--internal", "inside")
    done = cli("run", "--rm", "--network", "inside", "busybox", "ping", "-c1", "-W1", GATEWAY, check=False)
    assert done.returncode == 1


def test_published_port(cli: Cli, clean: EngineHost) -> None:
    cli("run", "-d", "--name", "server", "-p", "8081:8080", "busybox", "sh", "-c", SERVE)
    assert cli("port", "server").stdout.splitlines()[0] == "8080/tcp -> 0.0.0.0:8081"
    assert "0.0.0.0:8081->8080/tcp" in cli("ps").stdout
    until(lambda: _served(clean, "127.0.0.1"), "an answer on loopback")
    until(lambda: _served(clean, ADDRESS), "an answer on the host's address")
    until(lambda: _served(clean, ADDRESS, lan=True), "an answer to the world outside")
    done = cli("run", "--name", "second", "-p", "8081:80", "busybox", "true", check=False)
    assert done.returncode == 125
    assert "8081" in done.stderr
    assert "server" in done.stderr
    cli("rm", "-f", "server")
    with pytest.raises(OSError):
        clean.connect(ADDRESS, 8081, lan=True, seconds=2)


def _served(host: EngineHost, address: str, *, lan: bool = False) -> bool:
    try:
        return host.connect(address, 8081, lan=lan) == b"served\n"
    except OSError:
        return False


def test_a_port_that_another_process_has_is_refused(cli: Cli, clean: EngineHost) -> None:
    with clean.listen(8082):
        done = cli("run", "--rm", "-p", "8082:80", "busybox", "true", check=False)
        assert done.returncode == 125
        assert "8082" in done.stderr


def test_a_port_chosen_by_the_engine(cli: Cli, clean: EngineHost) -> None:
    cli("run", "-d", "--name", "any", "-p", "127.0.0.1::8080/udp", "busybox", "sleep", "1000")
    answer = cli("port", "any", "8080/udp").stdout.strip()
    assert answer.startswith("127.0.0.1:")
    assert int(answer.rpartition(":")[2]) >= 1024


def test_macvlan_is_reachable_from_outside(cli: Cli, clean: EngineHost) -> None:
    cli("network", "create", "-d", "macvlan", "-o", "parent=eth0", "--subnet", "192.0.2.0/24", "--gateway", GATEWAY,
        "--ip-range", "192.0.2.64/26", "lan")  # fmt: skip
    cli("run", "-d", "--name", "neighbour", "--network", "lan", "--ip", "192.0.2.70", "busybox", "sleep", "1000")
    assert clean.run_lan("ping", "-c1", "-W5", "192.0.2.70", check=False).returncode == 0
    assert reachable(cli, "neighbour", GATEWAY)


@pytest.mark.parametrize("mode", ["bridge", "private", "vepa", "passthru"])
def test_modes_of_macvlan(host: EngineHost, clean: EngineHost, mode: str) -> None:
    host.run("ip", "link", "add", "spare0", "type", "veth", "peer", "name", "spare1")
    try:
        done = host.engine("run", "--rm", "--net-driver", "macvlan", "--net-opt", "parent=spare0", "--net-opt",
                           f"mode={mode}", "engine.local/host", "ip", "-d", "link", "show", "eth0")  # fmt: skip
        assert f"macvlan mode {mode}" in done.stdout
    finally:
        host.run("ip", "link", "delete", "spare0")


def test_ipv6(cli: Cli, clean: EngineHost) -> None:
    cli("network", "create", "--ipv6", "--subnet", "10.79.0.0/24", "--subnet", "fd00:79::/64", "six")
    text = cli("run", "--rm", "--network", "six", "busybox", "sh", "-c", "ip -6 addr show eth0; ip -6 route").stdout
    assert "fd00:79::" in text
    assert "default via fd00:79::1" in text


def test_sharing_a_namespace(cli: Cli, clean: EngineHost) -> None:
    cli("run", "-d", "--name", "first", "busybox", "sh", "-c", SERVE)
    done = cli("run", "--rm", "--network", "container:first", "busybox", "sh", "-c",
               "until nc -w 2 127.0.0.1 8080 </dev/null | grep served; do sleep .1; done")  # fmt: skip
    assert done.stdout == "served\n"


def test_prune(cli: Cli, clean: EngineHost) -> None:
    cli("network", "create", "unused")
    cli("network", "create", "used")
    cli("run", "-d", "--network", "used", "busybox", "sleep", "1000")
    cli("network", "prune", "-f")
    names = cli("network", "ls", "--format", "{{.Name}}").stdout.split()
    assert "used" in names
    assert "unused" not in names
    assert {"bridge", "host", "none"} <= set(names)


def test_plan_is_shown(host: EngineHost, clean: EngineHost) -> None:
    host.engine("network", "create", "shown")
    assert "link/host/br-" in host.engine("network", "plan", "shown").stdout
    refused = host.engine("network", "verify", "shown", check=False)
    assert "network shown is this host's alone" in refused.stderr
