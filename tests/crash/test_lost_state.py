"""The engine's databases are emptied beside its data: nothing of the data is removed, and what can be is taken back."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
from tests.crash.conftest import CrashHost
from tests.host import ENGINE, skip_unless_possible

from engine.daemon_options import DaemonOptions


@pytest.fixture
def lone() -> Iterator[CrashHost]:
    """A machine whose databases may be destroyed."""
    skip_unless_possible()
    with CrashHost() as host:
        host.load_busybox()
        yield host


def names(host: CrashHost) -> list[str]:
    return sorted(host.engine("ps", "-a", "--format", "{{.Names}}").stdout.split())


def empty(host: CrashHost, name: str) -> None:
    """Lose all that a database knows, with the log of its last changes."""
    path = host.data_root / name
    path.write_bytes(b"")
    path.with_name(f"{path.name}-wal").unlink(missing_ok=True)


def test_containers_are_taken_back_from_their_directories(lone: CrashHost) -> None:
    lone.engine("run", "-d", "--name", "writer", "-v", "/anonymous", "busybox", "sh", "-c",
                "echo kept > /x; echo too > /anonymous/y; sleep 1000")  # fmt: skip
    lone.engine("create", "--name", "old", "busybox", "true")
    lone.engine("rename", "old", "new")
    lone.kill_daemon()
    empty(lone, "state.db")
    lone.start_daemon()
    assert names(lone) == ["new", "writer"]
    assert lone.engine("cp", "writer:/x", "-", check=False).returncode == 0
    found = lone.engine("doctor", check=False)
    assert found.returncode == 1
    assert "state.db.lost" in found.stdout
    lone.engine("start", "writer")
    assert lone.engine("exec", "writer", "cat", "/anonymous/y").stdout == "too\n"
    lone.engine("rm", "-f", "writer", "new")
    (lone.data_root / "state.db.lost").unlink()
    lone.restart_daemon()
    assert names(lone) == []
    assert lone.engine("doctor", check=False).returncode == 0


def test_the_backup_of_the_last_clean_stop_is_used(lone: CrashHost) -> None:
    lone.engine("network", "create", "mine")
    lone.engine("create", "--name", "before", "--network", "mine", "busybox", "true")
    lone.restart_daemon()
    lone.engine("create", "--name", "since", "busybox", "true")
    lone.kill_daemon()
    for name in ("state.db", "image/images.db"):
        empty(lone, name)
    lone.start_daemon()
    assert names(lone) == ["before", "since"]
    assert "mine" in lone.engine("network", "ls").stdout
    for name in names(lone):
        lone.engine("start", "-a", name)
    assert lone.engine("doctor", check=False).stdout.count("the backup of") == 2


def test_directories_without_a_record_and_layers_are_kept(lone: CrashHost) -> None:
    lone.kill_daemon()
    stranger = lone.data_root / "containers" / ("f" * 64)
    (stranger / "upper").mkdir(parents=True)
    layers = sorted(p.name for p in (lone.data_root / "image/l").iterdir())
    (lone.data_root / "image/images.db.backup").unlink(missing_ok=True)
    for name in ("state.db", "image/images.db"):
        empty(lone, name)
    lone.start_daemon()
    assert sorted(p.name for p in (lone.data_root / "image/l").iterdir()) == layers
    assert stranger.is_dir()
    assert stranger.name in lone.engine("doctor", check=False).stdout
    for mark in ("state.db.lost", "image/images.db.lost"):
        (lone.data_root / mark).unlink()
    lone.restart_daemon()
    assert not stranger.exists()
    assert list((lone.data_root / "image/l").iterdir()) == []


@pytest.mark.parametrize("name", ["state.db", "image/images.db"])
def test_a_damaged_database_stops_the_start_with_one_sentence(lone: CrashHost, name: str) -> None:
    """Whether a person starts the daemon, or a command does: the file, the reason, and the backup as the way out."""
    lone.restart_daemon()
    lone.stop_daemon()
    database = lone.data_root / name
    database.write_bytes(b"rubbish" * 5000)
    roots = {"data_root": lone.data_root, "exec_root": lone.exec_root}
    by_hand = [str(ENGINE), "daemon", "--host", lone.url]
    by_hand += [f"--{name.replace('_', '-')}={root}" for name, root in roots.items()]
    by_itself = [sys.executable, "-m", "engine.daemon", DaemonOptions(hosts=(lone.url,), **roots).to_json()]
    for argv in (by_hand, by_itself):
        done = lone.run(*argv, check=False)
        assert done.returncode == 1
        (said,) = [line for line in done.stderr.splitlines() if " INFO " not in line]
        assert said.startswith(f"engine: the database {database} is damaged: file is not a database. ")
        assert f"{database}.backup: move" in said
    for file in database.parent.glob(f"{database.name}*"):
        if not file.name.endswith(".backup"):
            file.rename(lone.root / file.name)
    lone.start_daemon()
    assert "the backup of" in lone.engine("doctor", check=False).stdout
    assert lone.engine("images", "-q").stdout
