"""Volumes whose files come at first access, in real containers, while whatever serves them is killed."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.conftest import Cli
from tests.host import EngineHost, until

from engine.spec.errors import Unsupported
from engine.tree import selftest

FILES = 40
SIZE = 150_000


@pytest.fixture
def objects(tmp_path: Path) -> dict[str, str]:
    """Objects in a directory, which is the store; their digests."""
    try:
        selftest.check(tmp_path)
    except Unsupported as err:
        pytest.skip(str(err))
    store = tmp_path / "store"
    store.mkdir()
    for number in range(FILES):
        (store / f"f{number}").write_bytes(random.Random(number).randbytes(SIZE + number))
    return {file.name: hashlib.md5(file.read_bytes()).hexdigest() for file in store.iterdir()}


def create(cli: Any, tmp_path: Path, *options: str) -> None:
    words = [w for o in (f"url=file://{tmp_path}/store", "mode=on-demand", *options) for w in ("-o", o)]
    cli("volume", "create", "-d", "remote", *words, "vol")


def status(host: EngineHost) -> dict[str, Any]:
    return dict(json.loads(host.engine("volume", "inspect", "vol").stdout)[0]["Status"])


def of_volume(host: EngineHost, *words: str) -> list[int]:
    """Return the processes on the machine that have a word in their command line."""
    found = []
    for pid in host.processes():
        try:
            line = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
        except FileNotFoundError:
            continue
        if any(word in line for word in words):
            found.append(pid)
    return found


def guards(host: EngineHost) -> list[int]:
    return of_volume(host, "holder.py", "engine.helper")


def kill(pids: list[int]) -> None:
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def holds_a_group(pid: int) -> bool:
    return any(str(fd.readlink()) == "anon_inode:[fanotify]" for fd in Path(f"/proc/{pid}/fd").iterdir())


def test_files_come_when_they_are_opened(cli: Cli, clean: EngineHost, objects: dict[str, str], tmp_path: Path) -> None:
    create(cli, tmp_path)
    cli("run", "-d", "--name", "reader", "-v", "vol:/v", "busybox", "sleep", "1000")
    assert cli("exec", "reader", "sh", "-c", "ls /v | wc -l").stdout.strip() == str(FILES)
    found = status(clean)
    assert (found["State"], found["Files"]) == ("ready", FILES)
    assert found["LocalBytes"] < SIZE
    (monitor,) = of_volume(clean, "conmon")
    assert holds_a_group(monitor)
    (inside,) = of_volume(clean, "sleep")
    assert not holds_a_group(inside), "a container must not be able to answer for us"
    assert cli("exec", "reader", "md5sum", "/v/f7").stdout.split()[0] == objects["f7"]
    cli("exec", "reader", "sh", "-c", "echo more >> /v/f9; mv /v/f8 /v/g8; rm /v/f1")
    clean.engine("volume", "sync", "vol")
    store = tmp_path / "store"
    assert (store / "f9").read_bytes() == random.Random(9).randbytes(SIZE + 9) + b"more\n"
    assert hashlib.md5((store / "g8").read_bytes()).hexdigest() == objects["f8"]
    assert not (store / "f1").exists()
    assert not (store / "f8").exists()
    cli("rm", "-f", "reader")
    until(lambda: guards(clean) == [], "the helper and the holder have ended")
    cli("volume", "rm", "vol")


def test_whatever_is_killed_no_container_reads_zeroes(
    clean: EngineHost, objects: dict[str, str], tmp_path: Path
) -> None:
    create(clean.engine, tmp_path, f"cache-size={SIZE * 4}")
    script = "while :; do for f in /v/*; do md5sum $f || echo error; done; done"
    clean.engine("run", "-d", "--name", "reader", "-v", "vol:/v", "busybox", "sh", "-c", script)
    chance = random.Random(6)
    for _ in range(8):
        time.sleep(chance.uniform(0.1, 0.8))
        what = chance.choice(["helper", "holder", "both", "all"])
        kill(
            of_volume(
                clean, *{"helper": ["engine.helper"], "holder": ["holder.py"]}.get(what, ["engine.helper", "holder.py"])
            )
        )
        if what == "all":
            clean.kill_daemon()
            clean.start_daemon()
        until(lambda: of_volume(clean, "engine.helper"), "the helper is started again")
    lines = clean.engine("logs", "reader").stdout.splitlines()
    until(lambda: len(clean.engine("logs", "reader").stdout.splitlines()) > len(lines) + FILES, "the reader goes on")
    lines = [line for line in clean.engine("logs", "reader").stdout.splitlines() if line != "error"]
    wrong = [line for line in lines if line.split()[0] != objects[line.split()[1].removeprefix("/v/")]]
    assert wrong == []
    assert len(lines) > FILES
    clean.engine("rm", "-f", "reader")
    until(lambda: guards(clean) == [], "the helper and the holder have ended")


def test_where_it_cannot_be_done_everything_is_fetched(clean: EngineHost, tmp_path: Path) -> None:
    """The data of this volume lies on tmpfs, which has no such events."""
    store = tmp_path / "store"
    store.mkdir()
    (store / "file").write_bytes(b"content\n")
    create(clean.engine, tmp_path)
    (volume,) = (p.parent for p in (clean.data_root / "volumes").glob("*/tree"))
    clean.run("mount", "-t", "tmpfs", "tmpfs", str(volume / "tree"))
    try:
        clean.engine("run", "-d", "--name", "reader", "-v", "vol:/v", "busybox", "sleep", "1000")
        assert clean.engine("exec", "reader", "cat", "/v/file").stdout == "content\n"
        assert "instead of on demand" in json.dumps(status(clean))
        clean.engine("rm", "-f", "reader")
        until(lambda: guards(clean) == [], "the helper has ended")
    finally:
        clean.run("umount", str(volume / "tree"))
