"""Kinds of bridges, with real traffic."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest
from tests.host import ADDRESS, GATEWAY, EngineHost, until
from tests.namespaces import call_in

SERVE = "mkdir -p /www && echo -n served >/www/index.html; httpd -p 8080 -h /www; exec httpd -f -p 8081 -h /www"


def inspect(host: EngineHost, container: str) -> Any:
    return json.loads(host.engine("inspect", container).stdout)[0]["NetworkSettings"]


def start(host: EngineHost, name: str, network: str, *options: str) -> str:
    """Start a server on a network and return its address."""
    host.engine("run", "-d", "--name", name, "--network", network, *options, "busybox", "sh", "-c", SERVE)
    until(lambda: ":8081" in host.engine("exec", name, "netstat", "-ltn").stdout, "a listening server")
    address: str = inspect(host, name)["Networks"][network]["IPAddress"]
    return address


def served(host: EngineHost, address: str, port: int = 8080, *, lan: bool = True) -> bool:
    try:
        return b"served" in host.connect(address, port, lan=lan, send=b"GET / HTTP/1.0\r\n\r\n", seconds=1)
    except OSError:
        return False


def source_outside(host: EngineHost, container: str) -> str:
    """Return the address from which a container's connection arrives in the world outside."""
    server = call_in(host.lan, lambda: socket.create_server((GATEWAY, 0)))
    with server:
        server.settimeout(20)
        host.engine("exec", "-d", container, "nc", "-w", "5", GATEWAY, str(server.getsockname()[1]))
        connection, (source, _) = server.accept()
        connection.close()
    return str(source)


def ping(host: EngineHost, container: str, target: str) -> bool:
    return host.engine("exec", container, "ping", "-c1", "-W1", target, check=False).returncode == 0


def test_internal(clean: EngineHost) -> None:
    host = clean
    host.engine("network", "create", "--internal", "--subnet", "10.90.0.0/24", "inside")
    one, two = start(host, "one", "inside"), start(host, "two", "inside", "-p", "8300:8080")
    assert ping(host, "one", two)
    assert ping(host, "two", one)
    assert served(host, one, lan=False)
    assert not ping(host, "one", GATEWAY)
    assert not served(host, ADDRESS, 8300)
    assert "default" not in host.engine("exec", "one", "ip", "route").stdout


def test_isolated(clean: EngineHost) -> None:
    host = clean
    done = host.engine("network", "create", "-o", "gateway-mode=isolated", "alone", check=False)
    assert done.returncode == 1
    assert "--internal" in done.stderr
    host.engine("network", "create", "--internal", "--subnet", "10.91.0.0/24", "-o",
                "com.docker.network.bridge.gateway_mode_ipv4=isolated", "alone")  # fmt: skip
    one, two = start(host, "one", "alone"), start(host, "two", "alone")
    assert ping(host, "one", two)
    assert ping(host, "two", one)
    assert "10.91." not in host.run("ip", "address").stdout
    assert not served(host, one, lan=False)


def test_no_traffic_between_containers(clean: EngineHost) -> None:
    host = clean
    host.engine("network", "create", "--subnet", "10.92.0.0/24", "-o", "icc=false", "apart")
    start(host, "one", "apart")
    two = start(host, "two", "apart", "-p", "8301:8080")
    assert not ping(host, "one", two)
    assert ping(host, "one", GATEWAY)
    assert served(host, ADDRESS, 8301)


def test_routed(clean: EngineHost) -> None:
    host = clean
    host.engine("network", "create", "--subnet", "10.93.0.0/24", "-o", "gateway-mode=routed", "open")
    address = start(host, "one", "open", "-p", "8302:8080")
    host.run_lan("ip", "route", "add", "10.93.0.0/24", "via", ADDRESS)
    try:
        assert served(host, address)
        assert not served(host, address, 8081)  # not published
        assert not served(host, ADDRESS, 8302)  # no port of the host
        assert host.run_lan("ping", "-c1", "-W2", address, check=False).returncode == 0
        assert inspect(host, "one")["Ports"]["8080/tcp"] == [{"HostIp": address, "HostPort": "8080"}]
        assert f"{address}:8080->8080/tcp" in host.docker("ps").stdout
        assert source_outside(host, "one") == address  # not the host's
        host.engine("port", "add", "one", "8081")
        assert served(host, address, 8081)
        host.engine("port", "rm", "one", "8080")
        assert not served(host, address)
        host.restart_daemon()
        assert served(host, address, 8081)
        assert host.engine("doctor").returncode == 0
        host.engine("restart", "-t", "0", "one")
        until(lambda: served(host, address, 8081), "the port after a restart")
    finally:
        host.run_lan("ip", "route", "delete", "10.93.0.0/24", "via", ADDRESS)
        host.engine("rm", "-f", "one")


