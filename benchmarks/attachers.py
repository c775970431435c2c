"""Ways to attach a network namespace to a bridge, all driven alike: ours, the CNI bridge plugin, netavark.

    python benchmarks/attachers.py engine|cni|netavark DIRECTORY

Runs on a machine of its own, and does what it reads, a line at a time: `fill N` attaches until there are N endpoints,
`once` attaches one more, detaches it again, and says how many milliseconds each of the two took; `port` publishes one
more port of an endpoint and says how long that took (`cni` alone), and `ports N` publishes further ones until there are
N. Namespaces are made and removed outside of what is timed, but for ours, whose detaching is dropping the namespace.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Protocol

from engine.network.manager import NetworkManager
from engine.network.model import ContainerRef, EndpointSettings
from engine.plugins import Plugins
from engine.reconcile import netns
from engine.reconcile.applier import Sandbox, Tag
from engine.reconcile.appliers import network_appliers
from engine.reconcile.reconciler import Reconciler
from engine.state import State

CNI = Path("/usr/lib/cni")
NETAVARK = Path("/usr/lib/podman/netavark")
SETTLE_SECONDS = 0.06
"""The kernel removes the links of a dropped namespace behind our backs: that must not be the next one's burden."""
FIRST_PORT = 20000


class Attacher(Protocol):
    """One way."""

    def make(self, n: int) -> None:
        """Make the n-th namespace."""

    def attach(self, n: int) -> None:
        """Attach it."""

    def detach(self, n: int) -> None:
        """Detach it."""

    def drop(self, n: int) -> None:
        """Drop the namespace if it is there still."""


class Engine:
    """The network manager with its database and reconciler, as the daemon calls it."""

    def __init__(self, directory: Path) -> None:
        tag = Tag("be9c4a11", 0x0BE9C4A1, "engine_be9c4a11")
        reconciler = Reconciler(tag, network_appliers(tag))
        self._networks = NetworkManager(State(directory / "db"), Plugins(), reconciler, directory / "netns", self)
        self._networks.restore([])
        self._networks.create("bench", ipam=[{"Subnet": "10.87.0.0/16"}])
        self._sandboxes: dict[int, Sandbox] = {}

    def emit(self, *_: object, **__: object) -> None:
        """Nobody listens to events."""

    @staticmethod
    def _container(n: int) -> ContainerRef:
        return ContainerRef(id=f"{n:064x}", name=f"c{n}", hostname=f"c{n}")

    def make(self, n: int) -> None:
        self._sandboxes[n] = self._networks.sandbox_create(self._container(n).id)

    def attach(self, n: int) -> None:
        self._networks.attach_all(self._container(n), self._sandboxes[n], [("bench", EndpointSettings())])

    def detach(self, n: int) -> None:
        self._networks.detach_all(self._container(n).id)

    def drop(self, n: int) -> None:
        self._networks.sandbox_remove(self._container(n).id)


class _Program:
    """A program that is given a namespace by its path."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "netns").mkdir()

    def path(self, n: int) -> Path:
        return self.directory / "netns" / f"{n}"

    def make(self, n: int) -> None:
        netns.create(self.path(n))

    def drop(self, n: int) -> None:
        netns.destroy(self.path(n))


class Cni(_Program):
    """The bridge plugin with host-local and masquerading; ports by portmap (CNI specification 1.0)."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._results: dict[int, Any] = {}
        ipam = {"type": "host-local", "ranges": [[{"subnet": "10.88.0.0/16"}]], "dataDir": str(directory / "ipam")}
        self._config = {
            "cniVersion": "1.0.0", "name": "bench", "type": "bridge", "bridge": "cni0", "isGateway": True,
            "ipMasq": True, "ipam": ipam,
        }  # fmt: skip

    def _call(self, command: str, n: int, config: dict[str, Any]) -> Any:
        environment = {
            "PATH": os.environ["PATH"], "CNI_COMMAND": command, "CNI_CONTAINERID": f"c{n}", "CNI_IFNAME": "eth0",
            "CNI_NETNS": str(self.path(n)), "CNI_PATH": str(CNI),
        }  # fmt: skip
        said = _run([str(CNI / config["type"])], json.dumps(config), environment)
        return json.loads(said) if said else None

    def attach(self, n: int) -> None:
        self._results[n] = self._call("ADD", n, self._config)

    def detach(self, n: int) -> None:
        self._call("DEL", n, self._config)

    def publish(self, n: int, first: int, count: int) -> None:
        """Publish ports of an endpoint. The plugin keeps a chain for each id: so each call has one of its own."""
        ports = [{"hostPort": first + i, "containerPort": first + i, "protocol": "tcp"} for i in range(count)]
        config = {
            "cniVersion": "1.0.0", "name": "bench", "type": "portmap", "runtimeConfig": {"portMappings": ports},
            "prevResult": self._results[n],
        }  # fmt: skip
        self._call("ADD", n * 100000 + first, config)


