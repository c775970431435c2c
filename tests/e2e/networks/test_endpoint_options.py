"""Options of one endpoint: address, name of the link, default route, kernel parameters, limits, packet size."""

from __future__ import annotations

import json
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from tests.host import GATEWAY, EngineHost
from tests.namespaces import call_in

MEGABIT = 1e6
LAN = ["--subnet", "192.0.2.0/24", "--gateway", GATEWAY, "--ip-range", "192.0.2.96/28"]


def inspect(host: EngineHost, container: str) -> Any:
    return json.loads(host.engine("inspect", container).stdout)[0]


def read(host: EngineHost, container: str, path: str) -> str:
    return host.engine("exec", container, "cat", f"/proc/sys/{path}").stdout.strip()


def test_a_network_with_everything(clean: EngineHost) -> None:
    host = clean
    host.engine("network", "create", "--subnet", "10.80.0.0/24", "front")
    host.engine("network", "create", "--subnet", "10.81.0.0/24", "back")
    host.engine("run", "-d", "--name", "full", "--network", "front", "--network",
                "name=back,ip=10.81.0.9,mac=02:00:00:00:00:09,alias=store,alias=db,ifname=data0,gw-priority=5,"
                "sysctl=net.ipv4.conf.IFNAME.arp_notify=1,sysctl=net.ipv4.conf.IFNAME.log_martians=1",
                "busybox", "sleep", "1000")  # fmt: skip
    links = host.engine("exec", "full", "ip", "addr").stdout
    assert "data0" in links
    assert "10.81.0.9/24" in links
    assert "02:00:00:00:00:09" in links
    assert "default via 10.81.0.1" in host.engine("exec", "full", "ip", "route").stdout
    assert read(host, "full", "net/ipv4/conf/data0/arp_notify") == "1"
    assert read(host, "full", "net/ipv4/conf/data0/log_martians") == "1"
    assert read(host, "full", "net/ipv4/conf/eth0/log_martians") == "0"
    found = inspect(host, "full")["NetworkSettings"]["Networks"]["back"]
    assert (found["GwPriority"], found["MacAddress"]) == (5, "02:00:00:00:00:09")
    assert set(found["Aliases"]) >= {"store", "db"}
    host.engine("network", "create", "late")
    host.engine("network", "connect", "--gw-priority", "9", "--driver-opt",
                "com.docker.network.endpoint.sysctls=net.ipv4.conf.IFNAME.arp_notify=1", "late", "full")  # fmt: skip
    assert read(host, "full", "net/ipv4/conf/eth1/arp_notify") == "1"
    assert "dev eth1" in host.engine("exec", "full", "ip", "route", "show", "default").stdout
    assert host.engine("doctor").returncode == 0


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("sysctl=net.ipv4.ip_forward=1", "invalid endpoint sysctl"),
        ("sysctl=net.ipv4.conf.eth0.arp_notify=1", "invalid endpoint sysctl"),
        ("sysctl=net.ipv4.conf.IFNAME.nonsense=1", "nonsense"),
        ("rate=10", "greater than or equal to 8000"),
        ("rate-in=fast", "'fast' is no rate"),
        ("ifname=lo", "lo"),
        ("gw-priority=high", "is no number"),
        ("speed=1", "unknown key 'speed'"),
    ],
)
def test_what_is_refused(clean: EngineHost, option: str, text: str) -> None:
    done = clean.engine("run", "--rm", "--network", f"name=bridge,{option}", "busybox", "true", check=False)
    assert done.returncode in (125, 127)  # as docker has it: 127 where something was not found
    assert text in done.stderr


def throughput(source: Path, target: Path, address: str, seconds: float = 1.0) -> float:
    """Return the bits a second that arrive by TCP from one namespace in another, after a moment of warming up."""

    def listen() -> socket.socket:
        return socket.create_server(("", 0))

    server = call_in(target, listen)
    port = server.getsockname()[1]
    ended = threading.Event()

    def send() -> None:
        def work() -> None:
            with socket.create_connection((address, port), timeout=5) as out:
                while not ended.is_set():
                    out.sendall(bytes(16384))

        try:
            call_in(source, work)
        except OSError:
            pass

    sender = threading.Thread(target=send)
    sender.start()
    try:
        server.settimeout(5)
        connection, _ = server.accept()
        with connection, server:
            connection.settimeout(5)
            begin = time.monotonic()
            while time.monotonic() < begin + 0.4:
                connection.recv(65536)
            begin, count = time.monotonic(), 0
            while time.monotonic() < begin + seconds:
                count += len(connection.recv(65536))
            return count * 8 / (time.monotonic() - begin)
    finally:
        ended.set()
        sender.join(10)


@pytest.mark.parametrize("driver", ["bridge", "macvlan"])
def test_limits_both_ways(clean: EngineHost, driver: str) -> None:
    host = clean
    options = [] if driver == "bridge" else [*LAN, "-o", "parent=eth0"]
    host.engine("network", "create", "-d", driver, *options, "-o", "rate=8mbit", "limited")
    host.engine("run", "-d", "--name", "slow", "--network", "limited", "busybox", "sleep", "1000")
    inside = Path(f"/proc/{inspect(host, 'slow')['State']['Pid']}/ns/net")
    own = inspect(host, "slow")["NetworkSettings"]["Networks"]["limited"]["IPAddress"]
    other = host.netns if driver == "bridge" else host.lan
    gateway = inspect(host, "slow")["NetworkSettings"]["Networks"]["limited"]["Gateway"]
    # Bounds are wide: on a loaded machine, what has piled up in buffers counts as well. Without limits it is gigabits.
    sent, received = throughput(inside, other, gateway), throughput(other, inside, own)
    assert 4 * MEGABIT < sent < 12 * MEGABIT
    assert received > 20 * MEGABIT
    host.engine("rm", "-f", "slow")
    host.engine("run", "-d", "--name", "slow", "--network", "name=limited,rate=100mbit,rate-in=8mbit", "busybox",
                "sleep", "1000")  # fmt: skip
    inside = Path(f"/proc/{inspect(host, 'slow')['State']['Pid']}/ns/net")
    own = inspect(host, "slow")["NetworkSettings"]["Networks"]["limited"]["IPAddress"]
    sent, received = throughput(inside, other, gateway), throughput(other, inside, own)
    assert 4 * MEGABIT < received < 12 * MEGABIT
    assert 20 * MEGABIT < sent < 130 * MEGABIT
    assert host.engine("doctor").returncode == 0, host.engine("doctor").stdout
    host.restart_daemon()
    assert host.engine("doctor").returncode == 0, host.engine("doctor").stdout


@pytest.mark.parametrize("driver", ["bridge", "macvlan"])
def test_mtu(clean: EngineHost, driver: str) -> None:
    options = [] if driver == "bridge" else [*LAN, "-o", "parent=eth0"]
    clean.engine("network", "create", "-d", driver, *options, "-o", "com.docker.network.driver.mtu=1300", "small")
    text = clean.engine("run", "--rm", "--network", "small", "busybox", "ip", "link", "show", "eth0").stdout
    assert "mtu 1300" in text
    done = clean.engine("run", "--rm", "--net-driver", driver, "--net-opt", "mtu=1280", "busybox", "ip", "link")
    assert "mtu 1280" in done.stdout
