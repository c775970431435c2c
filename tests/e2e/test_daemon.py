"""The daemon is stopped, killed and started again; containers go on."""

from __future__ import annotations

import contextlib
import json
import socket
from typing import Any

import pytest
from tests.host import ADDRESS, EngineHost, until

SERVE = "while :; do echo served | nc -l -p 8080; done"


def state(host: EngineHost, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(host.engine("inspect", name).stdout)[0]["State"]
    return found


def served(host: EngineHost, address: str, *, lan: bool = False) -> bool:
    try:
        return host.connect(address, 8083, lan=lan) == b"served\n"
    except OSError:
        return False


@pytest.mark.parametrize("end", ["stop_daemon", "kill_daemon"])
def test_containers_go_on(clean: EngineHost, end: str) -> None:
    clean.engine("run", "-d", "--name", "server", "-p", "8083:8080", "busybox", "sh", "-c", SERVE)
    clean.engine("run", "-d", "-i", "--name", "echoer", "-v", "data:/data", "busybox", "sh", "-c",
                 "echo before; read x; echo got $x > /data/x; echo after; exit 5")  # fmt: skip
    pid = state(clean, "server")["Pid"]
    until(lambda: served(clean, "127.0.0.1"), "an answer before")
    getattr(clean, end)()
    until(lambda: served(clean, ADDRESS, lan=True), "an answer without a daemon")
    clean.start_daemon()
    assert state(clean, "server")["Pid"] == pid
    assert state(clean, "echoer")["Running"]
    until(lambda: served(clean, "127.0.0.1"), "an answer after")
    until(lambda: served(clean, ADDRESS, lan=True), "an answer to the world outside")
    assert clean.engine("exec", "server", "echo", "works").stdout == "works\n"
    with clean.process("docker", "attach", "echoer") as process:
        out, _ = process.communicate(b"word\n", timeout=30)
        assert (out, process.returncode) == (b"after\n", 5)
    assert clean.engine("logs", "echoer").stdout == "before\nafter\n"
    assert clean.engine("run", "--rm", "-v", "data:/data", "busybox", "cat", "/data/x").stdout == "got word\n"
    clean.engine("stop", "-t", "0", "server")
    assert not served(clean, "127.0.0.1")


def test_an_end_that_no_daemon_saw(clean: EngineHost) -> None:
    clean.engine("run", "-d", "--name", "brief", "busybox", "sh", "-c", "sleep 1; exit 9")
    clean.engine("run", "-d", "--rm", "--name", "gone", "busybox", "sleep", "1")
    clean.kill_daemon()
    until(lambda: not clean.processes(), "the containers' end")
    clean.start_daemon()
    until(lambda: state(clean, "brief")["Status"] == "exited", "the end to be noticed")
    assert state(clean, "brief")["ExitCode"] == 9
    until(lambda: clean.engine("ps", "-a", "--format", "{{.Names}}").stdout == "brief\n", "the removal of --rm")


def test_restart_policies(clean: EngineHost) -> None:
    for policy in ("always", "unless-stopped", "on-failure", "no"):
        clean.engine("run", "-d", "--name", policy, "--restart", policy, "busybox", "sleep", "1000")
        clean.engine("run", "-d", "--name", f"stopped-{policy}", "--restart", policy, "busybox", "sleep", "1000")
    clean.engine("stop", "-t", "0", *(f"stopped-{p}" for p in ("always", "unless-stopped", "on-failure", "no")))
    clean.kill_daemon()
    clean.kill_containers()  # as a reboot does
    clean.start_daemon()
    expected = {"always", "unless-stopped", "on-failure", "stopped-always"}
    names = ("ps", "--format", "{{.Names}}")
    until(lambda: set(clean.engine(*names).stdout.split()) == expected, "those that restart to run")


def test_a_flushed_firewall_and_a_lost_link_are_repaired(clean: EngineHost) -> None:
    clean.engine("run", "-d", "--name", "server", "-p", "8083:8080", "busybox", "sh", "-c", SERVE)
    until(lambda: served(clean, "127.0.0.1"), "an answer before")
    clean.run("nft", "flush", "ruleset")
    until(lambda: served(clean, ADDRESS, lan=True), "the firewall to be repaired")
    assert clean.engine("doctor", check=False).returncode == 0


def test_two_daemons_on_one_data_root_are_refused(clean: EngineHost) -> None:
    done = clean.engine("daemon", "--host", f"unix://{clean.root}/other.sock", "--data-root", str(clean.data_root),
                        "--exec-root", str(clean.root / "y"), check=False)  # fmt: skip
    assert done.returncode != 0
    assert str(clean.data_root) in done.stderr
    assert "in use" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_socket_that_a_daemon_listens_on_is_refused(clean: EngineHost) -> None:
    done = clean.engine("daemon", "--host", clean.url, "--data-root", str(clean.root / "other"),
                        "--exec-root", str(clean.root / "y"), check=False)  # fmt: skip
    assert done.returncode != 0
    assert str(clean.socket) in done.stderr
    assert "Traceback" not in done.stderr
    assert clean.engine("ps", "-q").stdout == ""


def test_a_second_daemon_touches_nothing_of_the_first(clean: EngineHost) -> None:
    """Another data root, but the exec root or the socket of a daemon that lives: its containers go on."""
    clean.engine("run", "-d", "--name", "server", "busybox", "sleep", "1000")
    pid = state(clean, "server")["Pid"]
    for address, exec_root in ((clean.root / "other.sock", clean.exec_root), (clean.socket, clean.root / "y")):
        done = clean.engine("daemon", "--host", f"unix://{address}", "--data-root", str(clean.root / "other"),
                            "--exec-root", str(exec_root), check=False)  # fmt: skip
        assert done.returncode == 1
        assert str(exec_root if exec_root == clean.exec_root else address) in done.stderr
        assert "Traceback" not in done.stderr
    assert state(clean, "server")["Pid"] == pid
    assert clean.engine("exec", "server", "echo", "on").stdout == "on\n"
    assert clean.engine("doctor", check=False).returncode == 0


def test_a_daemon_whose_socket_is_busy_leaves_its_own_containers(clean: EngineHost) -> None:
    """It refuses before it restores: what runs below its roots is as it was."""
    clean.engine("run", "-d", "--name", "server", "busybox", "sleep", "1000")
    pid = state(clean, "server")["Pid"]
    clean.kill_daemon()
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as other:
        clean.socket.unlink(missing_ok=True)
        other.bind(str(clean.socket))
        other.listen()
        done = clean.engine("daemon", "--host", clean.url, "--data-root", str(clean.data_root),
                            "--exec-root", str(clean.exec_root), check=False)  # fmt: skip
    assert done.returncode == 1
    assert "socket is busy" in done.stderr
    clean.start_daemon()
    assert state(clean, "server")["Pid"] == pid
    assert clean.engine("exec", "server", "echo", "on").stdout == "on\n"


def test_not_root(clean: EngineHost) -> None:
    if clean.engine_as(65534, "--help").returncode:
        pytest.skip("another user cannot run the installed command line")
    done = clean.engine_as(65534, "daemon", "--data-root", "/tmp/none", "--exec-root", "/tmp/none")
    assert done.returncode != 0
    assert "root" in done.stderr
    assert "Traceback" not in done.stderr