class Netavark(_Program):
    """netavark with its own bridge; addresses are given to it, as podman does."""

    def _call(self, command: str, n: int) -> None:
        network = {
            "name": "bench", "id": "b" * 64, "driver": "bridge", "network_interface": "nvk0",
            "created": "2026-01-01T00:00:00Z", "subnets": [{"subnet": "10.89.0.0/16", "gateway": "10.89.0.1"}],
            "ipv6_enabled": False, "internal": False, "dns_enabled": False, "ipam_options": {"driver": "host-local"},
        }  # fmt: skip
        address = f"10.89.{(n + 2) // 256}.{(n + 2) % 256}"
        options = {
            "container_id": f"{n:064x}", "container_name": f"c{n}", "network_info": {"bench": network},
            "networks": {"bench": {"static_ips": [address], "interface_name": "eth0"}},
        }  # fmt: skip
        config = ["--config", str(self.directory)]
        _run([str(NETAVARK), *config, command, str(self.path(n))], json.dumps(options), dict(os.environ))

    def attach(self, n: int) -> None:
        self._call("setup", n)

    def detach(self, n: int) -> None:
        self._call("teardown", n)


def _run(argv: list[str], text: str, environment: dict[str, str]) -> str:
    done = subprocess.run(argv, input=text, env=environment, capture_output=True, text=True, timeout=180, check=False)
    if done.returncode:
        raise RuntimeError(f"{argv}: {done.stdout} {done.stderr}")
    return done.stdout


WAYS: dict[str, type[Any]] = {"engine": Engine, "cni": Cni, "netavark": Netavark}


def once(way: Attacher, n: int) -> list[float]:
    """Attach and detach one endpoint; return milliseconds."""
    way.make(n)
    begin = time.perf_counter()
    way.attach(n)
    attached = time.perf_counter()
    time.sleep(SETTLE_SECONDS)
    ending = time.perf_counter()
    way.detach(n)
    ended = time.perf_counter()
    way.drop(n)
    time.sleep(SETTLE_SECONDS)
    return [(attached - begin) * 1000, (ended - ending) * 1000]


def main() -> None:
    """Do what the standard input says; each answer is a line of JSON."""
    way = WAYS[sys.argv[1]](Path(sys.argv[2]))
    there = ports = 0
    print("ready", flush=True)
    for line in sys.stdin:
        word, _, number = line.strip().partition(" ")
        answer: object = None
        if word == "fill":
            for n in range(there, int(number)):
                way.make(n)
                way.attach(n)
            there = int(number)
        elif word == "once":
            answer = once(way, 5000)
        elif word == "ports":
            way.publish(0, FIRST_PORT + ports, int(number) - ports)
            ports = int(number)
        elif word == "port":
            begin = time.perf_counter()
            way.publish(0, FIRST_PORT + ports, 1)
            answer = (time.perf_counter() - begin) * 1000
            ports += 1
        print(json.dumps(answer), flush=True)
    for path in (Path(sys.argv[2]) / "netns").iterdir():
        netns.destroy(path)


if __name__ == "__main__":
    main()
