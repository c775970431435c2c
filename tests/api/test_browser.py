"""What a page in a browser on this host can send, against what docker's clients send."""

from __future__ import annotations

import http.client
import io
import tarfile
from collections.abc import Callable

import pytest

from .conftest import SECONDS, Server

CREATE = "/containers/create?name=c"
CONFIG = b'{"Image": "busybox"}'


def ask(server: Server, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> int:
    """Make one request over TCP, with exactly these headers (and Host, unless given)."""
    connection = http.client.HTTPConnection("127.0.0.1", int(server.addresses[1].rpartition(":")[2]), timeout=SECONDS)
    try:
        connection.request(method, path, body, headers)
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.fixture
def server(make_server: Callable[..., Server]) -> Server:
    return make_server("tcp://127.0.0.1:0")


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_a_json_body_of_a_type_that_a_page_can_send(server: Server, kind: str | None) -> None:
    assert ask(server, "POST", CREATE, CONFIG, {"Content-Type": kind} if kind else {}) == 400
    assert ask(server, "POST", CREATE, CONFIG, {"Content-Type": "application/json; charset=utf-8"}) == 201


@pytest.mark.parametrize(
    "headers",
    [{"Origin": "https://evil.example"}, {"Origin": "null"}, {"Origin": "http://127.0.0.1"},
     {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}],
)  # fmt: skip
@pytest.mark.parametrize("request_line", [("GET", "/info"), ("POST", "/containers/c/stop"), ("POST", "/images/load")])
def test_a_page_of_another_origin(server: Server, request_line: tuple[str, str], headers: dict[str, str]) -> None:
    assert ask(server, *request_line, None, headers) == 403
    assert server.request(*request_line, headers=headers)[0] == 403  # a proxy may lead to the unix socket


@pytest.mark.parametrize("host", ["evil.example:2375", "127.0.0.1.evil.example", "local.attacker.test."])
def test_a_name_that_was_rebound_to_this_host(server: Server, host: str) -> None:
    assert ask(server, "GET", "/info", None, {"Host": host}) == 403
    assert server.request("GET", "/info", headers={"Host": host})[0] == 200  # no page reaches a unix socket


@pytest.mark.parametrize("host", ["localhost:2375", "docker", "api.moby.localhost", "[::1]:1", "host.docker.internal"])
def test_names_that_only_this_network_gives(server: Server, host: str) -> None:
    assert ask(server, "GET", "/info", None, {"Host": host}) == 200


def test_the_same_origin_as_clients_of_websockets_send_it(server: Server) -> None:
    assert ask(server, "GET", "/info", None, {"Host": "localhost:1", "Origin": "http://localhost:1"}) == 200


def test_a_name_that_the_daemon_was_told_to_listen_on(make_server: Callable[..., Server]) -> None:
    server = make_server("tcp://localhost:0")
    assert ask(server, "GET", "/info", None, {"Host": "LocalHost:1"}) == 200


def test_docker_py_sends_archives_without_a_type(server: Server) -> None:
    client = server.py()
    container = client.containers.create("busybox", "sleep 100")
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("file"))
    assert container.put_archive("/", data.getvalue())
    container.start()
    assert client.api.exec_start(client.api.exec_create(container.id, "true")["Id"]) is not None
