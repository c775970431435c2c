"""TLS to the daemon: what is trusted, and a half-close that keeps the other direction open."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from engine.cli.client import Client
from engine.cli.errors import Failure, Unreachable
from engine.cli.transport import Endpoint, Tls

from .fake_daemon import SECONDS

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make a certificate")


@dataclass
class Certificate:
    certificate: Path
    key: Path


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    home = tmp_path_factory.mktemp("tls")
    made = Certificate(home / "cert.pem", home / "key.pem")
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
            "-days", "2",
            "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", made.key,
            "-out", made.certificate,
        ],
        check=True, capture_output=True, timeout=SECONDS,
    )  # fmt: skip
    return made


@pytest.fixture
def port(certificate: Certificate) -> Iterator[int]:
    """A server that answers an upgrade, reads all until our half-close, and then writes more than a buffer holds."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate.certificate, certificate.key)

    def serve() -> None:
        sock, _address = listener.accept()
        try:
            connection = context.wrap_socket(sock, server_side=True)
            received = b""
            while b"\r\n\r\n" not in received:
                received += connection.recv(1000)
            if received.startswith(b"GET"):
                connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n{"a":1}')
            else:
                connection.sendall(b"HTTP/1.1 101 UPGRADED\r\n\r\n")
                given = received.split(b"\r\n\r\n", 1)[1]
                while part := connection.recv(65536):
                    given += part
                connection.sendall(b"%d " % len(given) + b"y" * 500_000)
            connection.close()
        except OSError:
            sock.close()  # the client did not trust us

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(SECONDS)
        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(SECONDS)


def test_half_close(certificate: Certificate, port: int) -> None:
    endpoint = Endpoint.parse(f"tcp://127.0.0.1:{port}", Tls(ca=certificate.certificate))
    connection = Client(endpoint).hijack("/attach")
    connection.wire.sendall(b"x" * 300_000)
    connection.wire.end_sending()
    received = connection.received
    while part := connection.wire.recv(65536):
        received += part
    connection.wire.close()
    assert received == b"300000 " + b"y" * 500_000


def test_requests(certificate: Certificate, port: int) -> None:
    endpoint = Endpoint.parse(f"tcp://127.0.0.1:{port}", Tls(ca=certificate.certificate))
    assert Client(endpoint).get("/info") == {"a": 1}


def test_without_verification(port: int) -> None:
    assert Client(Endpoint.parse(f"tcp://127.0.0.1:{port}", Tls(verify=False))).get("/info") == {"a": 1}


@pytest.mark.parametrize("raw", [False, True])
def test_an_unknown_certificate_is_refused(port: int, raw: bool) -> None:
    client = Client(Endpoint.parse(f"tcp://127.0.0.1:{port}", Tls()))
    with pytest.raises(Unreachable, match=r"by TLS: .*certificate"):
        client.hijack("/attach") if raw else client.get("/info")


def test_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    with pytest.raises(Failure, match=r"cannot use the TLS files .*none\.pem"):
        Tls(ca=tmp_path / "none.pem").context()
