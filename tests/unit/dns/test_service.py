"""Which containers are served: the rule, without sockets."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from engine.dns.members import Member
from engine.dns.service import NameService
from engine.reconcile.applier import Sandbox
from engine.spec.errors import ApplyFailed

SANDBOX = Sandbox(Path("/nowhere/at/all"))
DIRECT, LOOPBACK = "nameserver 127.0.0.53\nnameserver 192.0.2.1\n", "nameserver 127.0.0.53\nnameserver ::1\n"


def member(network: str, **fields: object) -> Member:
    return Member(
        endpoint=network, network=network, network_name=network, container="c", names=("c",), **fields
    )  # type: ignore[arg-type]  # fmt: skip


@pytest.mark.parametrize(
    ("resolv_conf", "members", "served"),
    [
        (DIRECT, [member("bridge", named=False)], False),
        (DIRECT, [member("front")], True),
        (DIRECT, [member("bridge", named=False), member("front")], True),
        (LOOPBACK, [member("bridge", named=False)], True),
        (LOOPBACK, [member("bridge", named=False, servers=("192.0.2.9",))], False),
        ("", [member("bridge", named=False)], False),
        (None, [member("bridge", named=False)], False),
        (LOOPBACK, [], False),
    ],
)
def test_who_is_served(
    resolv_conf: str | None, members: list[Member], served: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "resolv.conf"
    if resolv_conf is not None:
        path.write_text(resolv_conf)
    service = NameService(path)
    for one in members:
        service._directory.put(one)
    asked: list[str] = []
    monkeypatch.setattr(service, "serve", lambda container, sandbox: asked.append(container))
    service.attached("c", SANDBOX)
    assert asked == (["c"] if served else [])


def test_a_namespace_that_is_gone(tmp_path: Path) -> None:
    service = NameService(tmp_path / "resolv.conf")
    service._directory.put(member("front"))
    with pytest.raises(ApplyFailed, match="name server of a container"):
        service.attached("c", SANDBOX)
    assert not service.serves("c")
    service.stop("c")
    service.close()


def test_what_is_slow_to_import_is_not_imported_early() -> None:
    code = (
        "import sys, engine.daemon, engine.cli; print([m for m in sys.modules if m == 'dns' or m.startswith('dns.')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"
