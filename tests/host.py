"""A machine for an engine: namespaces of its own, an outside world, and a daemon that can be killed and started again.

`EngineHost` is a network and a mount namespace with `lo` and `eth0`; `eth0` leads to a second network namespace, `lan`,
which is the outside world: the default gateway, and the other end of a macvlan's parent. Nothing of the machine's own
network is touched, and several hosts live side by side.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest
from tests.images import busybox_archive
from tests.kernel import snapshot
from tests.namespaces import call_in

from engine.composition import make_tag

SECONDS = 60.0
"""Deadline of every wait: generous, for machines where much else runs. Nothing that works takes so long."""
ADDRESS, GATEWAY = "192.0.2.2", "192.0.2.1"
ADDRESS6, GATEWAY6 = "2001:db8:2::2", "2001:db8:2::1"
ENGINE = Path(sys.executable).with_name("engine")
_NEEDED = ("conmon", "nsenter", "unshare", "setpriv", "ip", "nft", "skopeo", "busybox")
_KEPT = frozenset({"x/image", "x/host", "x/cli.sock", "d/state.db-shm", "d/state.db-wal", "d/state.db.backup"})
"""Files that are made when they are first needed, and stay while a daemon runs."""
Done = subprocess.CompletedProcess[str]


def until(condition: Callable[[], Any], what: str, seconds: float = SECONDS) -> Any:
    """Wait until a condition holds, and return its value; fail with `what` if it does not come to hold."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"in vain waited for: {what}")
        time.sleep(0.02)
    return value


def skip_unless_possible() -> None:
    """Skip the test where no engine can run at all, with the reason."""
    if os.geteuid() != 0:
        pytest.skip("an engine needs root")
    missing = [name for name in _NEEDED if shutil.which(name) is None]
    if not (shutil.which("crun") or shutil.which("runc")):
        missing.append("crun or runc")
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


