"""Containers under conmon: create, start, streams, exit codes, limits, and being found again."""

from __future__ import annotations

import errno
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from engine.runtime import cgroup
from engine.runtime.bundle import Bundle
from engine.runtime.conmon import attach, exit_status, resize, wait_exit
from engine.runtime.failures import CommandNotExecutable, CommandNotFound
from engine.runtime.model import ContainerSpec, Device, Mount, Resources, Ulimit
from engine.runtime.oci_spec import oci_config_text
from engine.spec.errors import Conflict, EngineError, NotFound

from .conftest import Lab, assert_nothing_left, eventually


def receive(connection: socket.socket, seconds: float = 20) -> tuple[bytes, bytes]:
    """All of stdout and stderr until the other side closes."""
    streams = {2: bytearray(), 3: bytearray()}
    end = time.monotonic() + seconds
    while True:
        connection.settimeout(max(0.01, end - time.monotonic()))
        message = connection.recv(16384)
        if not message:
            return bytes(streams[2]), bytes(streams[3])
        streams[message[0]] += message[1:]


def receive_until(connection: socket.socket, wanted: bytes, seconds: float = 20) -> bytes:
    data = b""
    end = time.monotonic() + seconds
    while wanted not in data:
        connection.settimeout(max(0.01, end - time.monotonic()))
        message = connection.recv(16384)
        assert message, f"ended with {data!r}"
        data += message[1:]
    return data


@pytest.mark.parametrize("code", [0, 7])
def test_exit_code(lab: Lab, code: int) -> None:
    bundle = lab.run("sh", "-c", f"exit {code}")
    status = lab.wait(bundle)
    assert status.code == code
    assert not status.oom_killed
    assert abs(status.finished_at_ns / 1e9 - time.time()) < 60


def test_killed(lab: Lab) -> None:
    bundle = lab.run("sleep", "600")
    assert exit_status(bundle) is None
    lab.conmon.runtime.kill(bundle.id, signal.SIGKILL)
    assert lab.wait(bundle).code == 137


def test_state_and_wrong_states(lab: Lab) -> None:
    bundle = lab.create(lab.spec("sleep", "600"))
    runtime = lab.conmon.runtime
    assert runtime.state(bundle.id)["status"] == "created"
    runtime.start(bundle.id)
    assert runtime.state(bundle.id)["status"] == "running"
    with pytest.raises(Conflict):
        runtime.start(bundle.id)
    with pytest.raises(Conflict):
        runtime.delete(bundle.id)
    runtime.pause(bundle.id)
    assert runtime.state(bundle.id)["status"] == "paused"
    with pytest.raises(Conflict):
        lab.exec(bundle, "true")
    runtime.resume(bundle.id)
    runtime.kill(bundle.id, signal.SIGKILL)
    assert lab.wait(bundle).code == 137
    with pytest.raises(Conflict):
        lab.exec(bundle, "true")
    with pytest.raises(NotFound):
        runtime.state("f" * 64)
    with pytest.raises(NotFound):
        attach(bundle)


@pytest.mark.parametrize(
    ("command", "kind", "words"),
    [
        ("no-such-command", CommandNotFound, "executable file not found"),
        ("/no/such/command", CommandNotFound, "o"),
        ("/not-executable", CommandNotExecutable, "permission denied"),
        ("/etc", CommandNotExecutable, "permission denied"),
    ],
)
def test_command_that_cannot_run_leaves_nothing(lab: Lab, command: str, kind: type[EngineError], words: str) -> None:
    with pytest.raises(kind) as caught:
        lab.create(lab.spec(command))
    assert words in caught.value.why
    assert command in caught.value.why
    lab.made.clear()
    assert_nothing_left(lab)


def test_failed_create_reports_the_runtime(lab: Lab) -> None:
    mount = Mount(target="/x", source="/no/such/source")
    with pytest.raises(EngineError) as caught:
        lab.create(lab.spec("true", mounts=(mount,)))
    assert "/no/such/source" in caught.value.why
    lab.made.clear()
    assert_nothing_left(lab)


def test_separate_streams_and_log(lab: Lab) -> None:
    bundle = lab.create(lab.spec("sh", "-c", "echo out; echo err >&2; printf half"))
    connection = attach(bundle)
    lab.conmon.runtime.start(bundle.id)
    assert receive(connection) == (b"out\nhalf", b"err\n")
    connection.close()
    lab.wait(bundle)
    text = lab.log_path(bundle).read_text()
    assert " stdout F out\n" in text
    assert " stderr F err\n" in text
    assert " stdout P half\n" in text


