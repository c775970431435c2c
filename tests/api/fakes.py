"""Managers without an engine: containers are plain processes of this host behind the monitor's socket protocol."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import secrets
import signal
import socket
import subprocess
import tarfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from engine.api.services.data import Filters, JsonObject, Readable
from engine.container.record import Endpoint
from engine.container.waiters import ExitResult
from engine.events import EventBus
from engine.spec.errors import Conflict, EngineError, InvalidParameter, NotFound

IMAGES = {"busybox", "busybox:latest"}


class Monitor:
    """What conmon is to the real manager: a process, its log, and SEQPACKET sockets that get all of its output."""

    def __init__(self, argv: list[str], *, tty: bool, stdin: bool, on_exit: Callable[[int], None]) -> None:
        self.tty, self.stdin = tty, stdin
        self.log: list[tuple[float, int, bytes]] = []
        self.news = threading.Condition()
        self.ended = False
        self.size = (0, 0)
        self._clients: list[socket.socket] = []
        self._argv, self._on_exit = argv, on_exit
        self._process: subprocess.Popen[bytes] | None = None

    def attach(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with self.news:
            if self.ended:
                ours.close()
                return theirs
            self._clients.append(ours)
        if self._process is not None:
            self._listen(ours)
        return theirs

    def run(self, on_start: Callable[[], object] = lambda: None) -> None:
        """Start the process. Raises OSError as exec does."""
        if self.tty:
            self._master, slave = pty.openpty()
            self._process = subprocess.Popen(
                self._argv, stdin=slave, stdout=slave, stderr=slave, start_new_session=True
            )
            os.close(slave)
            self._stdin = self._master
            outputs = [(1, self._master)]
        else:
            self._process = subprocess.Popen(
                self._argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            assert self._process.stderr is not None
            self._stdin = self._process.stdin.fileno()
            if not self.stdin:
                self._process.stdin.close()
            outputs = [(1, self._process.stdout.fileno()), (2, self._process.stderr.fileno())]
        on_start()
        readers = [threading.Thread(target=self._read, args=o, daemon=True) for o in outputs]
        for thread in readers:
            thread.start()
        for client in list(self._clients):
            self._listen(client)
        threading.Thread(target=self._reap, args=(readers,), daemon=True).start()

    def signal(self, number: int) -> None:
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _listen(self, client: socket.socket) -> None:
        threading.Thread(target=self._write_stdin, args=(client,), daemon=True).start()

    def _write_stdin(self, client: socket.socket) -> None:
        assert self._process is not None
        with contextlib.suppress(OSError):
            while data := client.recv(1 << 16):
                assert len(data) <= 8192
                while data:
                    data = data[os.write(self._stdin, data) :]
        if self.stdin and not self.tty and self._process.stdin:
            with contextlib.suppress(OSError, ValueError):
                self._process.stdin.close()

    def _read(self, stream: int, fd: int) -> None:
        while True:
            try:
                data = os.read(fd, 8192)
            except OSError:  # EIO: the terminal's other side is closed
                data = b""
            if not data:
                return
            with self.news:
                self.log.append((time.time(), stream, data))
                self.news.notify_all()
                clients = list(self._clients)
            for client in clients:
                with contextlib.suppress(OSError):
                    client.send(bytes((stream + 1,)) + data)

    def _reap(self, readers: list[threading.Thread]) -> None:
        assert self._process is not None
        for thread in readers:
            thread.join()
        code = self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        if self.tty:
            os.close(self._master)
        with self.news:
            self.ended = True
            self.news.notify_all()
            for client in self._clients:
                with contextlib.suppress(OSError):
                    client.shutdown(socket.SHUT_RDWR)  # the thread that reads it ends
                client.close()
        self._on_exit(code if code >= 0 else 128 - code)


class FakeLog:
    def __init__(
        self, monitor: Monitor | None, *, tty: bool, streams: set[int], tail: int | None, follow: bool
    ) -> None:
        self.tty = tty
        self._monitor, self._streams, self._tail, self._follow = monitor, streams, tail, follow
        self._closed = False

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        monitor = self._monitor
        if monitor is None:
            return
        at = 0 if self._tail is None else max(0, len(monitor.log) - self._tail)
        while not self._closed:
            with monitor.news:
                if at >= len(monitor.log):
                    if not self._follow or monitor.ended:
                        return
                    monitor.news.wait(10)
                    continue
                _, stream, data = monitor.log[at]
            at += 1
            if stream in self._streams:
                yield stream, data

    def close(self) -> None:
        self._closed = True
        if self._monitor is not None:
            with self._monitor.news:
                self._monitor.news.notify_all()


@dataclass
class Attachment:
    tty: bool
    open_stdin: bool
    connection: Future[socket.socket]


@dataclass
class FakeContainer:
    id: str
    name: str
    config: JsonObject
    status: str = "created"
    code: int = 0
    monitor: Monitor | None = None
    size: tuple[int, int] = (0, 0)
    pending: list[Future[socket.socket]] = field(default_factory=list)
    exits: list[Future[ExitResult]] = field(default_factory=list)
    removals: list[Future[ExitResult]] = field(default_factory=list)

    @property
    def tty(self) -> bool:
        return bool(self.config.get("Tty"))

    @property
    def argv(self) -> list[str]:
        return [*(self.config.get("Entrypoint") or []), *(self.config.get("Cmd") or [])]


@dataclass
class FakeExec:
    container: FakeContainer
    config: JsonObject
    code: int | None = None
    monitor: Monitor | None = None
    size: tuple[int, int] = (0, 0)


class FakeContainers:
    """Implements `engine.api.services.containers.ContainerManager`, as far as clients can see."""

    def __init__(self, events: EventBus) -> None:
        self.events = events
        self.containers: dict[str, FakeContainer] = {}
        self.execs: dict[str, FakeExec] = {}
        self.calls: list[tuple[Any, ...]] = []
        self.files: dict[str, bytes] = {}

    def find(self, ref: str) -> FakeContainer:
        for c in self.containers.values():
            if ref.removeprefix("/") == c.name:
                return c
        for c in self.containers.values():
            if c.id.startswith(ref):
                return c
        raise NotFound(f"No such container: {ref}")

    def _emit(self, action: str, c: FakeContainer, **more: str) -> None:
        self.events.emit("container", action, c.id, {"image": c.config["Image"], "name": c.name, **more})

    def create(self, config: JsonObject, name: str, platform: str = "") -> tuple[str, list[str]]:
        if config.get("Image") not in IMAGES:
            raise NotFound(f"No such image: {config.get('Image')}")
        name = name or f"name{len(self.containers)}"
        if any(c.name == name for c in self.containers.values()):
            raise Conflict(f'The container name "/{name}" is already in use')
        c = FakeContainer(secrets.token_hex(32), name, config)
        self.containers[c.id] = c
        self._emit("create", c)
        return c.id, ["careful"] if name == "warned" else []

    def start(self, ref: str) -> bool:
        c = self.find(ref)
        if c.status == "running":
            return False
        monitor = Monitor(
            c.argv, tty=c.tty, stdin=bool(c.config.get("OpenStdin")), on_exit=lambda code: self._ended(c, code)
        )
        pending, c.pending = c.pending, []
        for future in pending:
            if future.set_running_or_notify_cancel():
                future.set_result(monitor.attach())
        c.monitor, c.status = monitor, "running"
        try:
            monitor.run(lambda: self._emit("start", c))
        except OSError as err:
            c.status = "created"
            for client in monitor._clients:
                client.close()
            if c.config.get("HostConfig", {}).get("AutoRemove"):
                self._gone(c)
            raise InvalidParameter(f"cannot run {c.argv[0]!r}", why="executable file not found in $PATH") from err
        return True

    def _ended(self, c: FakeContainer, code: int) -> None:
        c.status, c.code = "exited", code
        self._emit("die", c, exitCode=str(code))
        exits, c.exits = c.exits, []
        for future in exits:
            if future.set_running_or_notify_cancel():
                future.set_result(ExitResult(code))
        if c.config.get("HostConfig", {}).get("AutoRemove"):
            self._gone(c)

    def _gone(self, c: FakeContainer) -> None:
        if self.containers.pop(c.id, None) is None:
            return
        self._emit("destroy", c)
        for future in c.pending:
            if future.set_running_or_notify_cancel():
                future.set_exception(Conflict("the container was removed"))
        removals, c.removals = c.removals, []
        for waiting in removals:
            if waiting.set_running_or_notify_cancel():
                waiting.set_result(ExitResult(c.code))

    def stop(self, ref: str, *, timeout: int | None = None, signal: str = "") -> bool:
        c = self.find(ref)
        self.calls.append(("stop", c.name, timeout, signal))
        if c.status != "running":
            return False
        self.kill(ref, "KILL")
        return True

    def restart(self, ref: str, *, timeout: int | None = None, signal: str = "") -> None:
        self.stop(ref, timeout=timeout, signal=signal)
        self.start(ref)

    def kill(self, ref: str, signal: str = "") -> None:
        c = self.find(ref)
        if c.status != "running" or c.monitor is None:
            raise Conflict(f"Cannot kill container: {ref}: container {c.id} is not running")
        c.monitor.signal(_number(signal))
        deadline = time.monotonic() + 5
        while c.status == "running" and time.monotonic() < deadline:
            time.sleep(0.01)

    def pause(self, ref: str) -> None:
        self.find(ref).status = "paused"

    def unpause(self, ref: str) -> None:
        self.find(ref).status = "running"

    def rename(self, ref: str, name: str) -> None:
        self.find(ref).name = name

    def remove(self, ref: str, *, force: bool = False, volumes: bool = False) -> None:
        c = self.find(ref)
        if c.status == "running":
            if not force:
                raise Conflict(
                    f"cannot remove container {c.name!r}: container is running", hint="Stop it first, or use force"
                )
            self.kill(ref)
        self._gone(c)

    def update(self, ref: str, config: JsonObject) -> list[str]:
        self.calls.append(("update", self.find(ref).name, config))
        return []

    def resize(self, ref: str, height: int, width: int) -> None:
        c = self.find(ref)
        c.size = (height, width)
        self.calls.append(("resize", c.name, height, width, c.status))

    def wait(self, ref: str, condition: str) -> Future[ExitResult]:
        c = self.find(ref)
        future: Future[ExitResult] = Future()
        if condition == "removed":
            c.removals.append(future)
        elif condition == "not-running" and c.status != "running":
            future.set_result(ExitResult(c.code))
        else:
            c.exits.append(future)
        return future

    def inspect(self, ref: str, *, size: bool = False) -> JsonObject:
        c = self.find(ref)
        return {
            "Id": c.id, "Name": f"/{c.name}", "Config": c.config,
            "HostConfig": {"LogConfig": {"Type": "json-file"}, **c.config.get("HostConfig", {})},
            "State": {"Status": c.status, "Running": c.status == "running", "Paused": False, "ExitCode": c.code},
            "Image": "sha256:" + "0" * 64, "Created": "2026-01-01T00:00:00Z", "Path": "", "Args": [],
            "NetworkSettings": {"Networks": {}}, "Mounts": [],
        }  # fmt: skip

    def top(self, ref: str, ps_args: str = "") -> JsonObject:
        self.find(ref)
        return {"Titles": ["PID", "CMD"], "Processes": [["1", ps_args or "-ef"]]}

    def stats(self, ref: str) -> JsonObject:
        c = self.find(ref)
        sample: JsonObject = {"id": c.id, "name": f"/{c.name}"}
        if c.status == "running":
            total = len(self.calls) * 10**8
            self.calls.append(("stats", c.name))
            sample |= {
                "read": f"2026-01-01T00:00:{len(self.calls) % 60:02d}Z",
                "cpu_stats": {"cpu_usage": {"total_usage": total}, "system_cpu_usage": total * 10, "online_cpus": 1},
                "memory_stats": {"usage": 1 << 20, "limit": 1 << 30, "stats": {}},
                "pids_stats": {"current": 3},
                "networks": {"eth0": {"rx_bytes": 1000, "tx_bytes": 2000}},
            }
        return sample

    def changes(self, ref: str) -> list[JsonObject]:
        self.find(ref)
        return [{"Path": "/a", "Kind": 1}, {"Path": "/b", "Kind": 0}, {"Path": "/c", "Kind": 2}]

    def logs(
        self, ref: str, *, stdout: bool, stderr: bool, since_ns: int = 0, until_ns: int = 0, tail: int | None = None,
        timestamps: bool = False, details: bool = False, follow: bool = False,
    ) -> FakeLog:  # fmt: skip
        c = self.find(ref)
        self.calls.append(("logs", since_ns, until_ns, tail, timestamps, details, follow))
        streams = {1} if stdout else set()
        return FakeLog(c.monitor, tty=c.tty, streams=streams | ({2} if stderr else set()), tail=tail, follow=follow)

    def attach(self, ref: str) -> Attachment:
        c = self.find(ref)
        future: Future[socket.socket] = Future()
        if c.status == "running" and c.monitor is not None:
            future.set_result(c.monitor.attach())
        else:
            c.pending.append(future)
        return Attachment(c.tty, bool(c.config.get("OpenStdin")), future)

    def connect(self, network: str, ref: str, endpoint: Endpoint) -> None:
        self.calls.append(("connect", network, self.find(ref).name, endpoint.settings))

    def disconnect(self, network: str, ref: str, *, force: bool = False) -> None:
        self.calls.append(("disconnect", network, self.find(ref).name, force))

    def exec_create(self, ref: str, config: JsonObject) -> str:
        c = self.find(ref)
        if c.status != "running":
            raise Conflict(f"container {c.id} is not running")
        id = secrets.token_hex(32)
        self.execs[id] = FakeExec(c, config)
        return id

    def _exec(self, id: str) -> FakeExec:
        if id not in self.execs:
            raise NotFound(f"No such exec instance: {id}")
        return self.execs[id]

    def exec_start(self, id: str, *, detach: bool, console_size: tuple[int, int] | None = None) -> socket.socket | None:
        e = self._exec(id)
        if e.monitor is not None:
            raise Conflict(f"exec {id} was started already")
        e.size = console_size or e.size

        def ended(code: int) -> None:
            e.code = code

        tty, stdin = bool(e.config.get("Tty")), bool(e.config.get("AttachStdin"))
        e.monitor = Monitor(e.config["Cmd"], tty=tty, stdin=stdin, on_exit=ended)
        client = None if detach else e.monitor.attach()
        try:
            e.monitor.run()
        except OSError as err:
            e.code = 127
            if client is not None:
                client.close()
            for other in e.monitor._clients:
                other.close()
            raise InvalidParameter("OCI runtime exec failed", why=f'exec: "{e.config["Cmd"][0]}": not found') from err
        return client

    def exec_resize(self, id: str, height: int, width: int) -> None:
        self._exec(id).size = (height, width)

    def exec_inspect(self, id: str) -> JsonObject:
        e = self._exec(id)
        process = {"tty": bool(e.config.get("Tty")), "entrypoint": e.config["Cmd"][0], "arguments": e.config["Cmd"][1:]}
        return {
            "ID": id, "Running": e.monitor is not None and not e.monitor.ended, "ExitCode": e.code,
            "ProcessConfig": process, "OpenStdin": bool(e.config.get("AttachStdin")), "OpenStdout": True,
            "OpenStderr": True, "ContainerID": e.container.id, "Pid": 0, "DetachKeys": e.config.get("DetachKeys", ""),
        }  # fmt: skip

    def archive_stat(self, ref: str, path: str) -> JsonObject:
        self.find(ref)
        if path.rstrip("/") in ("", "/d"):
            return {"name": "d", "size": 0, "mode": 0o755 | 1 << 31, "mtime": "2026-01-01T00:00:00Z", "linkTarget": ""}
        if path not in self.files:
            raise NotFound(f"Could not find the file {path} in container {ref}")
        size = len(self.files[path])
        return {
            "name": path.rsplit("/", 1)[-1], "size": size, "mode": 0o644, "mtime": "2026-01-01T00:00:00Z",
            "linkTarget": "",
        }  # fmt: skip

    def archive_get(self, ref: str, path: str) -> tuple[JsonObject, Readable]:
        found = self.archive_stat(ref, path)
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            info = tarfile.TarInfo(found["name"])
            info.size = found["size"]
            tar.addfile(info, io.BytesIO(self.files[path]))
        buffer.seek(0)
        return found, buffer

    def archive_put(
        self, ref: str, path: str, archive: Readable, *, no_overwrite_dir_non_dir: bool = False,
        copy_uid_gid: bool = False,
    ) -> None:  # fmt: skip
        self.find(ref)
        try:
            with tarfile.open(fileobj=archive, mode="r|*") as tar:  # type: ignore[call-overload]
                for member in tar:
                    content = tar.extractfile(member)
                    if content is not None:
                        self.files[f"{path.rstrip('/')}/{member.name}"] = content.read()
        except tarfile.TarError as err:
            raise InvalidParameter("the archive is none", why=str(err)) from err

    def export(self, ref: str) -> Readable:
        self.find(ref)
        return io.BytesIO(b"tar of everything" * 1000)

    def commit(self, ref: str, options: JsonObject) -> str:
        self.find(ref)
        self.calls.append(("commit", options))
        return "sha256:" + "1" * 64

    def prune(self, filters: Filters) -> JsonObject:
        gone = [c for c in self.containers.values() if c.status in ("created", "exited")]
        for c in gone:
            self._gone(c)
        return {"ContainersDeleted": [c.id for c in gone], "SpaceReclaimed": 42}

    def list(self, *, all: bool = False, limit: int = 0, size: bool = False, filters: Filters) -> list[JsonObject]:
        self.calls.append(("list", all, limit, size, {k: sorted(v) for k, v in filters.items()}))
        if set(filters) - {"name", "status", "label", "id"}:
            raise InvalidParameter(f"invalid filter {min(filters)!r}")
        return [
            {
                "Id": c.id, "Names": [f"/{c.name}"], "Image": c.config["Image"], "ImageID": "sha256:" + "0" * 64,
                "Command": " ".join(c.argv), "Created": 1767225600, "State": c.status, "Status": "Up 3 seconds",
                "Ports": [{"IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"}], "Labels": {},
                "HostConfig": {"NetworkMode": "bridge"}, "NetworkSettings": {"Networks": {}}, "Mounts": [],
            }
            for c in self.containers.values()
            if (all or c.status == "running") and all_match(c, filters)
        ]  # fmt: skip

    def close(self) -> None:
        for e in self.execs.values():
            if e.monitor is not None and not e.monitor.ended:
                with contextlib.suppress(AssertionError):
                    e.monitor.signal(signal.SIGKILL)
        for c in list(self.containers.values()):
            with contextlib.suppress(EngineError):
                self.remove(c.id, force=True)


def all_match(c: FakeContainer, filters: Mapping[str, Any]) -> bool:
    return all(any(v in c.name for v in values) for name, values in filters.items() if name == "name")


def _number(name: str) -> int:
    if not name:
        return signal.SIGKILL
    if name.isdigit():
        return int(name)
    return signal.Signals[f"SIG{name.removeprefix('SIG')}"].value
