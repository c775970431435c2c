"""A cluster in namespaces: several machines with a daemon each, joined by a bridge, and etcd on machines of its own.

    the wire      a network namespace with a bridge, 192.0.2.1: what joins the machines, and the outside world
    hosts         `ClusterHost`: node1 at 192.0.2.11, node2 at 192.0.2.12 ...; each is an `EngineHost`
    etcd members  `Member`: 192.0.2.201 ...

Links are cut, members and daemons killed, hosts lose their power or get another address. Nothing leaves the machine:
no namespace has a way to its links.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest
from tests.host import SECONDS, Done, EngineHost, skip_unless_possible, until

GATEWAY, GATEWAY6 = "192.0.2.1", "2001:db8:2::1"
WIRE = "wire"
QUICK = ("--cluster-grace", "6")
"""Seconds of patience with a node that gives no sign of life, for tests that wait for its end."""


def skip_unless_clusters_are_possible() -> None:
    """Skip the test where no cluster can run, with the reason."""
    skip_unless_possible()
    if shutil.which("etcd") is None:
        pytest.skip("not installed: etcd")


class Namespace:
    """A network namespace on the wire, held by a process that ends with us."""

    def __init__(self) -> None:
        argv = ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "sleep", "86400"]
        self._holder = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
        self.pid = self._holder.pid
        comm = Path(f"/proc/{self.pid}/comm")
        until(lambda: comm.read_text().strip() == "sleep", "a process with a namespace of its own")
        self.enter = ["nsenter", "-t", str(self.pid), "--net"]
        self.run("ip", "link", "set", "lo", "up")

    def run(self, *argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command in it."""
        done = subprocess.run([*self.enter, *argv], capture_output=True, text=True, timeout=SECONDS, check=False)
        assert not check or done.returncode == 0, f"{argv}: {done.stderr or done.stdout}"
        return done

    def close(self) -> None:
        """Let go of it."""
        self._holder.kill()
        self._holder.wait(SECONDS)


class Wire(Namespace):
    """The bridge that joins all machines, and the outside world."""

    def __init__(self, mtu: int) -> None:
        super().__init__()
        self.mtu = mtu
        self.run("ip", "link", "add", WIRE, "mtu", str(mtu), "type", "bridge")
        self.run("ip", "address", "add", f"{GATEWAY}/24", "dev", WIRE)
        self.run("ip", "address", "add", f"{GATEWAY6}/64", "dev", WIRE, "nodad")
        self.run("ip", "link", "set", WIRE, "up")

    def plug(self, name: str, pid: int, address: str, address6: str) -> None:
        """Give the namespace of a process a link `eth0` to the wire, whose other end is `name`."""
        inside = ["nsenter", "-t", str(pid), "--net", "ip"]
        self.run("ip", "link", "add", name, "mtu", str(self.mtu), "type", "veth", "peer", "name", "eth0", "netns",
                 str(pid))  # fmt: skip
        self.run("ip", "link", "set", name, "master", WIRE, "up")
        for words in (
            ("link", "set", "eth0", "mtu", str(self.mtu), "up"), ("address", "add", f"{address}/24", "dev", "eth0"),
            ("address", "add", f"{address6}/64", "dev", "eth0", "nodad"), ("route", "add", "default", "via", GATEWAY),
            ("-6", "route", "add", "default", "via", GATEWAY6),
        ):  # fmt: skip
            subprocess.run([*inside, *words], check=True, timeout=SECONDS)