def test_trusted_host_links(clean: EngineHost) -> None:
    host = clean
    host.engine("network", "create", "--subnet", "10.94.0.0/24", "strict")
    host.engine("network", "create", "--subnet", "10.95.0.0/24", "-o", "trusted-host-interfaces=eth0:eth9", "friendly")
    strict, friendly = start(host, "one", "strict"), start(host, "two", "friendly")
    for subnet in ("10.94.0.0/24", "10.95.0.0/24"):
        host.run_lan("ip", "route", "add", subnet, "via", ADDRESS)
    try:
        assert not served(host, strict)
        assert served(host, friendly)
        assert served(host, friendly, 8081)
    finally:
        for subnet in ("10.94.0.0/24", "10.95.0.0/24"):
            host.run_lan("ip", "route", "delete", subnet, "via", ADDRESS)


def bridge_state(host: EngineHost) -> dict[str, Any]:
    """Return what belongs to the host's own bridge, and must not change."""
    (link,) = json.loads(host.run("ip", "-j", "-d", "address", "show", "br0").stdout)
    settings = (
        "forward_delay",
        "ageing_time",
        "stp_state",
        "priority",
        "vlan_filtering",
        "mcast_snooping",
        "bridge_id",
    )
    return {
        "link": {k: link.get(k) for k in ("ifname", "address", "mtu", "group", "ifalias", "master", "txqlen")},
        "settings": {k: link["linkinfo"]["info_data"][k] for k in settings},
        "addresses": [(a["local"], a["prefixlen"], a["scope"]) for a in link["addr_info"]],
        "up": "UP" in link["flags"],
        "routes": host.run("ip", "route", "show", "dev", "br0").stdout.split(),
    }


@pytest.fixture
def bridged(host: EngineHost) -> Any:
    """A machine with a bridge of its own, on which there is a port already."""
    host.run("ip", "link", "add", "br0", "type", "bridge")
    host.run(
        "ip", "link", "add", "port0", "address", "66:00:00:00:00:01", "mtu", "1450", "type", "veth", "peer", "port1"
    )
    host.run("ip", "link", "set", "port0", "master", "br0", "up")
    host.run("ip", "link", "set", "port1", "up")
    host.run("ip", "address", "add", "10.96.0.7/24", "dev", "br0")
    host.run("ip", "link", "set", "br0", "up")
    until(lambda: "66:00:00:00:00:01" in host.run("ip", "link", "show", "br0").stdout, "the bridge's own address")
    yield host
    host.clear()
    host.engine("run", "--rm", "busybox", "true")  # the monitors' cgroup, which a daemon's end takes along, is back
    host.run("ip", "link", "delete", "br0")
    host.run("ip", "link", "delete", "port0")


def test_an_adopted_bridge(bridged: EngineHost) -> None:
    host = bridged
    before = bridge_state(host)
    done = host.engine("network", "create", "-o", "name=br0", "mine", check=False)
    assert "the host has a link br0 already" in done.stderr
    for options, text in (
        (["-o", "adopt=true"], "not named"),
        (["-o", "adopt=true", "-o", "name=br9"], "no link 'br9'"),
        (["-o", "adopt=true", "-o", "name=br0", "--internal"], "it is adopted"),
        (["-o", "adopt=true", "-o", "name=br0", "--ipv6"], "br0 has no IPv6 address"),
    ):
        done = host.engine("network", "create", *options, "mine", check=False)
        assert done.returncode == 1
        assert text in done.stderr
    host.engine("network", "create", "-o", "name=br0", "-o", "adopt=true", "mine")
    (pool,) = json.loads(host.engine("network", "inspect", "mine").stdout)[0]["IPAM"]["Config"]
    assert pool == {"Subnet": "10.96.0.0/24", "Gateway": "10.96.0.7"}
    one, two = start(host, "one", "mine"), start(host, "two", "mine", "-p", "8303:8080")
    assert ping(host, "one", two)
    assert ping(host, "two", "10.96.0.7")
    assert served(host, one, lan=False)
    assert served(host, ADDRESS, 8303)
    assert "mtu 1450" in host.engine("exec", "one", "ip", "link", "show", "eth0").stdout
    assert bridge_state(host) == before
    host.restart_daemon()
    host.engine("doctor", "--repair")
    assert bridge_state(host) == before
    assert served(host, ADDRESS, 8303)
    host.engine("rm", "-f", "one", "two")
    host.engine("network", "rm", "mine")
    host.restart_daemon()
    assert bridge_state(host) == before