class EngineHost:
    """A machine with a daemon; a context manager. After `stop_daemon` or `kill_daemon`, start another."""

    def __init__(self, *daemon_options: str) -> None:
        self.daemon_options = list(daemon_options)
        self.root = Path(tempfile.mkdtemp(prefix="eng-", dir="/tmp"))  # short: AF_UNIX paths have 107 characters
        self.data_root, self.exec_root = self.root / "d", self.root / "x"
        self.socket = self.exec_root / "engine.sock"
        self.url = f"unix://{self.socket}"
        self.instance = make_tag(self.data_root).instance
        self.daemon: subprocess.Popen[bytes] | None = None
        self._holders: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> EngineHost:
        try:
            self._make_machine()
            self.start_daemon()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # The machine

    def _make_machine(self) -> None:
        self.pid = self._hold("--net", "--mount", "--propagation", "private")
        self.lan_pid = self._hold("--net")
        self.netns, self.lan = (Path(f"/proc/{pid}/ns/net") for pid in (self.pid, self.lan_pid))
        self.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", str(self.lan_pid))
        for run, own, own6 in ((self.run, ADDRESS, ADDRESS6), (self.run_lan, GATEWAY, GATEWAY6)):
            run("ip", "link", "set", "lo", "up")
            run("ip", "link", "set", "eth0", "up")
            run("ip", "address", "add", f"{own}/24", "dev", "eth0")
            run("ip", "address", "add", f"{own6}/64", "dev", "eth0", "nodad")
        self.run("ip", "route", "add", "default", "via", GATEWAY)
        self.run("ip", "-6", "route", "add", "default", "via", GATEWAY6)

    def _hold(self, *namespaces: str) -> int:
        """Start a process that holds new namespaces, and ends with us; return its id."""
        argv = ["setpriv", "--pdeathsig", "KILL", "unshare", *namespaces, "sleep", "86400"]
        holder = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
        self._holders.append(holder)
        comm = Path(f"/proc/{holder.pid}/comm")
        until(lambda: comm.read_text().strip() == "sleep", "a process with namespaces of its own")
        return holder.pid

    @property
    def enter(self) -> list[str]:
        """The command that enters the machine; put it before an argument vector."""
        return ["nsenter", "-t", str(self.pid), "--net", "--mount"]

    def run(self, *argv: str, check: bool = True, input: str | None = None, timeout: float = SECONDS) -> Done:
        """Run a command on the machine."""
        return _run([*self.enter, *argv], self.environment(), check, input, timeout)

    def run_lan(self, *argv: str, check: bool = True, input: str | None = None, timeout: float = SECONDS) -> Done:
        """Run a command in the outside world."""
        return _run(["nsenter", f"--net={self.lan}", *argv], dict(os.environ), check, input, timeout)

    @contextlib.contextmanager
    def process(self, *argv: str, lan: bool = False, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
        """Run a process meanwhile, on the machine or in the outside world; it is killed at the end if it still runs."""
        enter = ["nsenter", f"--net={self.lan}"] if lan else self.enter
        options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        process = subprocess.Popen([*enter, *argv], env=self.environment(), **options)
        try:
            yield process
        finally:
            process.kill()
            process.wait(SECONDS)
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()

    def connect(self, address: str, port: int, *, lan: bool = False, send: bytes = b"", seconds: float = 10) -> bytes:
        """Connect by TCP from the machine (or from outside), send, and return what comes until the end."""

        def talk() -> bytes:
            with socket.create_connection((address, port), timeout=seconds) as connection:
                connection.sendall(send)
                connection.shutdown(socket.SHUT_WR)
                received = b""
                while piece := connection.recv(65536):
                    received += piece
                return received

        return call_in(self.lan if lan else self.netns, talk)

    def listen(self, port: int, *, lan: bool = False) -> socket.socket:
        """Listen on all addresses of the machine, or in the outside world; the caller closes the socket."""
        return call_in(self.lan if lan else self.netns, lambda: socket.create_server(("0.0.0.0", port)))

    # The daemon

    def start_daemon(self, *options: str) -> None:
        """Start the daemon and wait until it answers; `options` are added to those of the host."""
        log = (self.root / "log").open("ab")
        argv = [str(ENGINE), "daemon", "--host", self.url, "--data-root", str(self.data_root)]
        argv += ["--exec-root", str(self.exec_root), *self.daemon_options, *options]
        with log:
            self.daemon = subprocess.Popen(
                [*self.enter, *argv], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment()
            )
        try:
            until(self._answers, "the daemon's first answer", 3 * SECONDS)
        except AssertionError as err:
            raise AssertionError(f"{err}; the daemon's log ends so:\n{self.log()[-4000:]}") from None

    def _answers(self) -> bool:
        assert self.daemon is not None
        if self.daemon.poll() is not None:
            raise AssertionError(f"the daemon ended with {self.daemon.returncode}")
        try:
            return self.request("GET", "/_ping")[0] == 200
        except OSError:
            return False

    def stop_daemon(self) -> None:
        """End the daemon as a service manager does; containers go on."""
        self._end_daemon(signal.SIGTERM)

    def kill_daemon(self) -> None:
        """Kill the daemon without a warning."""
        self._end_daemon(signal.SIGKILL)

    def _end_daemon(self, number: signal.Signals) -> None:
        if self.daemon is None:
            return
        self.daemon.send_signal(number)
        try:
            self.daemon.wait(SECONDS)
        except subprocess.TimeoutExpired:
            self.daemon.kill()
            self.daemon.wait(SECONDS)
            raise AssertionError(f"the daemon did not end upon {number.name}:\n{self.log()[-4000:]}") from None
        finally:
            self.daemon = None

    def restart_daemon(self, *options: str) -> None:
        """Stop and start the daemon."""
        self.stop_daemon()
        self.start_daemon(*options)

    def kill_containers(self) -> None:
        """Kill all monitors and all that runs in containers, as a loss of power does."""
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        until(lambda: not self.processes(), "the end of killed processes")

    def log(self) -> str:
        """Return what the daemons have logged so far."""
        return (self.root / "log").read_text(errors="replace")

    def close(self) -> None:
        """End the daemon, what runs in its containers, and the machine; remove all files."""
        if self.daemon is not None:
            with contextlib.suppress(OSError, AssertionError):
                self.clear()
            with contextlib.suppress(AssertionError):
                self.stop_daemon()
        self.kill_containers()
        for holder in self._holders:
            holder.kill()
            holder.wait(SECONDS)
        self._remove_cgroups()
        shutil.rmtree(self.root, ignore_errors=True)

    def _remove_cgroups(self) -> None:
        for path in sorted(self.cgroups(), reverse=True):
            with contextlib.suppress(OSError):
                path.rmdir()

    # Clients

    def environment(self) -> dict[str, str]:
        """Return the environment of clients: this daemon, and a configuration directory of its own."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("DOCKER_", "ENGINE_", "BUILDKIT"))}
        home = self.root / "home"
        home.mkdir(exist_ok=True)
        return {
            **kept, "HOME": str(home), "ENGINE_HOST": self.url, "DOCKER_HOST": self.url,
            "DOCKER_CONFIG": str(home / ".docker"), "DOCKER_CLI_HINTS": "false",
        }  # fmt: skip

    def engine(self, *args: str, check: bool = True, input: str | None = None, timeout: float = SECONDS) -> Done:
        """Run the `engine` command line."""
        return self.run(str(ENGINE), *args, check=check, input=input, timeout=timeout)

    def engine_as(self, uid: int, *args: str) -> Done:
        """Run the `engine` command line as another user; it need not succeed."""
        return self.run("setpriv", "--reuid", str(uid), "--clear-groups", str(ENGINE), *args, check=False)

    def docker(self, *args: str, check: bool = True, input: str | None = None, timeout: float = SECONDS) -> Done:
        """Run Docker's own command line against the daemon; skips the test where it is not installed."""
        if shutil.which("docker") is None:
            pytest.skip("the docker command line is not installed")
        return self.run("docker", *args, check=check, input=input, timeout=timeout)

    def request(
        self, method: str, path: str, body: str | None = None, *, timeout: float = SECONDS
    ) -> tuple[int, bytes]:
        """Make an HTTP request of the daemon; return status and body."""
        connection = http.client.HTTPConnection("localhost", timeout=timeout)
        connection.sock = socket.socket(socket.AF_UNIX)
        try:
            connection.sock.settimeout(timeout)
            connection.sock.connect(str(self.socket))
            connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def load_busybox(self) -> str:
        """Load the busybox image and return its name."""
        archive = busybox_archive(self.root / "busybox.tar")
        self.engine("load", "-i", str(archive))
        archive.unlink()
        return "busybox"

    def clear(self) -> None:
        """Remove all containers by force, then networks and volumes that somebody made."""
        ids = self.engine("ps", "-aq").stdout.split()
        if ids:
            self.engine("rm", "-f", "-v", *ids)
        self.engine("network", "prune", "-f")
        self.engine("volume", "prune", "-a", "-f")

    # What is on the machine

    def processes(self) -> list[int]:
        """Return the ids of our monitors and runtimes, and of all processes in our containers' cgroups."""
        found = set()
        mark = os.fsencode(f"{self.root}/")
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                name = Path(os.fsdecode(words[0])).name
                ours = name in ("conmon", "crun", "runc") and any(mark in word for word in words)
                if ours or f"/engine-{self.instance}/" in (entry / "cgroup").read_text():
                    found.add(int(entry.name))
        return sorted(found)

    def cgroups(self) -> list[Path]:
        """Return the directories of our cgroups, in all hierarchies."""
        top = Path("/sys/fs/cgroup")
        places = [*top.glob(f"engine-{self.instance}"), *top.glob(f"*/engine-{self.instance}")]
        return [path for place in places for path in [place, *(p for p in place.rglob("*") if p.is_dir())]]

    def snapshot(self) -> dict[str, Any]:
        """Return all that an engine can leave on the machine, as a plain value."""
        state = call_in(self.netns, snapshot.network)
        del state["host"]["sysctls"]  # forwarding stays on once a network needed it, as it does with Docker
        state["firewall"] = self._without_empty_table(state["firewall"])
        mounts = Path(f"/proc/{self.pid}/mountinfo").read_text().splitlines()
        loops = _run(["losetup", "-l", "-n", "-O", "NAME,BACK-FILE"], dict(os.environ), True, None, SECONDS).stdout
        return {
            **state,
            # The built-in image stays mounted for the life of a daemon.
            "mounts": sorted(
                {p for line in mounts if (p := line.split()[4]).startswith(str(self.root))} - {f"{self.exec_root}/host"}
            ),
            "loops": [line for line in loops.splitlines() if str(self.root) in line],
            "processes": [_command(pid) for pid in self.processes()],
            # Ours and the monitors' stay, empty, for the next container, until the daemon ends.
            "cgroups": sorted(
                {str(p).rpartition("/engine-")[2] for p in self.cgroups()} - {self.instance, f"{self.instance}/conmon"}
            ),
            "files": self._files(),
            "rows": self._rows(),
        }

    def settled(self) -> dict[str, Any]:
        """Return a snapshot in which nothing is on its way out any more: the second of two equal ones."""
        look = self.snapshot()
        deadline = time.monotonic() + SECONDS
        while True:
            time.sleep(0.2)
            again = self.snapshot()
            if again == look:
                return again
            assert time.monotonic() < deadline, "the machine does not come to rest"
            look = again

    def _without_empty_table(self, ruleset: list[str]) -> list[str]:
        """Leave our table out if nothing is in its sets: it is made upon first use, and not by each daemon."""
        first = f"table inet engine_{self.instance} {{"
        if first not in ruleset:
            return ruleset
        begin = ruleset.index(first)
        end = ruleset.index("}", begin) + 1
        used = any("elements = {" in line for line in ruleset[begin:end])
        return ruleset if used else ruleset[:begin] + ruleset[end:]

    def _files(self) -> list[str]:
        places = [self.exec_root, self.data_root, *(d for d in self.data_root.iterdir() if d.is_dir())]
        places += [d for place in (self.exec_root, self.data_root / "image") for d in place.iterdir() if d.is_dir()]
        names = {str(path.relative_to(self.root)) for place in places for path in place.iterdir()}
        return sorted(names - _KEPT)

    def _rows(self) -> list[str]:
        uri = f"file:{self.data_root / 'state.db'}?mode=ro"
        with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=10)) as db:
            objects = db.execute("SELECT kind, id, name FROM objects WHERE kind != 'last-addresses'").fetchall()
            claims = db.execute("SELECT space, value, owner FROM claims").fetchall()
        return sorted([f"object {row}" for row in objects] + [f"claim {row}" for row in claims])

    def assert_clean(self, before: dict[str, Any], seconds: float = SECONDS) -> None:
        """Fail, showing what differs, unless the machine is as it was; what goes by itself gets some time for it."""
        snapshot.assert_becomes(before, self.snapshot, seconds)


def _command(pid: int) -> str:
    """Return the command of a process without its id, so that two looks compare."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return "gone"


def _run(argv: Sequence[str], env: dict[str, str], check: bool, input: str | None, timeout: float) -> Done:
    extra: dict[str, Any] = {"stdin": subprocess.DEVNULL} if input is None else {"input": input.encode()}
    raw = subprocess.run(list(argv), capture_output=True, timeout=timeout, env=env, check=False, **extra)
    # Decoded here, so that a terminal's line ends stay as they are.
    out, err = (stream.decode(errors="surrogateescape") for stream in (raw.stdout, raw.stderr))
    if check and raw.returncode:
        raise AssertionError(f"{' '.join(argv)} ended with {raw.returncode}\nstdout: {out}\nstderr: {err}")
    return Done(raw.args, raw.returncode, out, err)