class Member:
    """A member of etcd, on a machine of its own."""

    def __init__(self, wire: Wire, number: int, count: int, directory: Path) -> None:
        self.name, self.address = f"etcd{number}", f"192.0.2.{200 + number}"
        self.url = f"http://{self.address}:2379"
        self.machine = Namespace()
        wire.plug(self.name, self.machine.pid, self.address, f"2001:db8:2::{200 + number}")
        self._log = directory / f"{self.name}.log"
        peers = ",".join(f"etcd{n}=http://192.0.2.{200 + n}:2380" for n in range(1, count + 1))
        self._argv = [
            "etcd", "--name", self.name, "--data-dir", str(directory / self.name),
            "--listen-client-urls", self.url, "--advertise-client-urls", self.url,
            "--listen-peer-urls", f"http://{self.address}:2380",
            "--initial-advertise-peer-urls", f"http://{self.address}:2380",
            "--initial-cluster", peers, "--initial-cluster-state", "new",
            "--unsafe-no-fsync",  # members are killed here, but no machine is: what is written stays
        ]  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, for the first time or again; `wait` until it answers."""
        with self._log.open("ab") as log:
            enter = ["setpriv", "--pdeathsig", "KILL", *self.machine.enter]
            self._process = subprocess.Popen([*enter, *self._argv], stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def wait(self) -> None:
        """Wait until it takes part in a working cluster of members."""
        until(
            lambda: self.control("endpoint", "health").returncode == 0, f"{self.name}: {self._log.read_text()[-600:]}"
        )

    def control(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run etcdctl on its machine."""
        argv = ["env", "ETCDCTL_API=3", "etcdctl", "--endpoints", self.url, "--command-timeout", "5s", *words]
        return self.machine.run(*argv, check=False)

    def end(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Kill it; its data stay."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(SECONDS)
            self._process = None

    def close(self) -> None:
        self.end()
        self.machine.close()


class ClusterHost(EngineHost):
    """A machine of the cluster; `node` is its name there."""

    def __init__(self, wire: Wire, number: int, *daemon_options: str) -> None:
        super().__init__(*daemon_options)
        self.wire, self.number = wire, number
        self.node, self.port = f"node{number}", f"host{number}"
        self.address, self.address6 = f"192.0.2.{10 + number}", f"2001:db8:2::{10 + number}"

    def make(self) -> None:
        """Make the machine, without its daemon. In the thread that outlives it: its processes end with their parent."""
        self._make_machine()

    def _make_machine(self) -> None:
        self.pid = self._hold("--net", "--mount", "--propagation", "private")
        self.lan_pid = self.wire.pid
        self.netns, self.lan = (Path(f"/proc/{pid}/ns/net") for pid in (self.pid, self.lan_pid))
        self.run("ip", "link", "set", "lo", "up")
        self.wire.plug(self.port, self.pid, self.address, self.address6)

    def start_daemon(self, *options: str) -> None:
        """Start the daemon as a node of the cluster, and wait until it answers."""
        super().start_daemon("--advertise", self.address, "--node-name", self.node, *options)

    def start_alone(self) -> None:
        """Start the daemon without a cluster."""
        options, self.daemon_options = self.daemon_options, []
        try:
            super().start_daemon()
        finally:
            self.daemon_options = options

    def cut(self) -> None:
        """Take its cable out."""
        self.wire.run("ip", "link", "set", self.port, "down")

    def mend(self) -> None:
        """Put it back."""
        self.wire.run("ip", "link", "set", self.port, "up")

    def move(self, address: str) -> None:
        """Give the machine another address instead of its own; the daemon learns of it when it is started anew."""
        self.run("ip", "address", "add", f"{address}/24", "dev", "eth0")
        self.run("ip", "address", "del", f"{self.address}/24", "dev", "eth0")
        # The second address went with the first one if it was a secondary one of its subnet.
        self.run("ip", "address", "replace", f"{address}/24", "dev", "eth0")
        self.run("ip", "route", "replace", "default", "via", GATEWAY)
        self.address = address

    def lose_power(self) -> None:
        """Everything on the machine ends at once: daemon, containers, namespaces. Its disk stays."""
        self.kill_daemon()
        self.kill_containers()
        self._holders.pop().kill()
        self.wire.run("ip", "link", "delete", self.port, check=False)
        until(lambda: self.port not in self.wire.run("ip", "-br", "link").stdout, "the end of its cable")

    def boot(self) -> None:
        """Start the machine again after `lose_power`: fresh namespaces, an empty exec root, and the daemon."""
        shutil.rmtree(self.exec_root, ignore_errors=True)
        self.make()
        self.start_daemon()

    def entries(self) -> dict[str, list[str]]:
        """Return what the kernel has for containers of other hosts: forwarding entries and neighbours, sorted."""
        fdb = self.run("bridge", "fdb", "show").stdout.splitlines()
        neighbours = self.run("ip", "neigh", "show", "nud", "permanent").stdout.splitlines()
        neighbours += self.run("ip", "-6", "neigh", "show", "nud", "permanent").stdout.splitlines()
        return {
            "fdb": sorted(line for line in fdb if " dst " in line and not line.startswith("00:00:00:00:00:00")),
            "neighbours": sorted(line for line in neighbours if " dev br-" in line),
        }

    def until_healthy(self) -> None:
        """Wait until the doctor finds nothing wrong."""
        until(
            lambda: self.engine("doctor", check=False).returncode == 0, f"{self.node}: {self.engine('doctor').stdout}"
        )

    def close(self) -> None:
        """End everything; a process that encrypts outlives its daemon, and would keep the machine."""
        super().close()
        done = subprocess.run(["pgrep", "-f", f"wireguard-go -f wg{self.instance}"], capture_output=True, text=True,
                              timeout=SECONDS, check=False)  # fmt: skip
        for pid in done.stdout.split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)

    def tunnels(self) -> list[str]:
        """Return the names of the host's VXLAN links."""
        return [line.split()[0] for line in self.run("ip", "-br", "link", "show", "type", "vxlan").stdout.splitlines()]

    def inside(self, container: str, *argv: str, check: bool = True) -> Done:
        """Run a program of the machine's in a container's network."""
        id = self.engine("inspect", "-f", "{{.Id}}", container).stdout.strip()
        return self.run("nsenter", f"--net={self.exec_root / 'netns' / id}", *argv, check=check)

    def ping(self, container: str, target: str, *options: str) -> bool:
        """Return whether a container gets an answer from an address or a name; at most 2 s."""
        done = self.engine("exec", container, "ping", "-c1", "-W2", *options, target, check=False)
        return done.returncode == 0


