"""The engines that are compared: Engine, Docker and podman, each with its own roots in namespaces of its own.

A peer is a context manager. Within it the same busybox image is loaded, and the networks are there; afterwards its
daemon has ended and its roots are removed. Every machine of theirs has a link `eth0`, one end of a veth pair, which is
the parent of macvlan networks: the host's own links are not touched.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from machines import START_SECONDS, Machine, descendants, output, until
from tests.images import busybox_archive

IMAGE = "busybox:latest"
NETWORKS = ("none", "host", "bridge", "macvlan")


class Peer(Machine):
    """One engine on a machine of its own."""

    address = ""
    """Where the daemon listens, below the root."""

    def __init__(self) -> None:
        super().__init__()
        self._daemon: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        super().__enter__()
        try:
            self._start()
            self._load(busybox_archive(self.root / "busybox.tar"))
            return self
        except BaseException:
            self.__exit__(None, None, None)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._daemon is not None:
            self._daemon.terminate()
            try:
                self._daemon.wait(30)
            except subprocess.TimeoutExpired:
                self._daemon.kill()
                self._daemon.wait()
        super().__exit__(kind, error, trace)

    def run(self, network: str) -> list[str]:
        """Return the command line of `run --rm IMAGE true` on a network."""
        return [*self.command(), "run", "--rm", *self.network_options(network), IMAGE, "true"]

    def detached(self, name: str) -> list[str]:
        """Return the command line that starts a container on the bridge and leaves it running."""
        return [*self.command(), "run", "-d", "--name", name, *self.network_options("bridge"), IMAGE, "sleep", "1000"]

    def removal(self, *names: str) -> list[str]:
        """Return the command line that removes running containers."""
        return [*self.command(), "rm", "-f", *names]

    def command(self) -> list[str]:
        """Return the command line client: all run on their machine, which costs each of them the same 2 ms."""
        return [*self.entering(), *self.client()]

    def client(self) -> list[str]:
        """Return the client without that."""
        raise NotImplementedError

    def network_options(self, network: str) -> list[str]:
        """Return the options that put a container on a network."""
        raise NotImplementedError

    def version(self) -> str:
        """Return what is measured."""
        raise NotImplementedError

    def api(self, method: str, path: str, body: object = None) -> Any:
        """Make a request of the daemon, in Docker's API. RuntimeError if it is refused."""
        connection = http.client.HTTPConnection("localhost", timeout=START_SECONDS)
        connection.sock = socket.socket(socket.AF_UNIX)
        try:
            connection.sock.settimeout(START_SECONDS)
            connection.sock.connect(str(self.root / self.address))
            text = None if body is None else json.dumps(body)
            connection.request(method, path, text, {"Content-Type": "application/json"} if text else {})
            answer = connection.getresponse()
            said = answer.read()
        finally:
            connection.close()
        if answer.status >= 300:
            raise RuntimeError(f"{self.name}: {method} {path}: {answer.status} {said.decode(errors='replace')}")
        return json.loads(said) if said else None

    def start_container(
        self, name: str, network: str = "bridge", ports: Mapping[str, Sequence[Mapping[str, str]]] | None = None
    ) -> dict[str, Any]:
        """Start a container that sleeps, with the API's PortBindings, and return its inspection."""
        body = {
            "Image": IMAGE, "Cmd": ["sleep", "100000"], "ExposedPorts": {port: {} for port in ports or ()},
            "HostConfig": {"NetworkMode": network, "PortBindings": ports or {}},
        }  # fmt: skip
        self.api("POST", f"/containers/create?name={name}", body)
        self.api("POST", f"/containers/{name}/start")
        return dict(self.api("GET", f"/containers/{name}/json"))

    def daemon_pids(self) -> list[int]:
        """Return the process ids of the daemon and of all that it has started, which live as long as containers do."""
        assert self._daemon is not None
        return descendants(self._daemon.pid)

    def left(self) -> list[str]:
        """Return what containers may leave on the machine: ends of veth pairs, and mounts below the engine's roots."""
        links = [link["ifname"] for link in json.loads(self.inside("ip", "-j", "link")) if "master" in link]
        mounts = [line.split()[4] for line in self.inside("cat", "/proc/self/mountinfo").splitlines()]
        parts = ("/merged", "/netns/", "/fs/")
        return links + [m for m in mounts if m.startswith(f"{self.root}/") and any(part in m for part in parts)]

    def _start_daemon(self, *argv: str) -> None:
        with (self.root / "log").open("wb") as log:
            self._daemon = subprocess.Popen([*self.entering(), *argv], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        until(self._answers, argv[0])

    def _answers(self) -> bool:
        assert self._daemon is not None
        if self._daemon.poll() is not None:
            raise RuntimeError(f"{self.name} ended: {(self.root / 'log').read_text(errors='replace')[-2000:]}")
        return subprocess.run([*self.command(), "ps"], capture_output=True, check=False).returncode == 0

    def _start(self) -> None:
        raise NotImplementedError

    def _load(self, archive: Path) -> None:
        output(*self.command(), "load", "-i", str(archive))


class Engine(Peer):
    """This engine, by its installed command and its warm command line."""

    name = "engine"
    address = "x/engine.sock"

    def client(self) -> list[str]:
        return [str(Path(sys.executable).with_name("engine")), "-H", f"unix://{self.root}/{self.address}"]

    def network_options(self, network: str) -> list[str]:
        options = ["--net-driver", network]
        return [*options, "--net-opt", "parent=eth0"] if network == "macvlan" else options

    def version(self) -> str:
        info = self.api("GET", "/info")
        return f"engine {info['ServerVersion']}, {info.get('DefaultRuntime', '')}"

    def _start(self) -> None:
        host, program = f"unix://{self.root}/{self.address}", self.client()[0]
        roots = ["--data-root", f"{self.root}/d", "--exec-root", f"{self.root}/x"]
        self._start_daemon(program, "daemon", "--host", host, *roots)
        until((self.root / "x/cli.sock").exists, "the warm command line")


class Docker(Peer):
    """Debian's dockerd with its own containerd and runc, by Docker's command."""

    name = "docker"
    address = "docker.sock"

    def client(self) -> list[str]:
        return ["docker", "-H", f"unix://{self.root}/{self.address}"]

    def network_options(self, network: str) -> list[str]:
        return ["--network", network]

    def version(self) -> str:
        client = output("docker", "--version").split(",")[0]
        return f"{client}; dockerd {output(*self.command(), 'version', '--format', '{{.Server.Version}}')}".strip()

    def _start(self) -> None:
        self._start_daemon(
            "dockerd", "--data-root", f"{self.root}/d", "--exec-root", f"{self.root}/x",
            "--host", f"unix://{self.root}/{self.address}", "--pidfile", f"{self.root}/pid", "--log-level", "error",
        )  # fmt: skip
        output(
            *self.command(), "network", "create", "--driver", "macvlan", "--subnet", "198.51.100.0/24",
            "--opt", "parent=eth0", "macvlan",
        )  # fmt: skip


class Podman(Peer):
    """podman with netavark and crun: without a daemon."""

    name = "podman"
    # crun refuses hosts with both versions of cgroups when version 2 has a controller; Engine finds its own way out.
    prelude = "umount /sys/fs/cgroup/unified 2>/dev/null"

    def client(self) -> list[str]:
        return [
            "podman", "--root", f"{self.root}/d", "--runroot", f"{self.root}/x",
            "--tmpdir", f"{self.root}/t", "--network-config-dir", f"{self.root}/n", "--cgroup-manager", "cgroupfs",
            "--runtime", "crun", "--events-backend", "file", "--network-backend", "netavark",
            "--storage-driver", "overlay",
        ]  # fmt: skip

    def network_options(self, network: str) -> list[str]:
        # Its default of a million descriptors is above the hard limit of some machines.
        limits = ["--ulimit", "nofile=1024:20000", "--ulimit", "nproc=1000:1000"]
        return ["--network", "podman" if network == "bridge" else network, *limits]

    def version(self) -> str:
        return output("podman", "--version").strip()

    def _start(self) -> None:
        (self.root / "n").mkdir()
        output(
            *self.command(), "network", "create", "--driver", "macvlan", "--subnet", "198.51.100.0/24",
            "--opt", "parent=eth0", "macvlan",
        )  # fmt: skip

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._machine is not None:
            with contextlib.suppress(subprocess.SubprocessError):
                output(*self.command(), "rm", "--all", "--force", "--time", "0")
        super().__exit__(kind, error, trace)


PEERS: dict[str, type[Peer]] = {peer.name: peer for peer in (Engine, Docker, Podman)}


def versions() -> str:
    """Return the versions of the machine and of the programs that all engines share."""
    shared = [output("conmon", "--version").splitlines()[0], output("crun", "--version").splitlines()[0]]
    shared.append(output("runc", "--version").splitlines()[0])
    kernel, python = os.uname().release.partition("-")[0], sys.version.split()[0]
    return f"kernel {kernel}, {os.cpu_count()} processors, {', '.join(shared)}, Python {python}"


def percentiles(values: Sequence[float]) -> tuple[float, float, float, float]:
    """Return the median, the tenth and ninetieth percentile, and the minimum."""
    ordered = sorted(values)

    def at(part: float) -> float:
        return ordered[min(len(ordered) - 1, round(part * (len(ordered) - 1)))]

    return at(0.5), at(0.1), at(0.9), ordered[0]