def test_five_megabytes(lab: Lab) -> None:
    bundle = lab.create(lab.spec("sh", "-c", "dd if=/dev/zero bs=65536 count=80 2>/dev/null"))
    connection = attach(bundle)
    lab.conmon.runtime.start(bundle.id)
    out, err = receive(connection)
    assert (len(out), err) == (80 * 65536, b"")
    connection.close()
    assert lab.wait(bundle).code == 0


def test_stdin_half_close(lab: Lab) -> None:
    bundle = lab.create(lab.spec("sh", "-c", "cat; echo after"), open_stdin=True, stdin_once=True)
    connection = attach(bundle)
    lab.conmon.runtime.start(bundle.id)
    connection.send(b"hello\n")
    connection.shutdown(socket.SHUT_WR)
    assert receive(connection)[0] == b"hello\nafter\n"
    connection.close()
    assert lab.wait(bundle).code == 0


def test_stdin_stays_open_for_the_next_client(lab: Lab) -> None:
    bundle = lab.create(lab.spec("cat"), open_stdin=True)
    lab.conmon.runtime.start(bundle.id)
    with attach(bundle) as first:
        first.send(b"one\n")
        assert receive_until(first, b"one\n") == b"one\n"
    with attach(bundle) as second:
        second.send(b"two\n")
        assert receive_until(second, b"two\n") == b"two\n"
    lab.conmon.runtime.kill(bundle.id, signal.SIGKILL)
    assert lab.wait(bundle).code == 137


def test_terminal_and_resize(lab: Lab) -> None:
    spec = lab.spec("sh", "-c", "stty size; read x; stty size; echo got:$x", tty=True, console_size=(31, 97))
    bundle = lab.create(spec, open_stdin=True, stdin_once=True)
    connection = attach(bundle)
    lab.conmon.runtime.start(bundle.id)
    assert b"31 97" in receive_until(connection, b"\n")
    resize(bundle, 40, 120)
    time.sleep(0.2)  # the fifo has no acknowledgement
    connection.send(b"word\n")
    output = receive_until(connection, b"got:word")
    assert b"40 120" in output
    connection.close()
    assert lab.wait(bundle).code == 0
    eventually(lambda: resize_is_refused(bundle))


def resize_is_refused(bundle: Bundle) -> bool:
    try:
        resize(bundle, 1, 1)
    except NotFound:
        return True
    return False


def test_oom_is_told(lab: Lab) -> None:
    bundle = lab.run("sh", "-c", "tail /dev/zero", resources=Resources(memory=16 << 20, memory_swap=16 << 20))
    status = lab.wait(bundle)
    assert status.code == 137
    assert status.oom_killed


def test_limits_are_in_the_cgroup(lab: Lab) -> None:
    limits = Resources(memory=64 << 20, pids_limit=50, nano_cpus=500_000_000, cpu_shares=512)
    bundle = lab.run("sleep", "600", resources=limits)
    cgroups = cgroup.hierarchy()
    path = f"/{lab.tag}/{bundle.id}"

    def value(controller: str, v1: str, v2: str) -> str:
        directory = cgroups.directory(controller, path)
        assert directory is not None
        return (directory / (v2 if cgroups.unified else v1)).read_text().strip()

    assert value("memory", "memory.limit_in_bytes", "memory.max") == str(64 << 20)
    assert value("pids", "pids.max", "pids.max") == "50"
    assert value("cpu", "cpu.cfs_quota_us", "cpu.max").split()[0] == "50000"
    lab.conmon.runtime.update(bundle.id, {"pids": {"limit": 77}, "memory": {"limit": 96 << 20}})
    assert value("pids", "pids.max", "pids.max") == "77"
    assert value("memory", "memory.limit_in_bytes", "memory.max") == str(96 << 20)
    assert len(cgroup.processes(path)) == 1


def test_monitor_is_not_in_the_containers_cgroup(lab: Lab) -> None:
    bundle = lab.run("sleep", "600")
    assert int(bundle.conmon_pidfile.read_text()) not in cgroup.processes(f"/{lab.tag}/{bundle.id}")


def run_and_read(lab: Lab, *args: str, **changes: object) -> str:
    bundle = lab.create(lab.spec(*args, **changes))
    connection = attach(bundle)
    lab.conmon.runtime.start(bundle.id)
    out, err = receive(connection)
    connection.close()
    lab.wait(bundle)
    return (out + err).decode()


