"""Whatever the engine made on the host, and somebody deletes, is back in a second; containers notice nothing."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from tests.host import ADDRESS, GATEWAY, EngineHost, until
from tests.namespaces import call_in

_MAPS = ("port", "at", "range")
ECHO = "while :; do nc -l -p 8080 -e cat; done"
Resource = Mapping[str, Any]


class Containers:
    """A container on a shaped bridge with ports, one on a wire, and a connection from outside that stays open."""

    def __init__(self, host: EngineHost) -> None:
        self.host = host
        host.engine("network", "create", "--ipv6", "--subnet", "10.97.0.0/24", "--subnet", "fd00:97::/64", "-o",
                    "icc=false", "-o", "rate=500mbit", "-o", "rate-in=500mbit", "home")  # fmt: skip
        host.engine("network", "create", "-d", "macvlan", "-o", "parent=eth0", "--subnet", "192.0.2.0/24",
                    "--gateway", GATEWAY, "--ip-range", "192.0.2.96/28", "wire")  # fmt: skip
        host.engine("network", "create", "--subnet", "10.98.0.0/24", "-o", "gateway-mode=routed", "open")
        ranges = ["-p", "8400:8080", "-p", "8410-8429:9000-9019", "-p", "8430-8449:8430-8449/udp"]
        host.engine("run", "-d", "--name", "home", "--network", "home", *ranges, "busybox", "sh", "-c", ECHO)
        host.engine("run", "-d", "--name", "wire", "--network", "wire", "busybox", "sleep", "1000")
        host.engine("run", "-d", "--name", "open", "--network", "open", "-p", "80", "busybox", "sleep", "1000")
        self.pids = [self.pid(name) for name in ("home", "wire", "open")]
        self.connection = until(self._connect, "a connection from outside")

    def pid(self, name: str) -> int:
        return int(json.loads(self.host.engine("inspect", name).stdout)[0]["State"]["Pid"])

    def _connect(self) -> socket.socket | None:
        try:
            return call_in(self.host.lan, lambda: socket.create_connection((ADDRESS, 8400), timeout=5))
        except OSError:
            return None

    def unharmed(self) -> None:
        """Fail unless the processes are the same, and what is sent by the old connection comes back."""
        assert [self.pid(name) for name in ("home", "wire", "open")] == self.pids
        self.connection.settimeout(20)
        text = str(time.monotonic_ns()).encode()
        self.connection.sendall(text)
        received = b""
        while len(received) < len(text):
            received += self.connection.recv(100)
        assert received == text
        wire = self.host.engine("exec", "wire", "ping", "-c1", "-W5", GATEWAY, check=False)
        assert wire.returncode == 0

    def close(self) -> None:
        self.connection.close()
        self.host.clear()


@pytest.fixture(scope="module")
def containers(host: EngineHost) -> Iterator[Containers]:
    made = Containers(host)
    yield made
    made.close()


def resources(host: EngineHost) -> list[Resource]:
    """Return the definitions of all that the engine wants on the host."""
    found = []
    for network in ("home", "wire", "open"):
        answer = json.loads(host.engine("network", "plan", "--format", "json", network).stdout)
        assert [row for row in answer["resources"] if row["state"] != "ok"] == []
        for row in answer["resources"]:
            item = row["definition"]
            if item.get("ns", "host") == "host" and item["kind"] != "extern":
                found.append(item)
    return found


def table(host: EngineHost) -> str:
    return f"engine_{host.instance}"


def deletion(host: EngineHost, item: Resource) -> list[str] | None:
    """Return the command that deletes a thing; None for what the firewall holds, which has a test of its own.

    Fails for a kind that is not known here: whatever the engine makes is to be deleted once.
    """
    match item["kind"]:
        case "bridge" | "veth" | "ifb" | "macvlan" | "vlan":
            return ["ip", "link", "delete", item["name"]]
        case "address":
            return ["ip", "address", "delete", item["address"], "dev", item["link"]]
        case "route":
            via = ["via", item["via"]] if item["via"] else []
            family = "-6" if ":" in item["destination"] else "-4"
            return ["ip", family, "route", "delete", item["destination"], *via, "dev", item["link"]]
        case "neighbour":
            return ["ip", "neighbour", "delete", item["address"], "dev", item["link"]]
        case "shape":
            return ["tc", "qdisc", "delete", "dev", item["link"], "root"]
        case "redirect":
            return ["tc", "qdisc", "delete", "dev", item["link"], "ingress"]
        case "sysctl":
            name = item["name"].replace("{link}", item["link"] or "").replace(".", "/")
            return ["sh", "-c", f"echo {1 - int(item['value'])} > /proc/sys/{name}"]
        case "segment" | "masquerade" | "port" | "open-port" | "sealed-port":
            return None
        case "bridge-port":  # a setting, not an object: it goes with its link, which is deleted
            return None
    raise AssertionError(f"nothing here deletes a resource of kind {item['kind']}")


def wrong(host: EngineHost) -> list[str]:
    """Return what is not as it should be on the host: the doctor's list, without a look into the containers."""
    answer = json.loads(host.request("GET", "/engine/doctor")[1])
    return [row["resource"] for row in answer["differences"]]


