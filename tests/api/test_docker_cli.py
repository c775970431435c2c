"""The stock docker CLI against the server: containers and their streams."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

from .conftest import SECONDS, Server


def until(condition, what: str) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def test_run_shows_both_streams_apart_and_the_exit_code(server: Server) -> None:
    done = server.cli("run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.stdout, done.stderr, done.returncode) == (b"out\n", b"err\n", 7)
    assert server.containers.containers == {}


def test_half_close_of_stdin_reaches_the_process_and_output_goes_on(server: Server) -> None:
    done = server.cli("run", "-i", "--rm", "busybox", "sh", "-c", "cat; sleep .3; echo after", input=b"hi\n")
    assert (done.stdout, done.returncode) == (b"hi\nafter\n", 0)


def test_bulk_both_ways(server: Server) -> None:
    data = os.urandom(8 << 20)
    done = server.cli("run", "-i", "--rm", "busybox", "cat", input=data)
    assert done.stdout == data


def test_without_stdin_the_process_reads_end_of_file(server: Server) -> None:
    done = server.cli("run", "--rm", "busybox", "cat", input=b"never seen")
    assert (done.stdout, done.returncode) == (b"", 0)


def test_a_command_that_cannot_start(server: Server) -> None:
    done = server.cli("run", "--rm", "busybox", "no-such-command")
    assert done.returncode == 127
    assert b"executable file not found" in done.stderr
    assert server.containers.containers == {}


def test_an_unknown_image_is_pulled(server: Server) -> None:
    done = server.cli("run", "--rm", "registry.example/absent", "true")
    assert done.returncode == 125
    assert ("pull", "registry.example/absent:latest", None, None) in server.images.calls
    assert b"manifest for registry.example/absent:latest not found" in done.stderr


def test_exec_streams_and_code(server: Server) -> None:
    server.cli("run", "-d", "--name", "c", "busybox", "sleep", "100", check=True)
    done = server.cli("exec", "c", "sh", "-c", "echo o; echo e >&2; exit 3")
    assert (done.stdout, done.stderr, done.returncode) == (b"o\n", b"e\n", 3)
    done = server.cli("exec", "-i", "c", "sh", "-c", "cat; sleep .3; echo after", input=b"hi\n")
    assert done.stdout == b"hi\nafter\n"
    done = server.cli("exec", "c", "no-such-command")
    assert done.returncode == 127
    assert b"OCI runtime exec failed" in done.stdout
    assert server.cli("exec", "-d", "c", "true").returncode == 0


def test_exec_in_what_does_not_run(server: Server) -> None:
    server.cli("create", "--name", "c", "busybox", "true", check=True)
    done = server.cli("exec", "c", "true")
    assert done.returncode == 1
    assert b"is not running" in done.stderr
    assert b"No such container: nobody" in server.cli("exec", "nobody", "true").stderr


def test_logs(server: Server) -> None:
    server.cli("run", "--name", "c", "busybox", "sh", "-c", "echo out; sleep .1; echo err >&2")
    done = server.cli("logs", "--since", "2020-01-01T00:00:00Z", "--tail", "5", "-t", "c")
    assert (done.stdout, done.stderr) == (b"out\n", b"err\n")
    call = next(c for c in server.containers.calls if c[0] == "logs")
    assert call == ("logs", 1577836800 * 10**9, 0, 5, True, False, False)


def test_logs_follow_until_the_end(server: Server) -> None:
    server.cli("run", "-d", "--name", "c", "busybox", "sh", "-c", "for i in 1 2 3; do echo $i; sleep .2; done")
    assert server.cli("logs", "-f", "c").stdout == b"1\n2\n3\n"


def test_attach_to_what_runs_and_detach_by_signal(server: Server) -> None:
    server.cli("run", "-d", "-i", "--name", "c", "busybox", "sh", "-c", "read x; echo got $x; sleep 100")
    attached = server.spawn("attach", "--no-stdin=false", "c")
    assert attached.stdin is not None
    assert attached.stdout is not None
    attached.stdin.write(b"word\n")
    attached.stdin.flush()
    assert attached.stdout.readline() == b"got word\n"
    attached.kill()
    attached.communicate()
    assert server.containers.find("c").status == "running"


def test_a_terminal_with_its_size_and_detach_keys(server: Server) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 101, 0, 0))
    client = server.spawn(
        "run", "-it", "--name", "c", "busybox", "sh", "-c", "test -t 0 && echo terminal; read x; echo got $x; sleep 99",
        stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    seen = b""

    def read_until(text: bytes) -> None:
        nonlocal seen
        while text not in seen:
            seen += os.read(ours, 4096)

    read_until(b"terminal\r\n")
    os.write(ours, b"word\r")
    read_until(b"got word\r\n")
    os.write(ours, b"\x10\x11")  # ctrl-p ctrl-q: docker's CLI finds them itself
    assert client.wait(SECONDS) in (0, 1)
    os.close(ours)
    assert server.containers.find("c").status == "running"
    until(lambda: server.containers.find("c").size == (33, 101), "the size arrived")


def test_wait_and_stop_and_restart(server: Server) -> None:
    server.cli("run", "-d", "--name", "c", "busybox", "sleep", "100", check=True)
    waiting = server.spawn("wait", "c")
    server.cli("stop", "-t", "3", "c", check=True)
    assert waiting.communicate(timeout=SECONDS)[0] == b"137\n"
    assert ("stop", "c", 3, "") in server.containers.calls
    assert server.cli("stop", "c").returncode == 0  # 304 is no error
    assert server.cli("start", "c").returncode == 0
    assert server.cli("start", "c").returncode == 0
    assert server.cli("restart", "c").returncode == 0
    assert server.cli("kill", "-s", "TERM", "c").returncode == 0


def test_an_interrupted_run_passes_the_signal_on(server: Server) -> None:
    program = (
        "import signal, sys; signal.pthread_sigmask(signal.SIG_BLOCK, [15]); print('ready', flush=True);"
        "signal.sigwait([15]); sys.exit(5)"
    )
    client = server.spawn("run", "--rm", "--name", "c", "busybox", sys.executable, "-c", program)
    assert client.stdout is not None
    assert client.stdout.readline() == b"ready\n"
    client.send_signal(signal.SIGTERM)
    client.communicate(timeout=SECONDS)
    assert client.returncode == 5
    assert server.containers.containers == {}


def test_ps_and_errors(server: Server) -> None:
    server.cli("run", "-d", "--name", "c", "busybox", "sleep", "100", check=True)
    line = server.cli("ps", "--filter", "name=c", "--format", "{{.Names}}|{{.Status}}|{{.Ports}}|{{.Command}}").stdout
    assert line == b'c|Up 3 seconds|0.0.0.0:8080->80/tcp|"sleep 100"\n'
    assert ("list", False, 0, False, {"name": ["c"]}) in server.containers.calls
    assert b"invalid filter 'colour'" in server.cli("ps", "--filter", "colour=red").stderr
    assert server.cli("inspect", "nobody").returncode == 1
    done = server.cli("rm", "c")
    assert done.returncode == 1
    assert b"Stop it first, or use force" in done.stderr
    assert server.cli("rm", "-f", "c").returncode == 0
    assert server.cli("create", "--name", "warned", "busybox").stderr == b"WARNING: careful\n"
    assert b"already in use" in server.cli("create", "--name", "warned", "busybox").stderr


def test_the_small_operations(server: Server) -> None:
    server.cli("run", "-d", "--name", "c", "busybox", "sleep", "100", check=True)
    for words in (["pause", "c"], ["unpause", "c"], ["rename", "c", "d"], ["update", "--memory", "64m", "d"]):
        assert server.cli(*words).returncode == 0, words
    assert server.cli("top", "d", "-o", "pid").stdout.splitlines()[1].split() == [b"1", b"-o", b"pid"]
    assert server.cli("diff", "d").stdout == b"A /a\nC /b\nD /c\n"
    assert server.cli("commit", "-m", "why", "-c", "ENV A=b", "d", "name:tag").stdout == b"sha256:" + b"1" * 64 + b"\n"
    options = next(c[1] for c in server.containers.calls if c[0] == "commit")
    assert {k: options[k] for k in ("repo", "tag", "comment", "changes", "pause")} == {
        "repo": "docker.io/library/name", "tag": "tag", "comment": "why", "changes": ["ENV A=b"], "pause": True,
    }  # fmt: skip
    server.cli("kill", "d", check=True)
    assert b"Total reclaimed space: 42B" in server.cli("container", "prune", "-f").stdout


def test_copy_both_ways(server: Server, tmp_path: Path) -> None:
    server.cli("create", "--name", "c", "busybox", check=True)
    source = tmp_path / "source"
    source.write_bytes(os.urandom(3 << 20))
    assert server.cli("cp", str(source), "c:/d/").returncode == 0
    assert server.containers.files["/d/source"] == source.read_bytes()
    assert server.cli("cp", "c:/d/source", str(tmp_path / "back")).returncode == 0
    assert (tmp_path / "back").read_bytes() == source.read_bytes()
    archive = server.cli("cp", "c:/d/source", "-").stdout
    assert len(archive) > 3 << 20
    assert b"Could not find the file /nothing" in server.cli("cp", "c:/nothing", "-").stderr
    assert server.cli("export", "c").stdout == b"tar of everything" * 1000


def test_stats_have_rates(server: Server) -> None:
    server.cli("run", "-d", "--name", "c", "busybox", "sleep", "100", check=True)
    line = server.cli("stats", "--no-stream", "--format", "{{.CPUPerc}} {{.MemUsage}} {{.PIDs}}").stdout
    assert line == b"10.00% 1MiB / 1GiB 3\n"


def test_events(server: Server) -> None:
    before = time.time()
    server.cli("run", "--rm", "--name", "c", "busybox", "true", check=True)
    done = server.cli(
        "events", "--since", str(before), "--until", str(time.time() + 0.5), "--filter", "container=c",
        "--format", "{{.Type}} {{.Action}} {{.From}} {{.Actor.Attributes.name}} {{.Actor.Attributes.exitCode}}",
    )  # fmt: skip
    assert done.stdout.decode().splitlines() == [
        "container create busybox c <no value>",
        "container start busybox c <no value>",
        "container die busybox c 0",
        "container destroy busybox c <no value>",
    ]


def test_events_as_they_happen(server: Server) -> None:
    client = server.spawn("events", "--filter", "event=create", "--format", "{{.Actor.Attributes.name}}")
    until(lambda: len(server.events._listeners) == 1, "the client listens")
    server.cli("create", "--name", "c", "busybox", check=True)
    assert client.stdout is not None
    assert client.stdout.readline() == b"c\n"
    client.kill()
    client.communicate()
    until(lambda: not server.events._listeners, "the subscription ended with the client")


def test_version_and_info(server: Server) -> None:
    done = server.cli("version", "--format", "{{.Client.APIVersion}} {{.Server.APIVersion}} {{.Server.MinAPIVersion}}")
    assert done.stdout == b"1.44 1.44 1.24\n"
    done = server.cli(
        "info", "--format", "{{.ID}} {{.Images}} {{.DefaultRuntime}} {{.Swarm.LocalNodeState}} {{.Warnings}}"
    )
    assert done.stdout == b"0123abcd 1 crun inactive [beware]\n"
    assert server.cli("info").returncode == 0
    assert subprocess.run(
        ["docker", *server.cli_options(), "version"], env={**server.environment, "DOCKER_API_VERSION": "1.24"},
        capture_output=True, timeout=SECONDS, check=False,
    ).returncode == 0  # fmt: skip
