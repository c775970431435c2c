"""A server with fake managers in a thread, and its clients: the stock docker CLI, docker-py, plain sockets."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker
import pytest

from engine.api.listening import listening
from engine.api.server import build_app, serve
from engine.api.services import Instance, Services
from engine.events import EventBus
from engine.plugins import Plugins
from engine.secrets.store import SecretStore

from .fakes import FakeContainers
from .fakes_objects import FakeDoctor, FakeImages, FakeNetworks, FakeNodes, FakeVolumes
from .fakes_work import FakeVolumeWork

SECONDS = 20


@dataclass
class Server:
    """A running server. `socket` is its unix socket, `addresses` all that it listens on."""

    hosts: Sequence[str]
    home: Path
    tls: ssl.SSLContext | None = None
    events: EventBus = field(default_factory=EventBus)
    addresses: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.containers = FakeContainers(self.events)
        self.images, self.volumes, self.doctor = FakeImages(), FakeVolumes(), FakeDoctor()
        self.networks = FakeNetworks()
        self.volume_work = FakeVolumeWork()
        self._ready, self._failure = threading.Event(), list[BaseException]()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    @property
    def socket(self) -> str:
        return self.hosts[0].removeprefix("unix://")

    def services(self) -> Services:
        return Services(
            containers=self.containers, images=self.images, networks=self.networks, volumes=self.volumes,
            events=self.events, plugins=Plugins(), doctor=self.doctor,
            volume_work=self.volume_work,
            nodes=FakeNodes(), secrets=SecretStore(self.home / "secrets"),
            instance=Instance("0123abcd", "/data", "/run", "crun", {"crun": "1.8.1"}, ("beware",)),
        )  # fmt: skip

    async def _run(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        try:
            with listening(self.hosts) as listeners:
                self.addresses = [listener.address for listener in listeners]
                async with serve(build_app(self.services()), listeners, self.tls):
                    self._ready.set()
                    await self._stop.wait()
        except BaseException as err:
            self._failure.append(err)
            self._ready.set()
            raise

    def start(self) -> None:
        self._thread.start()
        assert self._ready.wait(SECONDS)
        if self._failure:
            raise self._failure[0]

    def close(self) -> None:
        self.stop()
        self.containers.close()
        self.events.close()

    def stop(self) -> None:
        """End the server; once more is no error."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(SECONDS)
        assert not self._thread.is_alive()

    def cli(self, *args: str, input: bytes | None = None, check: bool = False) -> subprocess.CompletedProcess[bytes]:
        """Run docker's CLI."""
        return subprocess.run(
            ["docker", *self.cli_options(), *args], input=input if input is not None else b"", capture_output=True,
            timeout=SECONDS, check=check, env=self.environment,
        )  # fmt: skip

    def spawn(self, *args: str, **kwargs: Any) -> subprocess.Popen[bytes]:
        """Start docker's CLI."""
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **kwargs}
        return subprocess.Popen(["docker", *self.cli_options(), *args], env=self.environment, **pipes)

    def cli_options(self) -> list[str]:
        return ["-H", self.addresses[-1]]

    @property
    def environment(self) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "HOME": str(self.home), "DOCKER_CONFIG": str(self.home)}

    def py(self) -> Any:
        """Return docker-py's client."""
        return docker.DockerClient(base_url=f"unix://{self.socket}", timeout=SECONDS)

    def connect(self) -> socket.socket:
        """Return a raw connection."""
        raw = socket.socket(socket.AF_UNIX)
        raw.settimeout(SECONDS)
        raw.connect(self.socket)
        return raw

    def request(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any, dict[str, str]]:
        """Make one request; return status, body (parsed if it is JSON), headers."""
        connection = http.client.HTTPConnection("localhost", timeout=SECONDS)
        connection.sock = self.connect()
        headers = dict(headers or {})
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
            headers.setdefault("Content-Type", "application/json")
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            data: Any = response.read()
            if response.headers.get("Content-Type") == "application/json" and data:
                lines = [json.loads(line) for line in data.splitlines()]
                data = lines[0] if len(lines) == 1 else lines
            return response.status, data, dict(response.headers)
        finally:
            connection.close()


@pytest.fixture
def make_server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    if shutil.which("docker") is None:
        pytest.skip("docker's CLI is not installed")
    running: list[Server] = []

    def make(*hosts: str, tls: ssl.SSLContext | None = None) -> Server:
        server = Server([f"unix://{tmp_path}/s{len(running)}", *hosts], tmp_path, tls)
        server.start()
        running.append(server)
        return server

    yield make
    for server in running:
        server.close()


@pytest.fixture
def server(make_server: Callable[..., Server]) -> Server:
    return make_server()
