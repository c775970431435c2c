"""Secrets and encrypted volumes through both command lines: keys that are nowhere, locked volumes, restarts."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.host import EngineHost, until

from .conftest import Cli

PASSPHRASE = "correct-horse-battery-staple"
IMAGE = ("-d", "encrypted", "-o", "method=image", "-o", "size=64m")


@pytest.fixture
def passphrase(tmp_path: Path) -> Path:
    file = tmp_path / "pass"
    file.write_text(PASSPHRASE + "\n")
    return file


@pytest.fixture(scope="module", autouse=True)
def _no_jobs_left(host: EngineHost) -> Iterator[None]:
    """The directory of jobs stays on purpose; their rows go when somebody looks."""
    yield
    shutil.rmtree(host.data_root / "jobs", ignore_errors=True)
    assert host.engine("volume", "jobs", "-q").stdout == ""


def write(cli: Cli, volume: str) -> None:
    cli("run", "--rm", "-v", f"{volume}:/v", "busybox", "sh", "-c", "echo kept > /v/a-secret-name")


def read(cli: Cli, volume: str) -> str:
    return cli("run", "--rm", "-v", f"{volume}:/v", "busybox", "cat", "/v/a-secret-name").stdout


def assert_nowhere(host: EngineHost, *keys: bytes) -> None:
    """No key in the database, plans, records, logs of the data root, or in any process of the engine's."""
    places = [path for path in host.data_root.rglob("*") if path.is_file() and path.stat().st_size < 8 << 20]
    texts = {
        str(path): path.read_bytes() for path in places if "secrets" not in path.parts and "image" not in path.parts
    }
    texts["the log"] = host.log().encode()
    for pid in host.processes():
        for name in ("cmdline", "environ"):
            try:
                texts[f"{pid}/{name}"] = Path(f"/proc/{pid}/{name}").read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue
    for key in keys:
        assert [place for place, text in texts.items() if key in text] == []


def test_secrets(cli: Cli, clean: EngineHost, tmp_path: Path) -> None:
    (tmp_path / "token").write_bytes(b"\0 top secret \n")
    id = cli("secret", "create", "--label", "a=b", "token", str(tmp_path / "token")).stdout.strip()
    cli("secret", "create", "piped", "-", input="from a pipe")
    assert "token" in cli("secret", "ls").stdout
    shown = cli("secret", "inspect", "token").stdout
    found = json.loads(shown)[0]
    assert (found["ID"], found["Spec"]["Name"], found["Spec"]["Labels"]) == (id, "token", {"a": "b"})
    assert "secret " not in shown
    assert "Data" not in shown
    again = cli("secret", "create", "token", "-", input="x", check=False)
    assert again.returncode == 1
    assert "exists" in again.stderr
    for file in (clean.data_root / "secrets").iterdir():
        assert file.stat().st_mode & 0o777 == 0o600
    assert (clean.data_root / "secrets").stat().st_mode & 0o777 == 0o700
    cli("secret", "rm", "token", "piped")
    assert cli("secret", "ls", "-q").stdout == ""


def test_a_local_one_locked_and_unlocked(cli: Cli, clean: EngineHost, passphrase: Path) -> None:
    cli("volume", "create", *IMAGE, "-o", f"passphrase-file={passphrase}", "sealed")
    write(cli, "sealed")
    assert read(cli, "sealed") == "kept\n"
    assert_nowhere(clean, PASSPHRASE.encode())
    passphrase.rename(passphrase.with_name("elsewhere"))
    clean.kill_daemon()
    clean.start_daemon()
    done = cli("run", "--rm", "-v", "sealed:/v", "busybox", "true", check=False)
    assert done.returncode in (125, 128)
    assert "locked" in done.stderr
    assert "engine volume unlock sealed" in done.stderr
    assert json.loads(cli("volume", "inspect", "sealed").stdout)[0]["Status"]["Locked"] is True
    assert clean.engine("volume", "unlock", "sealed", input="wrong\n", check=False).returncode == 1
    clean.engine("volume", "unlock", "sealed", input=f"{PASSPHRASE}\n")
    assert read(cli, "sealed") == "kept\n"
    assert_nowhere(clean, PASSPHRASE.encode())
    cli("volume", "rm", "sealed")


def test_prompt_rekey_and_a_daemon_that_is_killed(clean: EngineHost) -> None:
    engine = clean.engine
    engine("volume", "create", *IMAGE, "-o", "prompt=true", "asked", input=f"{PASSPHRASE}\n")
    refused = clean.docker("volume", "create", *IMAGE, "-o", "prompt=true", "unasked", check=False)
    assert refused.returncode == 1
    assert "passphrase" in refused.stderr
    write(engine, "asked")
    engine("run", "-d", "--name", "user", "--restart", "always", "-v", "asked:/v", "busybox", "sleep", "1000")
    clean.kill_daemon()
    clean.start_daemon()
    assert engine("exec", "user", "cat", "/v/a-secret-name").stdout == "kept\n"  # it goes on; nobody was asked
    engine("secret", "create", "key", "-", input="kept-by-the-engine")
    engine("volume", "rekey", "--slot", "spare", "--secret", "key", "--old-key-file", "-", "asked", input=PASSPHRASE)
    assert engine("secret", "rm", "key", check=False).returncode == 1  # in use
    assert re.findall(r"^(\w+) +(\S+)$", engine("volume", "keys", "asked").stdout, re.MULTILINE)[1:] == [
        ("main", "prompt"), ("spare", "secret:key"),
    ]  # fmt: skip
    engine("volume", "rekey", "--remove", "spare", "asked")
    clean.kill_daemon()
    clean.kill_containers()
    clean.start_daemon()  # the container restarts by itself, but for the key
    until(lambda: "locked" in engine("inspect", "user").stdout, "the container to say what it waits for")
    engine("volume", "unlock", "asked", input=f"{PASSPHRASE}\n")
    until(lambda: engine("exec", "user", "cat", "/v/a-secret-name", check=False).stdout == "kept\n", "the container")
    assert_nowhere(clean, PASSPHRASE.encode())
    engine("rm", "-f", "user")
    engine("volume", "rm", "asked")
    engine("secret", "rm", "key")


def test_in_a_store_scrubbed(cli: Cli, host: EngineHost, passphrase: Path, tmp_path: Path) -> None:
    bucket = tmp_path / "bucket"
    bucket.mkdir()
    key = ("-o", f"passphrase-file={passphrase}")
    cli("volume", "create", "-d", "encrypted", "-o", f"url=file://{bucket}", *key, "cloud")
    write(cli, "cloud")
    host.engine("volume", "sync", "cloud")
    assert host.engine("volume", "scrub", "cloud").returncode == 0
    assert host.engine("volume", "keys", "--store-password", "cloud").stdout == PASSPHRASE + "\n"
    assert_nowhere(host, PASSPHRASE.encode())
    victim = max((p for p in bucket.rglob("*") if p.is_file() and ".engine" not in p.parts), key=os.path.getsize)
    victim.write_bytes(victim.read_bytes()[:-1] + b"x")
    done = host.engine("volume", "scrub", "cloud", check=False)
    assert done.returncode == 1
    assert "damaged" in done.stdout
    passphrase.write_text("wrong")
    done = cli("volume", "create", "-d", "encrypted", "-o", f"url=file://{bucket}", *key, "other", check=False)
    assert done.returncode == 1
    assert "does not open this store" in done.stderr
    cli("volume", "rm", "cloud")
    assert victim.exists()
