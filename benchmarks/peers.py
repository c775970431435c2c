"""The engines that are compared: Engine, Docker and podman, each with its own roots in namespaces of its own.

A peer is a context manager. Within it the same busybox image is loaded, and the networks are there; afterwards its
daemon has ended and its roots are removed. Every machine of theirs has a link `eth0`, one end of a veth pair, which is
the parent of macvlan networks: the host's own links are not touched.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tests.images import busybox_archive

IMAGE = "busybox:latest"
NETWORKS = ("none", "host", "bridge", "macvlan")
START_SECONDS = 60.0
_MACHINE = """
ip link set lo up
ip link add eth0 type veth peer name lan0
ip link set eth0 up
ip link set lan0 up
ip address add 192.0.2.2/24 dev eth0
ip route add default via 192.0.2.1
%s
exec sleep 1000000
"""


class Peer:
    """One engine on a machine of its own: network and mount namespaces, which a sleeping process holds."""

    name = ""
    prelude = ":"
    """A shell command that the machine needs before."""

    def __init__(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix=f"bench-{self.name}-"))
        self._machine: subprocess.Popen[bytes] | None = None
        self._daemon: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Peer:
        try:
            self._machine = subprocess.Popen(
                ["unshare", "--net", "--mount", "--propagation", "private", "sh", "-c", _MACHINE % self.prelude]
            )
            _until(self._machine_is_up, "the namespaces")
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
        if self._machine is not None:
            self._machine.send_signal(signal.SIGKILL)
            self._machine.wait()
        shutil.rmtree(self.root, ignore_errors=True)

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
        return [*self._entering(), *self.client()]

    def client(self) -> list[str]:
        """Return the client without that."""
        raise NotImplementedError

    def network_options(self, network: str) -> list[str]:
        """Return the options that put a container on a network."""
        raise NotImplementedError

    def version(self) -> str:
        """Return what is measured."""
        raise NotImplementedError

    def left(self) -> list[str]:
        """Return what containers may leave on the machine: ends of veth pairs, and mounts below the engine's roots."""
        links = [link["ifname"] for link in json.loads(self.inside("ip", "-j", "link")) if "master" in link]
        mounts = [line.split()[4] for line in self.inside("cat", "/proc/self/mountinfo").splitlines()]
        parts = ("/merged", "/netns/", "/fs/")
        return links + [m for m in mounts if m.startswith(f"{self.root}/") and any(part in m for part in parts)]

    def inside(self, *argv: str) -> str:
        """Run a program on the machine."""
        return _output(*self._entering(), *argv)

    def _entering(self) -> list[str]:
        assert self._machine is not None
        return ["nsenter", f"--target={self._machine.pid}", "--net", "--mount"]

    def _machine_is_up(self) -> bool:
        assert self._machine is not None
        if Path("/proc/self/ns/net").readlink() == Path(f"/proc/{self._machine.pid}/ns/net").readlink():
            return False
        return Path(f"/proc/{self._machine.pid}/comm").read_text() == "sleep\n"

    def _start_daemon(self, *argv: str) -> None:
        with (self.root / "log").open("wb") as log:
            self._daemon = subprocess.Popen(
                [*self._entering(), *argv], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        _until(self._answers, argv[0])

    def _answers(self) -> bool:
        assert self._daemon is not None
        if self._daemon.poll() is not None:
            raise RuntimeError(f"{self.name} ended: {(self.root / 'log').read_text(errors='replace')[-2000:]}")
        return subprocess.run([*self.command(), "ps"], capture_output=True, check=False).returncode == 0

    def _start(self) -> None:
        raise NotImplementedError

    def _load(self, archive: Path) -> None:
        _output(*self.command(), "load", "-i", str(archive))


class Engine(Peer):
    """This engine, by its installed command and its warm command line."""

    name = "engine"

    def client(self) -> list[str]:
        return [str(Path(sys.executable).with_name("engine")), "-H", f"unix://{self.root}/x/engine.sock"]

    def network_options(self, network: str) -> list[str]:
        options = ["--net-driver", network]
        return [*options, "--net-opt", "parent=eth0"] if network == "macvlan" else options

    def version(self) -> str:
        info = json.loads(_output("curl", "-s", "--unix-socket", f"{self.root}/x/engine.sock", "http://x/info"))
        return f"engine {info['ServerVersion']}, {info.get('DefaultRuntime', '')}"

    def _start(self) -> None:
        host, program = f"unix://{self.root}/x/engine.sock", self.client()[0]
        roots = ["--data-root", f"{self.root}/d", "--exec-root", f"{self.root}/x"]
        self._start_daemon(program, "daemon", "--host", host, *roots)
        _until((self.root / "x/cli.sock").exists, "the warm command line")


class Docker(Peer):
    """Debian's dockerd with its own containerd and runc, by Docker's command."""

    name = "docker"

    def client(self) -> list[str]:
        return ["docker", "-H", f"unix://{self.root}/docker.sock"]

    def network_options(self, network: str) -> list[str]:
        return ["--network", network]

    def version(self) -> str:
        client = _output("docker", "--version").split(",")[0]
        return f"{client}; dockerd {_output(*self.command(), 'version', '--format', '{{.Server.Version}}')}".strip()

    def _start(self) -> None:
        self._start_daemon(
            "dockerd", "--data-root", f"{self.root}/d", "--exec-root", f"{self.root}/x",
            "--host", f"unix://{self.root}/docker.sock", "--pidfile", f"{self.root}/pid", "--log-level", "error",
        )  # fmt: skip
        _output(
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
        return _output("podman", "--version").strip()

    def _start(self) -> None:
        (self.root / "n").mkdir()
        _output(
            *self.command(), "network", "create", "--driver", "macvlan", "--subnet", "198.51.100.0/24",
            "--opt", "parent=eth0", "macvlan",
        )  # fmt: skip

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._machine is not None:
            with contextlib.suppress(subprocess.SubprocessError):
                _output(*self.command(), "rm", "--all", "--force", "--time", "0")
        super().__exit__(kind, error, trace)


PEERS: dict[str, type[Peer]] = {peer.name: peer for peer in (Engine, Docker, Podman)}


def versions() -> str:
    """Return the versions of the machine and of the programs that all engines share."""
    shared = [_output("conmon", "--version").splitlines()[0], _output("crun", "--version").splitlines()[0]]
    shared.append(_output("runc", "--version").splitlines()[0])
    kernel, python = os.uname().release.partition("-")[0], sys.version.split()[0]
    return f"kernel {kernel}, {os.cpu_count()} processors, {', '.join(shared)}, Python {python}"


def percentiles(values: Sequence[float]) -> tuple[float, float, float, float]:
    """Return the median, the tenth and ninetieth percentile, and the minimum."""
    ordered = sorted(values)

    def at(part: float) -> float:
        return ordered[min(len(ordered) - 1, round(part * (len(ordered) - 1)))]

    return at(0.5), at(0.1), at(0.9), ordered[0]


def _output(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=180, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise subprocess.SubprocessError(f"{' '.join(argv)}: {done.stderr[-2000:]}")
    return done.stdout


def _until(ready: object, what: str) -> None:
    assert callable(ready)
    deadline = time.monotonic() + START_SECONDS
    while not ready():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not start within {START_SECONDS:.0f} s")
        time.sleep(0.05)