def test_identity(lab: Lab) -> None:
    script = "id -u; id -g; id -G; pwd; hostname; echo $HOME $FOO"
    script += "; grep -E 'Cap(Bnd|Eff)|NoNewPrivs|^Seccomp:' /proc/self/status"
    text = run_and_read(
        lab, "sh", "-c", script, user="app", cwd="/tmp", hostname="box", env=("FOO=bar",), no_new_privileges=True
    )
    uid, gid, groups, cwd, hostname, env, *status = text.splitlines()
    assert (uid, gid, groups, cwd, hostname, env) == ("1000", "1001", "1001 29", "/tmp", "box", "/home/app bar")
    assert dict(line.split(":\t") for line in status) == {
        "CapBnd": "00000000a80425fb", "CapEff": "0000000000000000", "NoNewPrivs": "1", "Seccomp": "2",
    }  # fmt: skip


def test_mounts_devices_and_masks(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    script = (
        "cat /data/file; touch /data/x; touch /new; df -k /dev/shm | tail -1 | awk '{print $2}'; echo t > /scratch/t;"
        "cat /scratch/t; ls /dev/nothing; echo 1 > /proc/sys/kernel/domainname; ulimit -n;"
        "cat /proc/sys/net/ipv4/ip_forward"
    )
    text = run_and_read(
        lab, "sh", "-c", script,
        readonly=True, mounts=(Mount(target="/data", source=str(tmp_path), options=("rbind", "ro")),),
        tmpfs={"/scratch": "size=1m"}, shm_size=1 << 20, devices=(Device(host="/dev/null", container="/dev/nothing"),),
        ulimits=(Ulimit(name="nofile", soft=100, hard=200),), sysctls={"net.ipv4.ip_forward": "1"},
    )  # fmt: skip
    lines = text.splitlines()
    assert "content" in lines[0]
    assert {"1024", "t", "/dev/nothing", "100", "1"} <= {line.removeprefix("content") for line in lines}
    assert text.count("Read-only file system") == 3


def test_seccomp_filters(lab: Lab, tmp_path: Path) -> None:
    file = tmp_path / "profile.json"
    rule = {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno.EXDEV}
    file.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}))
    spec = lab.spec("sh", "-c", "mkdir /tmp/a; sleep 600", seccomp=str(file), tmpfs={"/tmp": ""})
    bundle = lab.create(spec)
    with attach(bundle) as connection:
        lab.conmon.runtime.start(bundle.id)
        assert b"link" in receive_until(connection, b"\n")  # "Invalid cross-device link": the errno of the rule
    process = lab.exec(bundle, "mkdir", "/tmp/b")
    assert process.socket is not None
    assert b"link" in receive(process.socket)[1]
    process.close()


def test_privileged(lab: Lab) -> None:
    text = run_and_read(
        lab, "sh", "-c", "grep -E 'CapEff|^Seccomp:' /proc/self/status; ls /dev | wc -l", privileged=True
    )
    lines = text.splitlines()
    own = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff"))
    assert lines[0] == own
    assert lines[1] == "Seccomp:\t0"
    assert int(lines[2]) > 20


def test_host_namespaces(lab: Lab) -> None:
    names = ("net", "uts", "ipc", "pid")
    script = "; ".join(f"readlink /proc/self/ns/{name}" for name in names)
    text = run_and_read(lab, "sh", "-c", script, network="host", uts="host", ipc="host", pid="host")
    assert text.splitlines() == [str(Path(f"/proc/self/ns/{name}").readlink()) for name in names]


def test_shared_namespace_by_path(lab: Lab) -> None:
    first = lab.run("sleep", "600")
    pid = int(first.pidfile.read_text())
    text = run_and_read(lab, "readlink", "/proc/self/ns/net", network=f"/proc/{pid}/ns/net")
    assert text.strip() == str(Path(f"/proc/{pid}/ns/net").readlink())


def test_init_runs_as_process_one(lab: Lab) -> None:
    text = run_and_read(lab, "sh", "-c", "echo $$; cat /proc/1/comm", init=True)
    mine, first = text.splitlines()
    assert mine != "1"
    assert first == "docker-init"


ADOPTED = """
import json, sys
from pathlib import Path
from engine.runtime.conmon import Conmon
from engine.runtime.oci import OciRuntime
fields = json.loads(sys.argv[1])
runtime = OciRuntime(name=fields["name"], binary=Path(fields["binary"]), monitored=tuple(fields["monitored"]),
                     root=Path(fields["root"]), options=tuple(fields["options"]))
conmon = Conmon(runtime=runtime, exec_root=Path(fields["exec_root"]))
bundle = conmon.bundle(fields["id"])
conmon.create(bundle, fields["config"], open_stdin=True, log_path=Path(fields["log"]))
runtime.start(bundle.id)
print("started", flush=True)
sys.stdin.read()
"""


