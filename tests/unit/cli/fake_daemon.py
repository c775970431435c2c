"""A daemon that speaks just enough of the API to test the command line: routes are functions, requests are recorded."""

from __future__ import annotations

import json
import re
import socket
import socketserver
import struct
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import TracebackType
from typing import Any, cast
from urllib.parse import parse_qs, unquote, urlsplit

SECONDS = 20


@dataclass
class Request:
    method: str
    path: str
    version: str
    query: dict[str, str]
    headers: dict[str, str]
    data: bytes
    handler: BaseHTTPRequestHandler

    @property
    def json(self) -> Any:
        return json.loads(self.data) if self.data else None

    def upgrade(self) -> socket.socket:
        """Answer 101 and return the raw connection."""
        self.handler.wfile.write(
            b"HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.multiplexed-stream\r\n"
            b"Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
        )
        return self.handler.connection


@dataclass
class Answer:
    """Status and body: bytes as they are, None for nothing, anything else as JSON; a list of bytes is sent chunked."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)


Route = Callable[[Request], Any]


def refuse(status: int, message: str) -> Route:
    return lambda _request: Answer(status, {"message": message})


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _serve(self) -> None:
        daemon = cast("_Server", self.server).daemon_
        parts = urlsplit(self.path)
        found = re.match(r"/v(\d+\.\d+)(/.*)", parts.path)
        version, path = (found[1], found[2]) if found else ("", parts.path)
        length = int(self.headers.get("Content-Length", 0))
        chunked = "chunked" in self.headers.get("Transfer-Encoding", "")
        data = self._chunks() if chunked else self.rfile.read(length)
        query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
        headers = {key.lower(): value for key, value in self.headers.items()}
        request = Request(self.command, unquote(path), version, query, headers, data, self)
        daemon.requests.append(request)
        answer = daemon.answer(request)
        self.close_connection = True
        if answer is not None:
            self._reply(answer)

    def _chunks(self) -> bytes:
        data = b""
        while size := int(self.rfile.readline(), 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    def _reply(self, answer: Answer) -> None:
        self.send_response(answer.status)
        self.send_header("Api-Version", cast("_Server", self.server).daemon_.api_version)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if isinstance(answer.body, list) and all(isinstance(part, bytes) for part in answer.body) and answer.body:
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for part in answer.body:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
            self.wfile.write(b"0\r\n\r\n")
            return
        data = answer.body if isinstance(answer.body, bytes) else b""
        if answer.body is not None and not isinstance(answer.body, bytes):
            data = json.dumps(answer.body).encode()
            self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = _serve

    def log_message(self, format: str, *args: object) -> None:
        pass

    def address_string(self) -> str:
        return "unix"


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    request_queue_size = 32
    daemon_: FakeDaemon

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone is no error of ours."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class FakeDaemon:
    """Listens at a Unix socket. `routes` maps "METHOD /path" (a regular expression) to a function or an answer."""

    def __init__(self, path: Path, api_version: str = "1.44") -> None:
        self.path, self.api_version = path, api_version
        self.host = f"unix://{path}"
        self.routes: dict[str, Any] = {}
        self.requests: list[Request] = []
        self._server = _Server(str(path), _Handler)
        self._server.daemon_ = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> FakeDaemon:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, request: Request) -> Answer | None:
        theirs = tuple(map(int, self.api_version.split(".")))
        if request.version and tuple(map(int, request.version.split("."))) > theirs:
            text = f"client version {request.version} is too new. Maximum supported API version is {self.api_version}"
            return Answer(400, {"message": text})
        for key, route in self.routes.items():
            method, pattern = key.split(" ", 1)
            if method == request.method and re.fullmatch(pattern, request.path):
                found = route(request) if callable(route) else route
                return found if found is None or isinstance(found, Answer) else Answer(200, found)
        return Answer(404, {"message": "page not found"})

    def sent(self, method: str, pattern: str) -> list[Request]:
        return [r for r in self.requests if r.method == method and re.fullmatch(pattern, r.path)]


def frame(stream: int, data: bytes) -> bytes:
    return struct.pack(">BxxxI", stream, len(data)) + data


@dataclass
class FakeContainer:
    """A container whose program is a function of its raw connection; it returns the exit code."""

    daemon: FakeDaemon
    program: Callable[[socket.socket, FakeContainer], int]
    tty: bool = False
    start_error: Answer | None = None
    code: int = 0
    started: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)
    signals: list[str] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def install(self) -> FakeContainer:
        self.daemon.routes.update(
            {
                "POST /containers/create": Answer(201, {"Id": "c" * 64, "Warnings": []}),
                "GET /containers/[^/]+/json": lambda _r: {
                    "Id": "c" * 64, "State": {"Running": self.started.is_set() and not self.ended.is_set()},
                    "Config": {"Tty": self.tty, "OpenStdin": True}, "HostConfig": {"AutoRemove": False},
                },
                "POST /containers/[^/]+/attach": self._attach,
                "POST /containers/[^/]+/wait": self._wait,
                "POST /containers/[^/]+/start": self._start,
                "POST /containers/[^/]+/kill": self._kill,
                "POST /containers/[^/]+/resize": self._resize,
            }
        )  # fmt: skip
        return self

    def until(self, condition: Callable[[], bool]) -> bool:
        with self.changed:
            return self.changed.wait_for(condition, SECONDS)

    def _attach(self, request: Request) -> None:
        connection = request.upgrade()
        if not self.started.wait(SECONDS):
            return
        self.code = self.program(connection, self)
        self.ended.set()

    def _start(self, _request: Request) -> Answer:
        if self.start_error is not None:
            return self.start_error
        self.started.set()
        return Answer(204)

    def _wait(self, _request: Request) -> Answer:
        self.ended.wait(SECONDS)
        return Answer(200, {"StatusCode": self.code})

    def _kill(self, request: Request) -> Answer:
        with self.changed:
            self.signals.append(request.query.get("signal", ""))
            self.changed.notify_all()
        return Answer(204)

    def _resize(self, request: Request) -> Answer:
        with self.changed:
            self.sizes.append((int(request.query["h"]), int(request.query["w"])))
            self.changed.notify_all()
        return Answer(200)
