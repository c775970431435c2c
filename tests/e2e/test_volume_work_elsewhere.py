"""Backups and snapshots of volumes that are kept in a store, or encrypted."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.host import EngineHost


@pytest.fixture(scope="module", autouse=True)
def _no_leftovers(host: EngineHost) -> Iterator[None]:
    yield
    host.clear()
    assert host.engine("volume", "jobs", "-q").stdout == ""
    (host.data_root / "secrets/volume-backup.json").unlink(missing_ok=True)
    shutil.rmtree(host.data_root / "jobs", ignore_errors=True)


def write(host: EngineHost, volume: str, text: str) -> None:
    host.engine("run", "--rm", "-v", f"{volume}:/d", "busybox", "sh", "-c", f"echo {text} > /d/file")


def read(host: EngineHost, volume: str) -> str:
    return host.engine("run", "--rm", "-v", f"{volume}:/d", "busybox", "cat", "/d/file").stdout.strip()


def written(path: Path) -> bytes:
    """Return what was written of a sparse file."""
    found, position = b"", 0
    with path.open("rb") as file:
        while True:
            try:
                start = os.lseek(file.fileno(), position, os.SEEK_DATA)
            except OSError:  # only a hole is left
                return found
            position = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            found += os.pread(file.fileno(), position - start, start)


def test_a_volume_in_a_store(host: EngineHost, tmp_path: Path) -> None:
    if shutil.which("restic") is None:
        pytest.skip("restic is not installed")
    bucket = tmp_path / "bucket"
    bucket.mkdir()
    host.engine("volume", "create", "-d", "remote", "-o", f"url=file://{bucket}", "data")
    write(host, "data", "one")
    host.engine("volume", "snapshot", "data", "first")
    host.engine("volume", "backup", "data", f"file://{tmp_path}/repository")
    write(host, "data", "two")
    host.engine("volume", "rollback", "data", "first")
    assert read(host, "data") == "one"
    host.engine("volume", "sync", "data")
    assert (bucket / "file").read_text() == "one\n"
    refused = host.engine("volume", "clone", "data", "copy", check=False)
    assert "not on this host's disk" in refused.stderr
    write(host, "data", "three")
    host.engine("volume", "restore", "--force", "data", f"file://{tmp_path}/repository")
    assert read(host, "data") == "one"
    host.engine("volume", "sync", "data")


def test_a_local_encrypted_volume(host: EngineHost, tmp_path: Path) -> None:
    secret = tmp_path / "passphrase"
    secret.write_text("of the test")
    host.engine("volume", "create", "-d", "encrypted", "-o", f"passphrase-file={secret}", "sealed")
    write(host, "sealed", "words-one")
    host.engine("volume", "snapshot", "sealed", "first")
    write(host, "sealed", "words-two")
    host.engine("volume", "clone", "sealed", "copy")
    host.engine("volume", "rollback", "sealed", "first")
    assert (read(host, "sealed"), read(host, "copy")) == ("words-one", "words-two")
    directory = host.data_root / "volumes"
    found = [p for p in directory.rglob("*") if p.is_file() and p.name != "volume.json"]
    assert found
    assert not [p for p in found if b"words-" in written(p)]


def test_no_plain_copy_of_what_is_encrypted_in_a_store(host: EngineHost, tmp_path: Path) -> None:
    secret = tmp_path / "passphrase"
    secret.write_text("of the test")
    options = ("-o", f"url=file://{tmp_path}/bucket", "-o", f"passphrase-file={secret}")
    host.engine("volume", "create", "-d", "encrypted", *options, "sealed2")
    refused = host.engine("volume", "snapshot", "sealed2", check=False)
    assert "would be plain" in refused.stderr