def creation(lab: Lab, spec: ContainerSpec) -> str:
    runtime = lab.conmon.runtime
    return json.dumps(
        {
            "name": runtime.name,
            "binary": str(runtime.binary),
            "monitored": runtime.monitored,
            "root": str(runtime.root),
            "options": runtime.options,
            "exec_root": str(lab.directory),
            "id": spec.id,
            "config": oci_config_text(spec),
            "log": str(lab.log_path(lab.conmon.bundle(spec.id))),
        }
    )


def test_survives_the_death_of_its_creator(lab: Lab) -> None:
    spec = lab.spec("sh", "-c", "read code; exit $code")
    bundle = lab.conmon.bundle(spec.id)
    lab.made.append(bundle)
    fields = creation(lab, spec)
    with subprocess.Popen(
        [sys.executable, "-c", ADOPTED, fields], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as creator:  # fmt: skip
        assert creator.stdout is not None
        assert creator.stdout.readline() == b"started\n"
        creator.kill()
        creator.wait(10)
    pidfd = lab.conmon.pidfd(bundle)
    assert pidfd is not None
    assert not wait_exit(pidfd, 0.1)
    assert lab.conmon.runtime.state(bundle.id)["status"] == "running"
    with attach(bundle) as connection:
        connection.send(b"23\n")
        assert wait_exit(pidfd, 10)
    os.close(pidfd)
    status = exit_status(bundle)
    assert status is not None
    assert status.code == 23
    assert lab.conmon.pidfd(bundle) is None


def test_reused_pid_is_not_taken_for_the_monitor(lab: Lab) -> None:
    bundle = lab.run("true")
    lab.wait(bundle)
    bundle.conmon_pidfile.write_text(str(os.getpid()))
    assert lab.conmon.pidfd(bundle) is None


def test_no_zombie_even_as_subreaper(lab: Lab) -> None:
    script = f"""
import ctypes, os, sys
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
{ADOPTED.replace("sys.stdin.read()", "")}
from engine.runtime.conmon import wait_exit
pidfd = conmon.pidfd(bundle)
assert pidfd is None or wait_exit(pidfd, 10)
try:
    os.waitpid(-1, os.WNOHANG)
    print("a child is left")
except ChildProcessError:
    print("none left")
"""
    spec = lab.spec("sleep", "0.3")
    bundle = lab.conmon.bundle(spec.id)
    lab.made.append(bundle)
    fields = creation(lab, spec)
    done = subprocess.run(
        [sys.executable, "-c", script, fields], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.stdout.splitlines()[-1] == "none left", done.stderr


def test_deadline_of_create_leaves_nothing(lab: Lab, tmp_path: Path) -> None:
    hanging = tmp_path / "hang"
    hanging.write_text("#!/bin/sh\nsleep 600\n")
    hanging.chmod(0o755)
    slow = replace(lab.conmon, runtime=replace(lab.conmon.runtime, monitored=(str(hanging),)))
    spec = lab.spec("true")
    bundle = slow.bundle(spec.id)
    with pytest.raises(EngineError) as caught:
        slow.create(bundle, oci_config_text(spec), seconds=0.5)
    assert caught.value.kind == "deadline-exceeded"
    assert not bundle.exists()
    assert_nothing_left(lab)


def test_long_paths(lab: Lab) -> None:
    deep = lab.directory / ("d" * 90)
    deep.mkdir()
    conmon = replace(lab.conmon, exec_root=deep)
    spec = lab.spec("echo", "hello")
    bundle = conmon.bundle(spec.id)
    conmon.create(bundle, oci_config_text(spec))
    try:
        with attach(bundle) as connection:
            conmon.runtime.start(bundle.id)
            assert receive(connection)[0] == b"hello\n"
    finally:
        conmon.delete(bundle, force=True)


def test_warm_up_moves_nothing(lab: Lab) -> None:
    before = cgroup.own_paths()
    lab.conmon.warm_up()
    eventually(lambda: lab.wait(lab.run("true")).code == 0)
    assert cgroup.own_paths() == before


def test_pidfd_works_with_poll(lab: Lab) -> None:
    bundle = lab.run("sleep", "0.2")
    pidfd = lab.conmon.pidfd(bundle)
    assert pidfd is not None
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    assert poller.poll(10_000)
    os.close(pidfd)
    assert lab.wait(bundle).code == 0
