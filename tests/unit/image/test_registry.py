import json
import stat
from pathlib import Path

import pytest

from engine.image.registry import Registries, error, last_message, registry_of
from engine.spec.errors import Forbidden, InvalidParameter, NotFound, Unavailable, Unsupported


@pytest.mark.parametrize(
    ("registry", "verified"),
    [
        ("docker.io", True),
        ("quay.io:443", True),
        ("10.1.2.3:5000", True),
        ("localhost", False),
        ("localhost:5000", False),
        ("127.0.0.1:5000", False),
        ("127.9.9.9", False),
        ("[::1]:5000", False),
        ("localhost.evil.org", True),
        ("127.0.0.1.evil.org", True),
        ("plain.lan:5000", False),
        ("plain.lan", True),
        ("192.168.7.7:80", False),
        ("any.lan:1", False),
    ],
)
def test_tls_is_demanded_except_on_loopback_and_where_named(tmp_path: Path, registry: str, verified: bool) -> None:
    registries = Registries(tmp_path, ("plain.lan:5000", "192.168.7.0/24", "any.lan"))
    assert registries.verify_tls(registry) is verified


def test_credentials_are_in_a_private_file_and_never_in_argv(tmp_path: Path) -> None:
    with Registries(tmp_path / "x").options("r.io", {"username": "u", "password": "secret"}) as options:
        assert not any("secret" in option for option in options)
        path = Path(options[-1])
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert json.loads(path.read_text()) == {"auths": {"r.io": {"auth": "dTpzZWNyZXQ="}}}
    assert not path.exists()


def test_without_credentials_nobody_elses_are_used(tmp_path: Path) -> None:
    with Registries(tmp_path).options("r.io", None) as options:
        assert json.loads(Path(options[-1]).read_text()) == {"auths": {}}


def test_an_identity_token_is_passed(tmp_path: Path) -> None:
    with Registries(tmp_path).options("r.io", {"identitytoken": "t"}) as options:
        assert json.loads(Path(options[-1]).read_text())["auths"]["r.io"]["identitytoken"] == "t"


def test_a_registry_token_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(Unsupported), Registries(tmp_path).options("r.io", {"registrytoken": "t"}):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("server", "registry"),
    [
        ("", "docker.io"),
        ("https://index.docker.io/v1/", "docker.io"),
        ("registry-1.docker.io", "docker.io"),
        ("https://quay.io", "quay.io"),
        ("http://127.0.0.1:5000/v2/", "127.0.0.1:5000"),
        ("ghcr.io", "ghcr.io"),
    ],
)
def test_server_addresses_as_docker_sends_them(server: str, registry: str) -> None:
    assert registry_of(server) == registry


@pytest.mark.parametrize(
    ("why", "kind"),
    [
        ("unauthorized: authentication required", Forbidden),
        ("denied: requested access", Forbidden),
        ("reading manifest x in y: manifest unknown", NotFound),
        ("name unknown: repository", NotFound),
        ("dial tcp: connection refused", Unavailable),
        ("corrupted blob, expecting sha256:1", InvalidParameter),
        ("http: server gave HTTP response to HTTPS client", Unavailable),
    ],
)
def test_skopeo_words_become_error_kinds(why: str, kind: type[Exception]) -> None:
    assert type(error("cannot pull x", why)) is kind


def test_the_message_of_a_log_line() -> None:
    line = 'time="t" level=fatal msg="Error parsing image name \\"docker://x\\": it is \\"gone\\""\n'
    assert last_message("noise\n" + line) == 'it is "gone"'
    assert last_message("") == "skopeo failed without a message"
