"""TLS with client certificates and half-close: the stock docker CLI over TCP."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.api import tls

from .conftest import SECONDS, Server

EXTENSIONS = "subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with ca.pem, and cert.pem and key.pem for both sides."""
    here = tmp_path_factory.mktemp("tls")
    (here / "extensions").write_text(EXTENSIONS)

    def openssl(*args: str) -> None:
        subprocess.run(["openssl", *args], cwd=here, check=True, capture_output=True, timeout=60)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    openssl("req", "-x509", *key, "-keyout", "ca-key.pem", "-out", "ca.pem", "-subj", "/CN=test ca", "-days", "2")
    openssl("req", *key, "-keyout", "key.pem", "-out", "request.pem", "-subj", "/CN=test")
    openssl(
        "x509", "-req", "-in", "request.pem", "-CA", "ca.pem", "-CAkey", "ca-key.pem", "-CAcreateserial",
        "-out", "cert.pem", "-days", "2", "-extfile", "extensions",
    )  # fmt: skip
    return here


@pytest.fixture
def server(make_server: Callable[..., Server], certificates: Path) -> Server:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "cert.pem", certificates / "key.pem")
    context.load_verify_locations(certificates / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    server = make_server("tcp://127.0.0.1:0", tls=context)
    names = (("ca", "--tlscacert"), ("cert", "--tlscert"), ("key", "--tlskey"))
    options = [word for name, flag in names for word in (flag, str(certificates / f"{name}.pem"))]
    server.cli_options = lambda: ["-H", server.addresses[1], "--tlsverify", *options]  # type: ignore[method-assign]
    return server


def connect(server: Server, certificates: Path, *, proof: bool = True) -> ssl.SSLSocket:
    context = ssl.create_default_context(cafile=str(certificates / "ca.pem"))
    if proof:
        context.load_cert_chain(certificates / "cert.pem", certificates / "key.pem")
    raw = socket.create_connection(("127.0.0.1", int(server.addresses[1].rpartition(":")[2])), SECONDS)
    return context.wrap_socket(raw, server_hostname="127.0.0.1")


def test_half_close(server: Server) -> None:
    done = server.cli("run", "-i", "--rm", "busybox", "sh", "-c", "cat; sleep .3; echo after; exit 3", input=b"hi\n")
    assert (done.stdout, done.returncode) == (b"hi\nafter\n", 3)
    done = server.cli("run", "--rm", "busybox", "sh", "-c", "sleep .3; echo out; echo err >&2")
    assert (done.stdout, done.stderr) == (b"out\n", b"err\n")


def test_bulk_both_ways(server: Server) -> None:
    data = os.urandom(8 << 20)
    assert server.cli("run", "-i", "--rm", "busybox", "cat", input=data).stdout == data


def test_the_rest_of_the_api(server: Server, tmp_path: Path) -> None:
    server.cli("run", "-d", "--name", "c", "busybox", "sleep", "100", check=True)
    assert server.cli("exec", "-i", "c", "cat", input=b"words").stdout == b"words"
    source = tmp_path / "source"
    source.write_bytes(os.urandom(3 << 20))
    server.cli("cp", str(source), "c:/d/", check=True)
    assert server.containers.files["/d/source"] == source.read_bytes()
    assert server.cli("save", "busybox").stdout == b"x" * (64 << 16)
    assert b"Pull complete" in server.cli("pull", "registry.example/busybox").stdout


def test_only_with_a_certificate(server: Server, certificates: Path) -> None:
    with connect(server, certificates) as good:
        good.sendall(b"GET /_ping HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n")
        assert good.recv(100).startswith(b"HTTP/1.1 200 OK")
    with connect(server, certificates, proof=False) as bad, pytest.raises(ssl.SSLError):
        bad.sendall(b"GET /_ping HTTP/1.1\r\nHost: d\r\n\r\n")
        bad.recv(100)


def test_a_client_that_speaks_no_tls(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", int(server.addresses[1].rpartition(":")[2])), SECONDS) as raw:
        raw.sendall(b"GET /_ping HTTP/1.1\r\nHost: d\r\n\r\n")
        received = b""
        try:
            while data := raw.recv(100):
                received += data
        except ConnectionResetError:
            pass
        assert not received.startswith(b"HTTP")


def test_a_handshake_has_its_time(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls, "HANDSHAKE_SECONDS", 0.2)
    with socket.create_connection(("127.0.0.1", int(server.addresses[1].rpartition(":")[2])), SECONDS) as raw:
        started = time.monotonic()
        try:
            assert raw.recv(1) == b""
        except ConnectionResetError:
            pass
        assert time.monotonic() - started < 10


def test_a_slow_reader_is_waited_for(server: Server, certificates: Path) -> None:
    with connect(server, certificates) as slow:
        slow.sendall(b"GET /images/get?names=busybox HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n")
        time.sleep(0.5)
        received = 0
        while data := slow.recv(1 << 16):
            received += len(data)
        assert received > 64 << 16
