"""Parts die or vanish while the daemon runs, or beside it: monitors, first processes, the exec root, free space."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from tests.crash.conftest import CrashHost
from tests.host import ENGINE, skip_unless_possible, until
from tests.images import Registry, busybox_image

LOST = 255


def state(host: CrashHost, name: str) -> dict[str, object]:
    found = host.inspect(name)
    assert found is not None
    status: dict[str, object] = found["State"]
    return status


def state_id(host: CrashHost, name: str) -> str:
    found = host.inspect(name)
    assert found is not None
    return str(found["Id"])


def monitor_of(host: CrashHost, name: str) -> int:
    found = host.inspect(name)
    assert found is not None
    return int((host.exec_root / "c" / found["Id"] / "conmon.pid").read_text())


def test_monitor_killed(crashing: CrashHost) -> None:
    """Nobody holds the container's streams any more, so it ends, with the code that says that its own is not known."""
    crashing.engine("run", "-d", "--name", "m1", "-p", "18081:80", "busybox", "sleep", "1000")
    os.kill(monitor_of(crashing, "m1"), signal.SIGKILL)
    until(lambda: state(crashing, "m1")["Status"] == "exited", "the container's end")
    assert state(crashing, "m1")["ExitCode"] == LOST
    until(lambda: not crashing.processes(), "the end of its processes")
    crashing.engine("start", "m1")
    crashing.assert_whole()


def test_monitor_killed_without_daemon(crashing: CrashHost) -> None:
    crashing.engine("run", "-d", "--name", "m1", "busybox", "sleep", "1000")
    pid = monitor_of(crashing, "m1")
    crashing.kill_daemon()
    os.kill(pid, signal.SIGKILL)
    crashing.start_daemon()
    assert (state(crashing, "m1")["Status"], state(crashing, "m1")["ExitCode"]) == ("exited", LOST)
    assert crashing.processes() == []


def test_first_process_killed(crashing: CrashHost) -> None:
    crashing.engine("run", "-d", "--name", "p1", "busybox", "sleep", "1000")
    crashing.engine("run", "-d", "--name", "again", "--restart", "always", "busybox", "sleep", "1000")
    first = state(crashing, "again")["Pid"]
    for name in ("p1", "again"):
        os.kill(int(str(state(crashing, name)["Pid"])), signal.SIGKILL)
    until(lambda: state(crashing, "p1")["Status"] == "exited", "the end")
    assert state(crashing, "p1")["ExitCode"] == 137
    until(lambda: state(crashing, "again")["Running"] and state(crashing, "again")["Pid"] != first, "the restart")
    crashing.assert_whole()


def test_first_process_killed_without_daemon(crashing: CrashHost) -> None:
    """Its end is known from what the monitor left."""
    crashing.engine(
        "run", "-d", "--name", "p1", "busybox", "sh", "-c", "trap 'exit 7' TERM; while :; do sleep 0.05; done"
    )
    crashing.engine("run", "-d", "--rm", "--name", "gone", "-v", "/data", "busybox", "sleep", "1000")
    pids = [int(str(state(crashing, name)["Pid"])) for name in ("p1", "gone")]
    crashing.kill_daemon()
    os.kill(pids[0], signal.SIGTERM)
    os.kill(pids[1], signal.SIGKILL)
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), "their ends")
    crashing.start_daemon()
    until(lambda: state(crashing, "p1")["Status"] == "exited", "the end")
    assert state(crashing, "p1")["ExitCode"] == 7
    until(lambda: crashing.inspect("gone") is None, "the removal of a container with --rm")


def test_killed_while_it_starts(crashing: CrashHost) -> None:
    """A daemon that is killed at its own start leaves no trial container, and the next one goes on."""
    crashing.engine("run", "-d", "--name", "k1", "busybox", "sleep", "1000")
    for delay in (0.15, 0.3, 0.5):
        crashing.kill_daemon()
        for file in crashing.exec_root.glob("*.json"):  # what the trial of the runtime found is kept there
            file.unlink()
        argv = [*crashing.enter, str(ENGINE), "daemon", "--host", crashing.url]
        argv += ["--data-root", str(crashing.data_root), "--exec-root", str(crashing.exec_root)]
        daemon = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            daemon.wait(delay)
        daemon.kill()
        daemon.wait()
        crashing.start_daemon()
        assert state(crashing, "k1")["Running"]
        crashing.assert_whole()


