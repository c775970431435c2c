"""The daemon that a command starts when none answers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.cli import embedded
from engine.cli.errors import Failure
from engine.cli.transport import Endpoint
from engine.daemon_options import DaemonOptions, DaemonTls
from engine.spec.errors import InvalidParameter

from .conftest import wait_until

DAEMON = """
import os, socket, sys, time
path, pidfile = sys.argv[1:]
print("starting", os.getsid(0) == os.getpid(), os.getppid(), flush=True)
time.sleep(0.2)
listener = socket.socket(socket.AF_UNIX)
listener.bind(path)
listener.listen()
open(pidfile, "a").write(f"{os.getpid()}\\n")
while True:
    listener.accept()[0].close()
"""


@pytest.fixture
def roots(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    yield short_path
    pids = short_path / "pids"
    for pid in pids.read_text().split() if pids.exists() else ():
        os.kill(int(pid), signal.SIGKILL)


def _start(root: Path, seconds: float = 10) -> None:
    embedded.ensure_daemon(
        Endpoint.parse(f"unix://{root}/x.sock"), data_root=root / "data", exec_root=root / "run", seconds=seconds
    )


def test_it_is_started_once_by_many(roots: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        embedded, "daemon_command", lambda *_: [sys.executable, "-c", DAEMON, f"{roots}/x.sock", f"{roots}/pids"]
    )
    failures: list[BaseException] = []

    def start() -> None:
        try:
            _start(roots)
        except BaseException as err:  # noqa: BLE001 - reported below
            failures.append(err)

    threads = [threading.Thread(target=start) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not failures
    assert embedded.answers(f"{roots}/x.sock")
    (pid,) = (roots / "pids").read_text().split()
    _start(roots)  # answers already
    assert (roots / "pids").read_text().split() == [pid]
    said = (roots / "data" / "daemon.log").read_text()
    assert said.startswith("starting")
    assert Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1] != str(os.getpid())  # orphaned


def test_a_daemon_that_cannot_start_shows_its_log(roots: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (roots / "data").mkdir()
    (roots / "data" / "daemon.log").write_text("of an earlier day\n")
    code = "import sys; print('line 1'); sys.exit('no kernel module')"
    monkeypatch.setattr(embedded, "daemon_command", lambda *_: [sys.executable, "-c", code])
    with pytest.raises(Failure) as err:
        _start(roots)
    assert "could not start" in str(err.value) or "ended at once" in str(err.value)
    assert "line 1" in str(err.value)
    assert "no kernel module" in str(err.value)
    assert "earlier day" not in str(err.value)


def test_a_daemon_that_hangs_is_reported(roots: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        f"import os, time; open('{roots}/pids', 'w').write(str(os.getpid())); print('hm', flush=True); time.sleep(60)"
    )
    monkeypatch.setattr(embedded, "daemon_command", lambda *_: [sys.executable, "-c", code])
    with pytest.raises(Failure, match=r"does not answer after 1 s(.|\n)*hm"):
        _start(roots, seconds=1)
    wait_until((roots / "pids").exists)


def test_only_root_starts_one(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(Failure, match="only root can start one: use sudo"):
        _start(short_path)
    assert not list(short_path.iterdir())


def test_a_chosen_host_is_never_started(short_path: Path) -> None:
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "engine.cli.app", "-H", f"unix://{short_path}/x.sock", "ps"],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "Is it running?" in done.stderr
    assert time.monotonic() - began < 20


def test_the_real_command_is_whole() -> None:
    command = embedded.daemon_command(Endpoint.parse("unix:///r/x.sock"), Path("/d"), Path("/e"))
    assert command[:4] == [sys.executable, "-I", "-m", "engine.daemon"]
    import json

    options = DaemonOptions.from_json(json.loads(command[4]))
    assert (options.hosts, options.data_root, options.exec_root) == (("unix:///r/x.sock",), Path("/d"), Path("/e"))
    assert options.idle_exit == 60


def test_options_survive_json() -> None:
    import json

    options = DaemonOptions(
        hosts=("unix:///a", "tcp://1.2.3.4:5"), net_opts={"parent": "e"}, insecure_registries=("r:1",),
        tls=DaemonTls(Path("/c"), Path("/k")), pidfile=Path("/p"), idle_exit=2.5, insecure=True,
    )  # fmt: skip
    assert DaemonOptions.from_json(json.loads(options.to_json())) == options
    assert DaemonOptions.from_json({}) == DaemonOptions()


@pytest.mark.parametrize("tls", [None, DaemonTls(Path("/c"), Path("/k"))])
def test_tcp_without_client_certificates_must_be_asked_for(tls: DaemonTls | None) -> None:
    hosts = ("unix:///a", "tcp://127.0.0.1:2375")
    with pytest.raises(InvalidParameter, match=r"tcp://127.0.0.1:2375 would be served .*--insecure"):
        DaemonOptions(hosts=hosts, tls=tls)
    assert DaemonOptions(hosts=hosts, tls=tls, insecure=True).hosts == hosts
    assert DaemonOptions(hosts=hosts, tls=DaemonTls(Path("/c"), Path("/k"), Path("/ca"))).hosts == hosts