def assert_repaired(host: EngineHost, damage: Callable[[], object], what: str) -> None:
    """Do damage, and wait until nothing is wrong: a fifth of a second, where no other test has the machine."""
    damage()
    time.sleep(0.02)
    left: list[str] = []

    def well() -> bool:
        left[:] = wrong(host)
        return not left

    try:
        until(well, f"the repair of {what}")
    except AssertionError as err:
        raise AssertionError(f"{err}; left: {left}\n{host.log()[-4000:]}") from None


def test_every_object_returns(containers: Containers) -> None:
    host = containers.host
    kinds = set()
    for item in resources(host):
        command = deletion(host, item)
        if command is not None:
            name = f"{item['kind']} {item.get('name') or item.get('link')}"
            assert_repaired(host, lambda c=command: host.run(*c), f"{name}: {' '.join(command)}")
            kinds.add(item["kind"])
    containers.unharmed()
    assert {"bridge", "veth", "ifb", "address", "shape", "redirect", "sysctl"} <= kinds


def elements(host: EngineHost) -> list[tuple[str, str]]:
    """Return (set, element) of all that the engine's sets and maps contain."""
    found = []
    for item in json.loads(host.run("nft", "-j", "list", "table", "inet", table(host)).stdout)["nftables"]:
        body = item.get("set") or item.get("map") or {}
        found += [(body["name"], element) for element in body.get("elem", ())]
    return found


def test_every_element_of_the_firewall_returns(containers: Containers) -> None:
    host = containers.host
    seen = elements(host)
    used = {name for name, _ in seen}
    assert used >= {"segments", "same", "closed", "routed4", "open4", "masquerade4", "port4", "range4"}
    for name in sorted(used):
        command = ["nft", "flush", "map" if name.startswith(_MAPS) else "set", "inet", table(host), name]
        assert_repaired(host, lambda c=command: host.run(*c), name)
    assert sorted(map(str, elements(host))) == sorted(map(str, seen))
    containers.unharmed()


@pytest.mark.parametrize("command", ["delete table inet {0}", "flush table inet {0}", "flush ruleset",
                                     "flush chain inet {0} prerouting", "delete chain inet {0} guard",
                                     "add rule inet {0} forward drop"])  # fmt: skip
def test_the_firewall_returns(containers: Containers, command: str) -> None:
    host = containers.host
    text = command.format(table(host))
    assert_repaired(host, lambda: host.run("nft", *text.split()), text)
    containers.unharmed()


@pytest.mark.parametrize("name", ["ipv4/ip_forward", "ipv6/conf/all/forwarding"])
def test_forwarding_returns(containers: Containers, name: str) -> None:
    host = containers.host
    assert_repaired(host, lambda: host.run("sh", "-c", f"echo 0 > /proc/sys/net/{name}"), name)
    containers.unharmed()


def test_a_port_that_left_its_bridge_or_was_put_down(containers: Containers) -> None:
    host = containers.host
    name = next(item["name"] for item in resources(host) if item["kind"] == "veth")
    for change in ("nomaster", "down"):
        assert_repaired(host, lambda c=change: host.run("ip", "link", "set", name, c), change)
    containers.unharmed()


def test_the_doctor_says_what_is_wrong_inside_a_container_and_repairs_on_request(containers: Containers) -> None:
    host = containers.host
    assert host.engine("doctor").returncode == 0
    inside = ["nsenter", "-t", str(containers.pids[0]), "--net"]
    host.run(*inside, "ip", "address", "delete", "10.97.0.2/24", "dev", "eth0")
    time.sleep(0.3)  # what a container does to its own namespace is its own business
    done = host.engine("doctor", check=False)
    assert done.returncode == 1
    assert "eth0/10.97.0.2/24" in done.stdout
    assert "missing" in done.stdout
    assert "container home on network home" in done.stdout
    assert host.engine("doctor", "--repair").returncode == 0
    assert host.engine("doctor").returncode == 0
    containers.unharmed()
