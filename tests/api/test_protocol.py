"""The server below the clients' libraries: versions, bad requests, raw connections, sockets, what is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.api import events
from engine.api import server as server_module
from engine.api.listening import listening
from engine.api.services.data import Readable, Writable
from engine.api.streams import frame
from engine.spec.errors import Conflict, EngineError, InvalidParameter, Unavailable

from .conftest import SECONDS, Server


def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def raw_request(method: str, path: str, *headers: str) -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: d", *headers, "", ""]).encode()


def read_head(raw: socket.socket) -> bytes:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = raw.recv(1)
        assert byte, head
        head += byte
    return head


def read_all(raw: socket.socket) -> bytes:
    return b"".join(iter(lambda: raw.recv(1 << 16), b""))


def test_ping_and_versions(server: Server) -> None:
    for method in ("GET", "HEAD"):
        status, data, headers = server.request(method, "/_ping")
        assert (status, data) == (200, b"OK" if method == "GET" else b"")
        assert (headers["Api-Version"], headers["Ostype"], headers["Swarm"]) == ("1.44", "linux", "inactive")
    assert server.request("GET", "/v1.24/version")[1]["ApiVersion"] == "1.44"
    status, error, _ = server.request("GET", "/v1.45/version")
    assert (status, error["message"]) == (
        400, "client version 1.45 is too new. Maximum supported API version is 1.44",
    )  # fmt: skip
    status, error, _ = server.request("GET", "/v1.23/containers/json")
    assert status == 400
    assert error["message"].startswith("client version 1.23 is too old. Minimum supported API version is 1.24")


@pytest.mark.parametrize(
    ("method", "path", "status", "message"),
    [
        ("GET", "/nothing", 404, "page not found"),
        ("GET", "/v1.43/nothing", 404, "page not found"),
        ("GET", "/v1.43/v1.43/version", 404, "page not found"),
        ("DELETE", "/v1.43/containers/json/", 404, "page not found"),
        ("PUT", "/v1.43/containers/json", 405, "method not allowed"),
        ("POST", "/containers/create", 400, "invalid JSON: got EOF"),
        ("GET", "/containers/json?filters=nonsense", 400, "invalid filter"),
        ("GET", "/containers/json?limit=many", 400, "invalid value for limit"),
        ("GET", "/containers/c/logs?stdout=1", 404, "No such container: c"),
        ("GET", "/containers/c/logs", 400, "you must choose at least one stream"),
        ("GET", "/containers/c/logs?stdout=1&since=yesterday", 400, "invalid value for since"),
        ("POST", "/containers/c/wait?condition=bored", 400, "invalid condition: 'bored'"),
        ("POST", "/containers/c/resize?h=1", 400, "invalid terminal size"),
        ("POST", "/containers/c/resize?h=1&w=99999", 400, "invalid terminal size"),
        ("POST", "/containers/c/attach?stream=1", 404, "No such container: c"),
        ("POST", "/containers/c/attach?stream=1&detachKeys=ctrl-1", 400, "invalid detach keys"),
        ("GET", "/containers/c/archive", 400, "missing parameter 'path'"),
        ("POST", "/exec/e/start", 404, "No such exec instance: e"),
        ("GET", "/events?filters=%7B%22colour%22%3A%5B%22red%22%5D%7D", 400, "invalid filter 'colour'"),
        ("POST", "/images/create", 400, "neither fromImage nor fromSrc"),
        ("GET", "/images/get", 400, "missing parameter 'names'"),
        ("GET", "/distribution/a/b/c/json", 501, "not supported"),
        ("PUT", "/volumes/v", 501, "volumes cannot be changed"),
        ("POST", "/v1.44/swarm/init", 501, "there is no swarm here"),
        ("GET", "/services", 501, "there is no swarm here"),
    ],
)
def test_refusals(server: Server, method: str, path: str, status: int, message: str) -> None:
    found, error, headers = server.request(method, path)
    assert (found, headers["Content-Type"]) == (status, "application/json")
    assert message in error["message"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "invalid JSON"),
        (b"[1]", "an object was expected, not list"),
        (b"\xff", "invalid JSON"),
        (b"[" * 100_000, "invalid JSON"),
        (b"{}", "config cannot be empty"),
        (b" " * (5 << 20), "larger than"),
    ],
)
def test_bad_bodies(server: Server, body: bytes, message: str) -> None:
    headers = {"Content-Type": "application/json"}
    status, error, _ = server.request("POST", "/containers/create", body, headers)
    assert status == 400
    assert message in error["message"]


def test_a_body_that_says_it_is_something_else(server: Server) -> None:
    status, error, _ = server.request("POST", "/containers/create", b"a=b", {"Content-Type": "text/plain"})
    assert (status, "must be 'application/json'" in error["message"]) == (400, True)


def test_errors_have_their_parts(server: Server) -> None:
    error = server.request("GET", "/images/nothing/json")[1]
    assert error["message"] == "No such image: nothing. Did you mean busybox?"
    assert error["error"] == {
        "kind": "not-found", "what": "No such image: nothing", "hint": "Did you mean busybox?", "details": {},
    }  # fmt: skip


def test_an_unforeseen_exception_is_an_answer(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(server.containers, "top", broken)
    status, error, _ = server.request("GET", "/containers/c/top")
    assert (status, error["error"]["kind"]) == (500, "internal")
    assert "ZeroDivisionError: a bug" in error["message"]
    assert server.request("GET", "/_ping")[0] == 200


def test_start_and_stop_twice(server: Server) -> None:
    server.cli("create", "--name", "c", "busybox", "sleep", "100", check=True)
    codes = [server.request("POST", f"/containers/c/{verb}")[0] for verb in ("start", "start", "stop", "stop")]
    assert codes == [204, 304, 204, 304]


def test_stdin_that_comes_before_the_start_is_kept(server: Server) -> None:
    server.cli("create", "-i", "--name", "c", "busybox", "cat", check=True)
    with server.connect() as raw:
        head = raw_request(
            "POST", "/v1.43/containers/c/attach?stream=1&stdin=1&stdout=1", "Connection: Upgrade", "Upgrade: tcp"
        )
        raw.sendall(head)
        answer = read_head(raw)
        assert answer.startswith(b"HTTP/1.1 101 UPGRADED\r\n")
        assert b"Content-Type: application/vnd.docker.multiplexed-stream" in answer
        raw.sendall(b"early ")
        raw.sendall(b"bytes")
        raw.shutdown(socket.SHUT_WR)
        time.sleep(0.1)
        server.containers.start("c")
        assert read_all(raw) == b"\1\0\0\0\0\0\0\x0bearly bytes"


def test_an_exec_of_an_older_client(server: Server) -> None:
    server.cli("run", "-d", "--name", "c", "busybox", "sleep", "100", check=True)
    id = server.containers.exec_create("c", {"Cmd": ["cat"], "AttachStdin": True})
    with server.connect() as raw:
        body = b'{"Detach": false, "Tty": false}'
        raw.sendall(
            raw_request(
                "POST", f"/v1.41/exec/{id}/start", "Content-Type: application/json", f"Content-Length: {len(body)}",
                "Connection: Upgrade", "Upgrade: tcp",
            )
        )  # fmt: skip
        raw.sendall(body)
        assert b"Content-Type: application/vnd.docker.raw-stream" in read_head(raw)  # as before 1.42
        raw.sendall(b"early")
        raw.shutdown(socket.SHUT_WR)
        assert read_all(raw) == b"\1\0\0\0\0\0\0\x05early"


def test_a_client_of_old_that_does_not_ask_for_the_upgrade(server: Server) -> None:
    server.cli("run", "-d", "--name", "c", "busybox", "sh", "-c", "sleep .3; echo out", check=True)
    with server.connect() as raw:
        raw.sendall(raw_request("POST", "/v1.24/containers/c/attach?stream=1&stdout=1"))
        assert read_head(raw).startswith(b"HTTP/1.1 200 OK\r\n")
        assert read_all(raw) == b"\1\0\0\0\0\0\0\x04out\n"


def test_detach_keys_in_the_middle_of_input(server: Server) -> None:
    server.cli("run", "-dit", "--name", "c", "busybox", "cat", check=True)
    with server.connect() as raw:
        raw.sendall(
            raw_request(
                "POST", "/containers/c/attach?stream=1&stdin=1&stdout=1&detachKeys=ctrl-a,x", "Connection: Upgrade",
                "Upgrade: tcp",
            )
        )  # fmt: skip
        assert b"raw-stream" in read_head(raw)
        raw.sendall(b"word\n\x01")
        seen = b""
        while b"word\r\n" not in seen:
            seen += raw.recv(100)
        raw.sendall(b"xnever seen\n")
        assert b"never" not in read_all(raw)
    assert server.containers.find("c").status == "running"


def test_wait_sends_its_headers_before_the_end(server: Server) -> None:
    server.cli("create", "--name", "c", "busybox", "sh", "-c", "exit 9", check=True)
    with server.connect() as raw:
        raw.sendall(raw_request("POST", "/containers/c/wait?condition=next-exit", "Connection: close"))
        assert read_head(raw).startswith(b"HTTP/1.1 200 OK\r\n")
        server.containers.start("c")
        assert b'{"StatusCode": 9}' in read_all(raw)


def test_a_slow_reader_of_a_log_does_not_fill_memory(server: Server) -> None:
    server.cli("run", "-d", "--name", "c", "busybox", "sh", "-c", "head -c 20000000 /dev/zero", check=True)
    until(lambda: server.containers.find("c").status == "exited", "it ended")
    with server.connect() as raw:
        raw.sendall(raw_request("GET", "/containers/c/logs?stdout=1&follow=1", "Connection: close"))
        read_head(raw)
        time.sleep(0.5)
        assert len(read_all(raw)) > 20_000_000


def test_attach_with_the_log_so_far(server: Server) -> None:
    server.cli("run", "-d", "--name", "c", "busybox", "sh", "-c", "echo early; sleep .5; echo late", check=True)
    until(lambda: server.cli("logs", "c").stdout == b"early\n", "the first line is there")
    with server.connect() as raw:
        raw.sendall(raw_request("POST", "/containers/c/attach?logs=1&stream=1&stdout=1", "Upgrade: tcp"))
        read_head(raw)
        assert read_all(raw) == frame(1, b"early\n") + frame(1, b"late\n")


def test_a_client_that_goes_away_ends_the_pull(server: Server) -> None:
    with server.connect() as raw:
        raw.sendall(raw_request("POST", "/images/create?fromImage=registry.example/endless&tag=1"))
        read_head(raw)
    assert server.images.aborted.wait(SECONDS)


def test_clients_that_vanish_leave_nothing(server: Server) -> None:
    server.cli("run", "-d", "-i", "--name", "c", "busybox", "sleep", "100", check=True)
    server.cli("create", "-i", "--name", "waiting", "busybox", "cat", check=True)
    upgrade = ("Connection: Upgrade", "Upgrade: tcp")
    attach = "attach?stream=1&stdin=1&stdout=1&stderr=1"
    requests = [
        raw_request("POST", f"/containers/c/{attach}", *upgrade),
        raw_request("POST", f"/containers/waiting/{attach}", *upgrade),
        raw_request("POST", f"/containers/c/{attach}&logs=1"),
        raw_request("GET", "/containers/c/logs?stdout=1&follow=1"),
        raw_request("GET", "/containers/c/stats"),
        raw_request("POST", "/containers/c/wait"),
        raw_request("POST", "/containers/c/wait?condition=removed"),
        raw_request("GET", "/events"),
        raw_request("POST", "/images/create?fromImage=registry.example/endless&tag=1"),
        raw_request("GET", "/images/get?names=busybox"),
        raw_request("GET", "/containers/c/attach/ws?stream=1", *upgrade[:1], "Upgrade: websocket",
                    "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="),
    ]  # fmt: skip

    def vanish(half_close: bool) -> None:
        for request in requests:
            with server.connect() as raw:
                raw.sendall(request)
                read_head(raw)
                if half_close:
                    raw.shutdown(socket.SHUT_WR)

    vanish(False)  # whatever is made once and kept
    until(lambda: len(server.containers.find("waiting").pending) >= 1, "the attachment waits")

    def descriptors() -> int:
        return sum(1 for fd in Path("/proc/self/fd").iterdir() if _is_socket_or_pipe(fd))

    def streams() -> int:
        return sum(thread.name == "api-stream" for thread in threading.enumerate())

    def clients() -> list[socket.socket]:
        monitor = server.containers.find("c").monitor
        assert monitor is not None
        return [c for c in monitor._clients if c.fileno() >= 0]

    until(lambda: streams() == 0, "threads of the first round ended")
    for client in clients():
        client.close()
    time.sleep(1.5)
    before = descriptors()
    for half_close in (False, True):
        vanish(half_close)
    until(lambda: streams() == 0, "no thread follows a log any more")
    until(lambda: not server.events._listeners, "no subscription is left")
    kept = len(clients())  # the fake's own ends: what the server held is closed
    until(lambda: descriptors() - kept <= before, f"{before} descriptors, now {descriptors()} with {kept} of the fake")
    until(lambda: all(f.cancelled() for f in server.containers.find("c").exits), "nobody waits any more")
    assert all(f.cancelled() for f in server.containers.find("waiting").pending)


def _is_socket_or_pipe(fd: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return str(fd.readlink()).startswith(("socket:", "pipe:"))
    return False


def test_a_silent_connection_is_cut(make_server: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "FIRST_REQUEST_SECONDS", 0.3)
    server = make_server()
    with server.connect() as silent, server.connect() as slow, server.connect() as good:
        slow.sendall(b"GET /_ping HTTP/1.1\r\nHost: ")
        good.sendall(raw_request("GET", "/_ping"))
        read_head(good)
        for raw in (silent, slow):
            with contextlib.suppress(ConnectionResetError):
                assert raw.recv(1) == b""
        good.recv(2)
        good.sendall(raw_request("GET", "/_ping"))
        assert read_head(good).startswith(b"HTTP/1.1 200")


def serve_once(host: str, home: Path) -> None:
    async def run() -> None:
        services = Server([host], home).services()
        with listening([host]) as listeners:
            async with server_module.serve(server_module.build_app(services), listeners):
                pass

    asyncio.run(run())


def test_unix_sockets(server: Server, tmp_path: Path) -> None:
    assert stat.S_IMODE(Path(server.socket).stat().st_mode) == 0o660
    with pytest.raises(Conflict, match="socket is busy"):
        serve_once(f"unix://{server.socket}", tmp_path)
    assert server.request("GET", "/_ping")[0] == 200

    dead = tmp_path / "dead"
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(str(dead))
    serve_once(f"unix://{dead}", tmp_path)
    assert not dead.exists()

    (tmp_path / "file").write_text("precious")
    with pytest.raises(Conflict, match="a file that is no socket is there"):
        serve_once(f"unix://{tmp_path}/file", tmp_path)
    assert (tmp_path / "file").read_text() == "precious"
    serve_once(f"unix://{tmp_path}/new/directory/socket", tmp_path)


@pytest.mark.parametrize(
    ("host", "error"),
    [
        ("tcp://127.0.0.1", InvalidParameter),
        ("tcp://127.0.0.1:port", InvalidParameter),
        ("tcp://127.0.0.1:1/path", InvalidParameter),
        ("http://127.0.0.1:1", InvalidParameter),
        ("unix://", InvalidParameter),
        (f"unix:///{'x' * 120}", Unavailable),
        ("tcp://192.0.2.1:0", Unavailable),
    ],
)
def test_hosts_that_cannot_be_served(host: str, error: type[EngineError], tmp_path: Path) -> None:
    with pytest.raises(error):
        serve_once(host, tmp_path)


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(Conflict, match="in use"):
        serve_once(f"tcp://127.0.0.1:{taken.getsockname()[1]}", tmp_path)


def test_tcp(make_server: Callable[..., Server]) -> None:
    server = make_server("tcp://127.0.0.1:0")
    assert server.addresses[1].startswith("tcp://127.0.0.1:")
    done = server.cli("run", "-i", "--rm", "busybox", "sh", "-c", "cat; sleep .3; echo after", input=b"hi\n")
    assert done.stdout == b"hi\nafter\n"


def test_stopping_does_not_wait_for_clients(make_server: Callable[..., Server]) -> None:
    server = make_server()
    server.cli("run", "-d", "--name", "c", "busybox", "sleep", "100", check=True)
    with server.connect() as waiting, server.connect() as events:
        waiting.sendall(raw_request("POST", "/containers/c/wait"))
        events.sendall(raw_request("GET", "/events"))
        read_head(waiting)
        read_head(events)
        started = time.monotonic()
        server.stop()
        assert time.monotonic() - started < 10


def test_the_api_imports_neither_appliers_nor_slow_libraries() -> None:
    code = (
        "import sys, engine.api.server\n"
        "slow = ('pyroute2', 'fsspec', 'nftables', 'engine.reconcile.', 'engine.runtime.')\n"
        "print([m for m in sys.modules if m.startswith(slow)])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_a_failure_in_the_middle_of_a_stream_is_no_clean_end(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def save(refs: object, out: Writable) -> None:
        out.write(b"x" * 100)
        time.sleep(0.1)
        raise Unavailable("the disk is gone")

    monkeypatch.setattr(server.images, "save", save)
    with server.connect() as raw:
        raw.sendall(raw_request("GET", "/images/get?names=busybox"))
        assert read_head(raw).startswith(b"HTTP/1.1 200")
        with contextlib.suppress(ConnectionResetError):
            assert b"0\r\n\r\n" not in read_all(raw)


def test_an_upload_that_breaks_off_is_noticed(server: Server) -> None:
    failed = threading.Event()

    def load(source: Readable, *, progress: object) -> list[str]:
        try:
            while source.read(1 << 16):
                pass
        except ConnectionAbortedError:
            failed.set()
            raise
        return []

    server.images.load = load  # type: ignore[method-assign,assignment]
    with server.connect() as raw:
        raw.sendall(raw_request("POST", "/images/load", "Content-Length: 1000000") + b"x" * 1000)
        time.sleep(0.1)
    assert failed.wait(SECONDS)


def test_a_client_that_does_not_read_events_is_cut_off(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "_BACKLOG", 100)
    with server.connect() as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.sendall(raw_request("GET", "/events", "Connection: close"))
        read_head(raw)
        for n in range(3000):
            server.events.emit("network", "create", str(n), {"filling": "x" * 1000})
        until(lambda: server.events._news.empty(), "all events are delivered")
        time.sleep(0.2)
        received = read_all(raw)
    assert received.endswith(b"0\r\n\r\n")
    assert received.count(b'"Type"') < 3000
