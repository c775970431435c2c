"""Other users of the host: they run no program of a container, and read nothing of an engine (CVE-2021-41091)."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.host import EngineHost

NOBODY = 65534


@contextmanager
def _reachable(host: EngineHost) -> Iterator[None]:
    """Let others pass the test's own directory, so that only the engine's modes keep them out."""
    before = stat.S_IMODE(host.root.stat().st_mode)
    host.root.chmod(0o755)
    try:
        yield
    finally:
        host.root.chmod(before)


def _as_nobody(host: EngineHost, *argv: str) -> tuple[int, str]:
    others = [
        "setpriv",
        f"--reuid={NOBODY}",
        f"--regid={NOBODY}",
        "--clear-groups",
        "env",
    ]  # setpriv(1) itself has its capabilities until the next exec
    done = host.run(*others, *argv, check=False)
    return done.returncode, done.stdout + done.stderr


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_nobody_else_runs_a_containers_setuid_program(clean: EngineHost) -> None:
    script = "cp /bin/busybox /busybox-suid && chmod 4755 /busybox-suid && echo made && exec sleep 600"
    id = clean.engine("run", "-d", "busybox", "sh", "-c", script).stdout.strip()
    upper, mounted = clean.data_root / "containers" / id / "upper", clean.exec_root / "fs" / id
    clean.engine("exec", id, "test", "-u", "/busybox-suid")
    with _reachable(clean):
        assert _as_nobody(clean, "ls", str(clean.root))[0] == 0
        for place in (upper, mounted):
            assert clean.run("test", "-u", f"{place}/busybox-suid", check=False).returncode == 0
            code, said = _as_nobody(clean, f"{place}/busybox-suid", "id", "-u")
            assert code != 0
            assert "denied" in said
        for directory in (clean.exec_root, clean.exec_root / "fs", clean.exec_root / "c", clean.data_root):
            code, said = _as_nobody(clean, "ls", str(directory))
            assert (code != 0, "denied" in said) == (True, True), said
        assert _as_nobody(clean, "cat", str(clean.data_root / "state.db"))[0] != 0


def test_no_file_of_an_engine_is_open_to_others(clean: EngineHost) -> None:
    clean.engine("volume", "create", "vol")
    clean.engine("run", "-d", "--name", "one", "-v", "vol:/v", "busybox", "sleep", "600")
    places = [place for root in (clean.data_root, clean.exec_root) for place in (root, *root.iterdir())]
    meant = {clean.data_root / "volumes", clean.exec_root / "vol", clean.exec_root / "netns", clean.socket}
    assert not [str(place) for place in places if place not in meant and _mode(place) & 0o077]
    for name in ("state.db", "state.db-wal", "state.db-shm"):
        assert _mode(clean.data_root / name) == 0o600


def test_roots_that_are_too_open_are_tightened_at_the_start(clean: EngineHost) -> None:
    clean.stop_daemon()
    clean.data_root.chmod(0o755)
    clean.exec_root.chmod(0o711)
    (clean.data_root / "state.db").chmod(0o644)
    clean.start_daemon()
    assert (_mode(clean.data_root), _mode(clean.exec_root)) == (0o700, 0o700)
    assert _mode(clean.data_root / "state.db") == 0o600


@pytest.mark.parametrize("user", ["0", "1000:1000"])
def test_users_of_containers_see_the_usual_modes(clean: EngineHost, user: str, tmp_path: Path) -> None:
    source = tmp_path / "made" / "by the engine"
    mounts = ["-v", "vol:/deep/in/it", "-v", f"{source}:/bound/by", "--tmpfs", "/scratch/of/it"]
    script = (
        "umask; stat -c %a / /deep /deep/in/it /bound/by /scratch; cat /etc/hosts >/dev/null; "
        "ls /deep/in/it /bound/by >/dev/null; touch /scratch/of/it/x; stat -c %a /scratch/of/it/x"
    )
    done = clean.engine("run", "--name", "one", "-u", user, *mounts, "busybox", "sh", "-ec", script)
    # The last three digits: crun makes places of mounts sticky.
    assert [word[-3:] for word in done.stdout.split()] == ["022", "755", "755", "755", "755", "755", "644"]
    assert [_mode(source), _mode(source.parent)] == [0o755, 0o755]
    clean.engine("rm", "one")
    clean.engine("run", "-d", "--name", "two", "-u", user, "busybox", "sleep", "600")
    assert clean.engine("exec", "-u", "7", "two", "sh", "-c", "umask; id -u").stdout.split() == ["0022", "7"]
