"""The HTTP client against a fake daemon: versions, errors, streams, uploads, hijacking."""

from __future__ import annotations

import io
import json
import socket
import threading
from pathlib import Path

import pytest

from engine.cli.client import Client
from engine.cli.errors import ApiError, Failure, Unreachable
from engine.cli.transport import Endpoint

from .fake_daemon import SECONDS, Answer, FakeDaemon, Request, refuse


@pytest.fixture
def client(daemon: FakeDaemon) -> Client:
    return Client(Endpoint.parse(daemon.host))


def test_requests_name_our_version(daemon: FakeDaemon, client: Client) -> None:
    daemon.routes["GET /info"] = Answer(200, {"Name": "x"})
    assert client.get("/info") == {"Name": "x"}
    assert [r.version for r in daemon.requests] == ["1.44"]


@pytest.mark.parametrize("method", ["get", "wait", "hijack", "head", "upload"])
def test_an_older_daemon_gets_its_own_version(short_path: Path, method: str) -> None:
    with FakeDaemon(short_path / "old.sock", api_version="1.41") as daemon:
        daemon.routes["GET /info"] = Answer(200, {"Name": "x"})
        daemon.routes["HEAD /info"] = Answer(200)
        daemon.routes["POST /wait"] = Answer(200, {"StatusCode": 3})
        daemon.routes["POST /exec/x/start"] = lambda request: request.upgrade().sendall(b"hello")
        daemon.routes["GET /_ping"] = Answer(200, b"OK")
        daemon.routes["PUT /archive"] = Answer(200)
        client = Client(Endpoint.parse(daemon.host))
        if method == "get":
            assert client.get("/info") == {"Name": "x"}
        elif method == "wait":
            assert client.begin("POST", "/wait").response().json() == {"StatusCode": 3}
        elif method == "head":
            client.send("HEAD", "/info").close()
        elif method == "upload":
            client.send("PUT", "/archive", data=io.BytesIO(b"x" * 100_000)).read()
            assert daemon.sent("PUT", "/archive")[-1].data == b"x" * 100_000
        else:
            connection = client.hijack("/exec/x/start")
            assert (connection.received + connection.wire.recv(9))[:5] == b"hello"
            connection.wire.close()
        assert client.version == "1.41"
        assert daemon.requests[-1].version == "1.41"


def test_errors_carry_status_and_message(daemon: FakeDaemon, client: Client) -> None:
    daemon.routes["GET /json"] = refuse(409, " name is taken\n")
    daemon.routes["GET /text"] = Answer(500, b"plain")
    daemon.routes["GET /empty"] = Answer(502)
    for path, status, text in (("/json", 409, "name is taken"), ("/text", 500, "plain"), ("/empty", 502, "502")):
        with pytest.raises(ApiError) as err:
            client.get(path)
        assert err.value.status == status
        assert text in str(err.value)
    with pytest.raises(ApiError, match="page not found"):
        client.hijack("/nothing")


def test_query_leaves_out_what_is_not_said(daemon: FakeDaemon, client: Client) -> None:
    daemon.routes["GET /q"] = Answer(200, {})
    client.get("/q", {"a": True, "b": False, "c": None, "d": "", "e": 0, "f": {"x": ["y"]}})
    query = daemon.requests[-1].query
    assert {k: query[k] for k in ("a", "e")} == {"a": "1", "e": "0"}
    assert json.loads(query["f"]) == {"x": ["y"]}
    assert set(query) == {"a", "e", "f"}


def test_json_lines_in_any_fragments(daemon: FakeDaemon, client: Client) -> None:
    daemon.routes["GET /events"] = Answer(200, [b'{"a":', b'1}\n{"a":2}\n\n{"a"', b":3}"])
    assert [e["a"] for e in client.send("GET", "/events").json_lines()] == [1, 2, 3]


def test_an_error_before_the_upload_is_read_is_reported(short_path: Path) -> None:
    """The daemon answers and closes while we still send."""
    path, answered = short_path / "rude.sock", threading.Event()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            ping, _ = listener.accept()
            ping.recv(65536)
            ping.sendall(b"HTTP/1.1 200 OK\r\nApi-Version: 1.44\r\nContent-Length: 0\r\n\r\n")
            ping.close()
            upload, _ = listener.accept()
            upload.recv(1000)
            body = b'{"message":"no space"}'
            upload.sendall(b"HTTP/1.1 507 Full\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
            upload.shutdown(socket.SHUT_RD)
            answered.wait(SECONDS)
            upload.close()

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(ApiError, match="no space"):
            Client(Endpoint.parse(f"unix://{path}")).send("POST", "/images/load", data=io.BytesIO(bytes(8 << 20)))
        answered.set()
        thread.join(10)


def test_nobody_listens(short_path: Path) -> None:
    with pytest.raises(Unreachable, match=r"cannot connect to the daemon at unix://.*Is it running"):
        Client(Endpoint.parse(f"unix://{short_path}/none.sock")).get("/info")


def test_a_daemon_that_hangs_up(short_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(short_path / "x.sock"))
        listener.listen()
        thread = threading.Thread(target=lambda: listener.accept()[0].close())
        thread.start()
        with pytest.raises(Failure, match="no answer from the daemon"):
            Client(Endpoint.parse(f"unix://{short_path}/x.sock")).get("/info")
        thread.join(10)


def test_stdin_is_half_closed_on_a_hijacked_connection(daemon: FakeDaemon, client: Client) -> None:
    def echo(request: Request) -> None:
        connection = request.upgrade()
        data = b""
        while part := connection.recv(1000):
            data += part
        connection.sendall(b"got " + data)

    daemon.routes["POST /attach"] = echo
    wire = client.hijack("/attach").wire
    wire.sendall(b"all")
    wire.end_sending()
    assert wire.recv(100) == b"got all"
    wire.close()