def test_reboot(crashing: CrashHost) -> None:
    """The exec root, every process, link and mount are gone: what restarts is started again, the rest has ended."""
    crashing.engine("run", "-d", "--name", "stays", "-v", "/data", "-p", "18082:80", "busybox", "sleep", "1000")
    crashing.engine("run", "-d", "--name", "back", "--restart", "always", "-v", "/data", "busybox", "sleep", "1000")
    crashing.engine("run", "-d", "--name", "by-hand", "--restart", "unless-stopped", "busybox", "sleep", "1000")
    crashing.engine("stop", "-t", "0", "by-hand")
    crashing.engine("exec", "back", "sh", "-c", "echo kept > /data/file; echo kept > /file")
    crashing.kill_daemon()
    reboot(crashing)
    crashing.start_daemon()
    until(lambda: state(crashing, "back")["Running"], "the container that restarts always")
    assert (state(crashing, "stays")["Status"], state(crashing, "stays")["ExitCode"]) == ("exited", LOST)
    assert state(crashing, "by-hand")["Status"] == "exited"
    assert crashing.engine("exec", "back", "cat", "/data/file", "/file").stdout == "kept\nkept\n"
    crashing.assert_whole()
    crashing.engine("start", "stays")
    crashing.assert_whole()


def reboot(host: CrashHost) -> None:
    """Take away what a reboot takes."""
    while pids := host.processes():
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    mounts = [line.split()[4] for line in Path(f"/proc/{host.pid}/mountinfo").read_text().splitlines()]
    for mount in sorted((m for m in mounts if str(host.root) in m), reverse=True):
        host.run("umount", "-l", mount)
    shutil.rmtree(host.exec_root)
    host.run("nft", "flush", "ruleset")
    for line in host.run("ip", "-o", "link").stdout.splitlines():
        name = line.split(": ")[1].partition("@")[0]
        if name not in ("lo", "eth0"):
            host.run("ip", "link", "delete", name, check=False)
    for path in sorted(host.cgroups(), reverse=True):
        path.rmdir()


@pytest.fixture
def small() -> object:
    """A machine whose data root is a tmpfs of a few megabytes."""
    skip_unless_possible()
    host = CrashHost()
    host.data_root.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(host.data_root)], check=True, timeout=10)
    try:
        with host:
            host.load_busybox()
            host.engine("run", "--rm", "-v", "/data", "busybox", "true")
            yield host
    finally:
        subprocess.run(["umount", "-l", str(host.data_root)], check=True, timeout=10)
        shutil.rmtree(host.root, ignore_errors=True)


def test_full_disk(small: CrashHost) -> None:
    """What needs space fails with a sentence and leaves nothing; what runs goes on, and so does the engine."""
    small.engine("run", "-d", "--name", "runs", "busybox", "sleep", "1000")
    small.engine("run", "-d", "--name", "goes", "busybox", "sh", "-c", "head -c 1m /dev/zero >/big; sleep 1000")
    until(lambda: "big" in small.engine("exec", "goes", "ls", "/").stdout, "a big file")
    before = small.settled()
    filler = small.data_root / "filler"
    with filler.open("wb", buffering=0) as file:  # nothing is left to be written when it is closed
        for piece in (65536, 512):
            with contextlib.suppress(OSError):
                while True:
                    file.write(b"\0" * piece)
    with Registry(netns=small.netns) as registry:
        name = registry.push(busybox_image([os.urandom(1 << 20)]))
        failures = [
            small.engine("run", "--name", "new", "-v", "/data", "busybox", "true", check=False),
            small.engine("pull", name, check=False),
            small.engine("volume", "create", "v1", check=False),
        ]
    for failure in failures:
        assert failure.returncode not in (0, 1) or failure.stderr, failure
        assert "No space left" in failure.stderr or "full" in failure.stderr, failure.stderr
    assert small.inspect("new") is None
    assert state(small, "runs")["Running"]
    small.assert_clean({**before, "files": sorted([*before["files"], "d/filler"])})
    small.engine("rm", "-f", "goes")  # what frees room needs none
    assert small.inspect("goes") is None
    assert small.call("GET", "/networks/bridge")[1]["Containers"].keys() == {state_id(small, "runs")}
    filler.unlink()
    assert small.engine("run", "--rm", "busybox", "echo", "again").stdout == "again\n"
    small.restart_daemon()
    assert state(small, "runs")["Running"]
    small.assert_whole()