class TestCluster:
    """Some hosts, and one or three members of etcd; a context manager. Daemons run, and have the image busybox."""

    __test__ = False

    def __init__(
        self, hosts: int = 3, members: int = 1, mtu: int = 1500, options: Sequence[str] = (), url: str = ""
    ) -> None:
        """With an `url`, that is the cluster, and `members` of etcd are beside it."""
        self.url = url
        self._stack = contextlib.ExitStack()
        self._sizes = hosts, members, mtu, tuple(options)

    def __enter__(self) -> TestCluster:
        try:
            self._make(*self._sizes)
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._on_each_host(ClusterHost.close)
        finally:
            self._stack.close()

    def _make(self, hosts: int, members: int, mtu: int, options: tuple[str, ...]) -> None:
        directory = Path(tempfile.mkdtemp(prefix="etcd-"))
        self._stack.callback(shutil.rmtree, directory, ignore_errors=True)
        self.wire = Wire(mtu)
        self._stack.callback(self.wire.close)
        self.members: list[Member] = []
        for number in range(1, members + 1):
            self.members.append(Member(self.wire, number, members, directory))
            self._stack.callback(self.members[-1].close)
        for member in self.members:
            member.start()
        self.url = self.url or "etcd://" + ",".join(f"{member.address}:2379" for member in self.members)
        self.hosts: list[ClusterHost] = []
        for number in range(1, hosts + 1):
            self.add_host(number, *options)
        for member in self.members[:1]:
            member.wait()
        self._on_each_host(self._start)

    def add_host(self, number: int, *options: str) -> ClusterHost:
        """Make a further machine; its daemon is not started yet."""
        host = ClusterHost(self.wire, number, "--cluster", self.url, *options)
        self._stack.callback(host.close)
        host.make()
        self.hosts.append(host)
        return host

    @staticmethod
    def _start(host: ClusterHost) -> None:
        host.start_daemon()
        host.load_busybox()

    def keys(self, prefix: str) -> list[str]:
        """Return the keys of etcd below a prefix."""
        done = self.members[0].control("get", "--prefix", "--keys-only", prefix)
        return sorted(filter(None, done.stdout.split()))

    def values(self, prefix: str) -> list[dict[str, Any]]:
        """Return the JSON documents of etcd below a prefix."""
        done = self.members[0].control("get", "--prefix", "--print-value-only", prefix)
        return [json.loads(line) for line in done.stdout.splitlines() if line]

    def run_everywhere(self, network: str, *options: str, image: str = "busybox") -> None:
        """Start a container on every host: `c1` on node1, `c2` on node2 ..."""
        self._on_each_host(lambda host: host.engine(
            "run", "-d", "--name", f"c{host.number}", "--network", network, *options, image, "sleep", "1000"
        ))  # fmt: skip

    def until_all_reach_all(self, target: str = "c{}", *options: str) -> None:
        """Wait until the container of each host gets answers from those of all others."""

        def reach(host: ClusterHost) -> None:
            for other in self.hosts:
                name = target.format(other.number)
                until(lambda: host.ping(f"c{host.number}", name, *options), f"c{host.number} -> {name}")  # noqa: B023

        self._on_each_host(reach)

    def until_consistent(self) -> None:
        """Wait until every host has entries for exactly the endpoints that etcd has on the others."""
        until(lambda: not self.differences(), f"entries as etcd has them; {self.differences()}")

    def differences(self) -> list[str]:
        """Return where a host's forwarding entries and etcd's endpoints are not the same."""
        endpoints = self.values("engine/1/endpoints/")
        address = {node["name"]: node["address"] for node in self.values("engine/1/nodes/")}
        found = []
        for host in self.hosts:
            in_use = {e["network"] for e in endpoints if e["node"] == host.node}
            wanted = {
                (e["mac"], address.get(e["node"]))
                for e in endpoints
                if e["network"] in in_use and e["node"] != host.node
            }
            seen = {(line.split()[0], line.split(" dst ")[1].split()[0]) for line in host.entries()["fdb"]}
            found += [f"{host.node} lacks {entry}" for entry in wanted - seen]
            found += [f"{host.node} has {entry}" for entry in seen - wanted]
        return found

    def clear(self) -> None:
        """Remove all containers and networks."""
        self._on_each_host(ClusterHost.clear)

    def _on_each_host(self, work: Callable[[ClusterHost], object]) -> None:
        with ThreadPoolExecutor(len(self.hosts)) as pool:
            list(pool.map(work, self.hosts))

    def assert_nothing_left(self) -> None:
        """Fail unless no host has an entry or a tunnel, and etcd nothing of networks and endpoints."""
        nothing = {"fdb": [], "neighbours": []}
        for host in self.hosts:
            until(lambda: host.entries() == nothing, f"no entries on {host.node}: {host.entries()}")  # noqa: B023
            until(lambda: not host.tunnels(), f"no tunnels on {host.node}: {host.tunnels()}")  # noqa: B023
        for what in ("endpoints", "claims", "networks"):
            until(lambda: not self.keys(f"engine/1/{what}/"), f"no {what} in etcd")  # noqa: B023


@contextlib.contextmanager
def cluster_of(hosts: int = 3, members: int = 1, options: Sequence[str] = (), url: str = "") -> Iterator[TestCluster]:
    """Run a cluster meanwhile, with further options for its daemons; skips where none can run."""
    skip_unless_clusters_are_possible()
    with TestCluster(hosts, members, options=options, url=url) as cluster:
        yield cluster
