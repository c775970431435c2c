"""A proxy before a server of HTTP/1.1 that spoils what passes. Run as a program: `fault_proxy.py PORT SERVER_PORT`.

In front of the real server, and not of the store's methods (`tests.kernel.tree.fault_store`): only so the client's own
repetitions, its conditions and its pool of connections take part in what goes wrong. It is a process of its own,
so that it can be killed. A line of JSON on its standard input says how to go on (`Proxy.set`); `ok` answers it.
"""

from __future__ import annotations

import contextlib
import json
import random
import select
import socket
import struct
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import NamedTuple

FAULTS = (
    "503", "500 after", "reset before", "reset after", "half a request", "half an answer", "slow", "hang before",
    "hang after",
)  # fmt: skip
"""`after`: the server has done what was asked, and the client does not hear of it."""
_UNAVAILABLE = b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\n\r\n"
_FAILED = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n"
_SECONDS = 30.0


class _Cut(Exception):
    """The connection ends here."""


class _Message(NamedTuple):
    """A request or an answer, as it was read."""

    head: bytes
    body: bytes

    @property
    def whole(self) -> bytes:
        return self.head + self.body


class Proxy:
    """Passes requests on, and spoils some."""

    def __init__(self, server: tuple[str, int]) -> None:
        self._server = server
        self._lock = threading.Lock()
        self._random = random.Random(0)
        self._rate = 0.0
        self._faults: Sequence[str] = FAULTS
        self._calm = threading.Event()
        """Set while there are no faults: what hangs is let go."""
        self._calm.set()

    def set(self, rate: float, seed: int, faults: Sequence[str] = FAULTS) -> None:
        """Spoil such a part of the requests from now on, in one of these ways."""
        with self._lock:
            self._random, self._rate, self._faults = random.Random(seed), rate, faults
            (self._calm.clear if rate else self._calm.set)()

    def _fault(self) -> str:
        with self._lock:
            return self._random.choice(self._faults) if self._random.random() < self._rate else ""

    def serve(self, client: socket.socket) -> None:
        """Serve a connection until its end."""
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with client, contextlib.suppress(OSError, _Cut), self._connection() as server:
            while True:
                request = _read(client)
                self._pass(request, client, server)

    @contextlib.contextmanager
    def _connection(self) -> Iterator[socket.socket]:
        with socket.create_connection(self._server, timeout=_SECONDS) as server:
            server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            yield server

    def _pass(self, request: _Message, client: socket.socket, server: socket.socket) -> None:
        fault = self._fault()
        if fault == "503":
            client.sendall(_UNAVAILABLE)
            return
        if fault == "reset before":
            _reset(client)
        if fault == "hang before":
            self._hang(client)
        if fault == "half a request":
            server.sendall(request.whole[: len(request.head) + len(request.body) // 2])
            _reset(client)
        server.sendall(request.whole)
        answer = _read(server, request.head.startswith(b"HEAD "))
        match fault:
            case "500 after":
                client.sendall(_FAILED)
            case "reset after":
                _reset(client)
            case "half an answer":
                client.sendall(answer.whole[: len(answer.head) + len(answer.body) // 2])
                _reset(client)
            case "hang after":
                self._hang(client)
            case "slow":
                self._dribble(client, answer.whole)
            case _:
                client.sendall(answer.whole)

    def _hang(self, client: socket.socket) -> None:
        """Answer nothing until the client has had enough, or the faults end."""
        while not self._calm.wait(0.05):
            if select.select([client], [], [], 0)[0] and not client.recv(1, socket.MSG_PEEK):
                break
        _reset(client)

    def _dribble(self, client: socket.socket, data: bytes) -> None:
        step = max(1, len(data) // 10)
        for start in range(0, len(data), step):
            client.sendall(data[start : start + step])
            self._calm.wait(0.05)


def _reset(connection: socket.socket) -> None:
    """End a connection by an RST."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raise _Cut


def _read(connection: socket.socket, bodiless: bool = False) -> _Message:
    """Read a message. Raises _Cut at the end of the connection."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += _some(connection)
        if data.startswith(b"HTTP/1.1 100 ") and data.endswith(b"\r\n\r\n"):
            data = b""
    end = data.index(b"\r\n\r\n") + 4
    head, body = data[:end], data[end:]
    fields = {}
    for line in head.split(b"\r\n")[1:-2]:
        name, _, value = line.partition(b":")
        fields[name.strip().lower()] = value.strip()
    if bodiless or head.split(b" ")[1] in (b"204", b"304"):
        return _Message(head, b"")
    if fields.get(b"transfer-encoding", b"") == b"chunked":
        while not body.endswith(b"0\r\n\r\n"):
            body += _some(connection)
    elif b"content-length" in fields:
        while len(body) < int(fields[b"content-length"]):
            body += _some(connection)
    return _Message(head, body)


def _some(connection: socket.socket) -> bytes:
    data = connection.recv(1 << 18)
    if not data:
        raise _Cut
    return data


def main() -> None:
    port, server = int(sys.argv[1]), int(sys.argv[2])
    proxy = Proxy(("127.0.0.1", server))
    listener = socket.create_server(("127.0.0.1", port), backlog=128)

    def accept() -> None:
        while True:
            client, _ = listener.accept()
            threading.Thread(target=proxy.serve, args=(client,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    print("ok", flush=True)
    for line in sys.stdin:
        proxy.set(**json.loads(line))
        print("ok", flush=True)


if __name__ == "__main__":
    main()
