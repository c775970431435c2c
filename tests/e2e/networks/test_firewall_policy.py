"""The operator's own rules, and firewalls of others beside ours."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from tests.host import ADDRESS, GATEWAY, EngineHost, until
from tests.namespaces import call_in

BAD = "192.0.2.66"
SERVE = "mkdir -p /www && echo -n served >/www/index.html && exec httpd -f -p 8080 -h /www"


def reached(host: EngineHost, source: str, port: int = 8088) -> bool:
    """Tell whether the outside world reaches the published port from one of its addresses."""

    def connect() -> bool:
        try:
            socket.create_connection((ADDRESS, port), timeout=1, source_address=(source, 0)).close()
        except OSError:
            return False
        return True

    return call_in(host.lan, connect)


@pytest.fixture
def web(host: EngineHost) -> Iterator[EngineHost]:
    """A machine whose container publishes 8088, and a world outside with a second address."""
    host.run_lan("ip", "address", "add", f"{BAD}/24", "dev", "eth0")
    host.engine("run", "-d", "--name", "web", "-p", "8088:8080", "busybox", "sh", "-c", SERVE)
    until(lambda: reached(host, GATEWAY), "the first answer")
    yield host
    host.run_lan("ip", "address", "delete", f"{BAD}/24", "dev", "eth0")
    host.clear()
    host.run("nft", "flush", "chain", "inet", table(host), "user", check=False)


def table(host: EngineHost) -> str:
    return f"engine_{host.instance}"


def test_the_operator_blocks_a_published_port_for_one_source(web: EngineHost) -> None:
    host = web
    assert reached(host, BAD)
    host.run("nft", "add", "rule", "inet", table(host), "user", "tcp", "dport", "8088", "ip", "saddr", BAD, "drop")
    assert not reached(host, BAD)
    assert reached(host, GATEWAY)
    host.restart_daemon()
    assert not reached(host, BAD)
    assert reached(host, GATEWAY)
    host.run("nft", "flush", "chain", "inet", table(host), "forward")
    until(lambda: "jump segment" in host.run("nft", "list", "chain", "inet", table(host), "forward").stdout, "a repair")
    host.engine("doctor", "--repair")
    assert not reached(host, BAD)
    assert reached(host, GATEWAY)
    host.engine("port", "add", "web", "8089:8080")
    assert reached(host, BAD, 8089)
    host.engine("rm", "-f", "web")
    host.restart_daemon()
    rules = host.run("nft", "list", "chain", "inet", table(host), "user").stdout
    assert f"ip saddr {BAD}" in rules


DOCKER = """
table ip filter {
    chain FORWARD { type filter hook forward priority filter; policy drop; jump DOCKER-USER; }
    chain DOCKER-USER { return; }
}
"""
UFW = """
table ip filter {
    chain ufw-before-forward { ct state established,related accept; }
    chain FORWARD { type filter hook forward priority filter; policy drop; jump ufw-before-forward; }
}
"""
STRANGER = """
table inet fortress {
    chain forward {
        type filter hook forward priority filter; policy drop;
        ct state established,related accept
        meta mark and 0x01000000 == 0x01000000 accept
    }
    chain other { ip saddr 203.0.113.0/24 counter drop; }
}
"""


def our_rule_is_there(host: EngineHost) -> None:
    until(lambda: table(host) in host.run("nft", "list", "chain", "ip", "filter", "FORWARD").stdout, "our rule")


@pytest.mark.parametrize("rules", [DOCKER, UFW], ids=["dockerd", "one-that-drops-by-default"])
def test_traffic_passes_beside_a_firewall(web: EngineHost, rules: str) -> None:
    host = web
    host.run("nft", "-f", "-", input=rules)
    try:
        our_rule_is_there(host)
        assert reached(host, GATEWAY)
        assert host.engine("exec", "web", "ping", "-c1", "-W5", GATEWAY, check=False).returncode == 0
        host.run("nft", "flush", "chain", "ip", "filter", "FORWARD")  # its owner starts anew
        our_rule_is_there(host)
    finally:
        host.run("nft", "delete", "table", "ip", "filter")


def test_a_strangers_firewall_is_left_alone(web: EngineHost) -> None:
    host = web
    host.run("nft", "-f", "-", input=STRANGER)
    try:
        before = host.run("nft", "list", "table", "inet", "fortress").stdout
        assert reached(host, GATEWAY)
        assert host.engine("exec", "web", "ping", "-c1", "-W5", GATEWAY, check=False).returncode == 0
        host.engine("port", "add", "web", "8087:8080")
        host.engine("doctor", "--repair")
        host.restart_daemon()
        assert host.run("nft", "list", "table", "inet", "fortress").stdout == before
        assert reached(host, GATEWAY, 8087)
    finally:
        host.run("nft", "delete", "table", "inet", "fortress")
