"""A real etcd for tests: one or three members on loopback, data in a directory of the test's, ended by process id."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from engine.cluster.etcd import EtcdAccess, EtcdStore

START_SECONDS = 30.0


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Member:
    """One process of etcd."""

    def __init__(self, directory: Path, name: str, client: str, peer: str, extra: Sequence[str] = ()) -> None:
        self.name, self.directory = name, directory / name
        self.client, self.peer = client, peer
        self.extra = list(extra)
        self.scheme = "https" if any(e.startswith("--cert-file") for e in extra) else "http"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, cluster: str) -> None:
        with (self.directory.parent / f"{self.name}.log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    "etcd", "--name", self.name, "--data-dir", str(self.directory), "--logger", "zap",
                    "--listen-client-urls", f"{self.scheme}://{self.client}",
                    "--advertise-client-urls", f"{self.scheme}://{self.client}",
                    "--listen-peer-urls", f"http://{self.peer}", "--initial-advertise-peer-urls", f"http://{self.peer}",
                    "--initial-cluster", cluster, "--initial-cluster-state", "new", "--log-level", "error",
                    "--unsafe-no-fsync", *self.extra,
                ],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.directory.parent,
            )  # fmt: skip

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(20)
            self.process = None


class Etcd:
    """A cluster of members."""

    def __init__(self, directory: Path, members: int = 1, extra: Sequence[str] = (), host: str = "127.0.0.1") -> None:
        def address() -> str:
            return f"{host}:{free_port()}"

        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.members = [Member(directory, f"m{n}", address(), address(), extra) for n in range(members)]
        self._cluster = ",".join(f"{m.name}=http://{m.peer}" for m in self.members)

    @property
    def endpoints(self) -> tuple[str, ...]:
        return tuple(m.client for m in self.members)

    @property
    def url(self) -> str:
        return "etcd://" + ",".join(self.endpoints)

    def store(self) -> EtcdStore:
        return EtcdStore(EtcdAccess(self.endpoints))

    def start(self, *members: Member) -> None:
        for member in members or self.members:
            member.start(self._cluster)

    def wait(self) -> None:
        """Wait until it answers."""
        store, end = self.store(), time.monotonic() + START_SECONDS
        try:
            while True:
                try:
                    store.get("engine/none")
                    return
                except Exception:
                    if time.monotonic() > end:
                        raise
                    time.sleep(0.1)
        finally:
            store.close()

    def ctl(self, *arguments: str, endpoints: Sequence[str] | None = None) -> str:
        done = subprocess.run(
            ["etcdctl", f"--endpoints={','.join(endpoints or self.endpoints)}", *arguments],
            env={"ETCDCTL_API": "3", "PATH": "/usr/bin:/bin"}, capture_output=True, text=True, timeout=20, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    def leader(self) -> Member:
        for member in self.members:
            if member.process is not None:
                text = self.ctl("endpoint", "status", endpoints=[member.client])
                if text.split(", ")[4] == "true":
                    return member
        raise AssertionError("nobody is the leader")

    def stop(self) -> None:
        for member in self.members:
            member.stop(signal.SIGKILL)


@contextlib.contextmanager
def running_etcd(directory: Path, members: int = 1) -> Iterator[Etcd]:
    """Run etcd, or skip where there is none."""
    if shutil.which("etcd") is None:
        pytest.skip("etcd is not installed")
    etcd = Etcd(directory, members)
    try:
        etcd.start()
        etcd.wait()
        yield etcd
    finally:
        etcd.stop()
