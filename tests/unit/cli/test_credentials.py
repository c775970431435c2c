"""Credentials: docker's format, our file, docker's as a fallback."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from engine.cli import credentials
from engine.cli.errors import Failure


@pytest.fixture(autouse=True)
def _homes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))


def _docker(content: object) -> None:
    credentials.docker_file().parent.mkdir(exist_ok=True)
    credentials.docker_file().write_text(json.dumps(content))


def test_round_trip_in_dockers_format() -> None:
    path = credentials.store("127.0.0.1:5000", {"username": "alice", "password": "pa:ss wörd"})
    assert path.stat().st_mode & 0o777 == 0o600
    stored = json.loads(path.read_text())["auths"]["127.0.0.1:5000"]["auth"]
    assert base64.b64decode(stored).decode() == "alice:pa:ss wörd"
    found = credentials.find("127.0.0.1:5000")
    assert found == {"username": "alice", "password": "pa:ss wörd", "serveraddress": "127.0.0.1:5000"}
    assert credentials.find("127.0.0.1:5001") is None
    assert credentials.forget("127.0.0.1:5000")
    assert not credentials.forget("127.0.0.1:5000")
    assert credentials.find("127.0.0.1:5000") is None


def test_docker_hub_has_many_names() -> None:
    credentials.store("docker.io", {"username": "a", "password": "b"})
    assert list(json.loads(credentials.own_file().read_text())["auths"]) == ["https://index.docker.io/v1/"]
    assert (credentials.find("index.docker.io") or {})["username"] == "a"


def test_dockers_config_is_a_fallback() -> None:
    _docker({"auths": {"https://r.example/v2/": {"auth": base64.b64encode(b"bob:x").decode()}}})
    assert (credentials.find("r.example") or {})["username"] == "bob"
    credentials.store("r.example", {"username": "own", "password": "y"})
    assert (credentials.find("r.example") or {})["username"] == "own"


def test_credential_helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helper = tmp_path / "docker-credential-test"
    helper.write_text('#!/bin/sh\nread server\necho "{\\"Username\\": \\"u-$server\\", \\"Secret\\": \\"s\\"}"\n')
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    _docker({"credHelpers": {"r.example": "test"}})
    assert (credentials.find("r.example") or {})["username"] == "u-r.example"
    _docker({"credHelpers": {"r.example": "absent"}})
    with pytest.raises(Failure, match="docker-credential-absent"):
        credentials.find("r.example")


def test_a_broken_file_is_named() -> None:
    credentials.own_file().parent.mkdir(parents=True)
    credentials.own_file().write_text("{")
    with pytest.raises(Failure, match=r"auth\.json"):
        credentials.find("x.example")


def test_header_is_base64_of_the_api_object() -> None:
    credentials.store("r.example", {"username": "a", "password": "?>?>"})
    decoded = json.loads(base64.urlsafe_b64decode(credentials.header("r.example")["X-Registry-Auth"]))
    assert decoded["password"] == "?>?>"
    empty = base64.urlsafe_b64decode(credentials.header("other.example")["X-Registry-Auth"])
    assert json.loads(empty) == {}


@pytest.mark.parametrize(
    ("image", "registry"),
    [
        ("busybox", "docker.io"), ("library/busybox:1", "docker.io"), ("r.example/a/b:1", "r.example"),
        ("localhost/a", "localhost"), ("127.0.0.1:5000/a@sha256:0", "127.0.0.1:5000"),
    ],
)  # fmt: skip
def test_registry_of_an_image(image: str, registry: str) -> None:
    assert credentials.registry_of(image) == registry
