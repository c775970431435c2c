"""What `run` takes, seen from inside the container, by both command lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.host import EngineHost, until

from .conftest import Cli

CLEAN_CAPABILITIES = 0x00000000A80425FB
"""Docker's default set."""


def inspect(cli: Cli, name: str) -> Any:
    return json.loads(cli("inspect", name).stdout)[0]


@pytest.mark.parametrize(
    ("options", "command", "expected"),
    [
        (["-e", "A=1", "-e", "B=two words"], 'echo "$A $B"', "1 two words"),
        (["-w", "/var/new"], "pwd", "/var/new"),
        (["-u", "65534:50"], "id -u; id -g", "65534\n50"),
        (["-u", "nobody"], "id -un", "nobody"),
        (["--hostname", "castle"], "hostname; grep -c castle /etc/hosts", "castle\n1"),
        (["--dns", "192.0.2.53", "--dns-search", "example.org"], "cat /etc/resolv.conf | grep -v '^#'", None),
        (["--add-host", "tower:192.0.2.77"], "grep tower /etc/hosts | tr '\\t' ' '", "192.0.2.77 tower"),
        (["--mac-address", "02:11:22:33:44:55"], "cat /sys/class/net/eth0/address", "02:11:22:33:44:55"),
        (["--tmpfs", "/scratch:size=1m,mode=700"], "df -k /scratch | tail -1 | awk '{print $2}'", "1024"),
        (["--mount", "type=tmpfs,target=/scratch"], "grep -c ' /scratch tmpfs' /proc/mounts", "1"),
        (["--read-only"], "touch /x 2>/dev/null || echo refused", "refused"),
        (["--entrypoint", "/bin/echo"], None, "-n"),
        (["--ulimit", "nofile=123:456"], "ulimit -Sn; ulimit -Hn", "123\n456"),
        (["--sysctl", "net.ipv4.ip_unprivileged_port_start=7"],
         "cat /proc/sys/net/ipv4/ip_unprivileged_port_start", "7"),
        (["--device", "/dev/null:/dev/nothing"], "test -c /dev/nothing && echo device", "device"),
        (["--cap-drop", "ALL", "--cap-add", "CHOWN"], "grep CapEff /proc/self/status | cut -f2", "0000000000000001"),
        (["--privileged"], "test -w /proc/sys/kernel/hostname && echo all", "all"),
        (["--shm-size", "2m"], "df -k /dev/shm | tail -1 | awk '{print $2}'", "2048"),
        (["--network", "none"], "ls /sys/class/net", "lo"),
        (["--init"], "cat /proc/1/cmdline | tr '\\0' ' ' | cut -d' ' -f2", "--"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)  # fmt: skip
def test_option(cli: Cli, clean: EngineHost, options: list[str], command: str | None, expected: str | None) -> None:
    words = ["sh", "-c", command] if command is not None else ["-n"]
    if "--entrypoint" in options:
        words, expected = ["-e", "said"], "said"
    done = cli("run", "--rm", *options, "busybox", *words)
    if "--dns" in options:
        assert done.stdout.split() == ["nameserver", "192.0.2.53", "search", "example.org"] or sorted(
            done.stdout.split("\n")
        ) == ["", "nameserver 192.0.2.53", "search example.org"]
    else:
        assert done.stdout.strip() == expected


def test_default_rights(cli: Cli, clean: EngineHost) -> None:
    done = cli("run", "--rm", "busybox", "sh", "-c", "grep -E 'CapEff|Seccomp:' /proc/self/status")
    effective, seccomp = (line.split()[1] for line in done.stdout.splitlines())
    assert int(effective, 16) == CLEAN_CAPABILITIES
    assert seccomp == "2"


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["busybox", "true"], 0),
        (["busybox", "sh", "-c", "exit 7"], 7),
        (["--init", "busybox", "sh", "-c", "kill -9 $$"], 137),  # process 1 cannot kill itself
        (["--init", "busybox", "sh", "-c", "kill -15 $$; sleep 1"], 143),
        (["busybox", "/etc/passwd"], 126),
        (["busybox", "/etc"], 126),
        (["busybox", "no-such-program"], 127),
        (["-w", "not-absolute", "busybox", "true"], 125),
        (["--no-such-option", "busybox"], 125),
        (["-u", "no-such-user", "busybox", "true"], 125),
    ],
    ids=lambda value: " ".join(value[-3:]) if isinstance(value, list) else str(value),
)
def test_exit_code(cli: Cli, clean: EngineHost, words: list[str], code: int) -> None:
    done = cli("run", "--rm", *words, check=False)
    assert done.returncode == code, done.stderr
    assert bool(done.stderr) == (code in (125, 126, 127))


def test_stdin_stdout_stderr_are_apart(cli: Cli, clean: EngineHost) -> None:
    done = cli("run", "-i", "--rm", "busybox", "sh", "-c", "cat; echo err >&2; exit 3", input="in\n", check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("in\n", "err\n", 3)


def test_limits(cli: Cli, clean: EngineHost) -> None:
    cli("run", "-d", "--name", "limited", "--memory", "64m", "--cpus", "0.5", "--pids-limit", "17", "busybox",
        "sleep", "1000")  # fmt: skip
    config = inspect(cli, "limited")["HostConfig"]
    assert (config["Memory"], config["NanoCpus"], config["PidsLimit"]) == (64 << 20, 500_000_000, 17)
    (memory,) = _control(clean, "memory.limit_in_bytes", "memory.max")
    assert memory in (str(64 << 20), "max") or int(memory) == 64 << 20
    assert _control(clean, "pids.max", "pids.max") == ["17"]
    quota = _control(clean, "cpu.cfs_quota_us", "cpu.max")[0].split()[0]
    assert quota == "50000"
    cli("update", "--memory", "96m", "--memory-swap", "96m", "--pids-limit", "18", "limited")
    assert _control(clean, "pids.max", "pids.max") == ["18"]
    assert inspect(cli, "limited")["HostConfig"]["Memory"] == 96 << 20
    status, _ = clean.request("POST", "/containers/limited/update", '{"Privileged": true, "PidsLimit": 19}')
    assert status == 400
    assert inspect(cli, "limited")["HostConfig"]["Privileged"] is False


def _control(host: EngineHost, *names: str) -> list[str]:
    """Read a control file of the only container, of whichever cgroup version it has it."""
    found = [
        path / name
        for path in host.cgroups()
        if "conmon" not in path.parts and path.name != f"engine-{host.instance}"
        for name in dict.fromkeys(names)
        if (path / name).exists()
    ]
    return [path.read_text().strip() for path in found][:1]


def test_out_of_memory(cli: Cli, clean: EngineHost) -> None:
    hungry = "x=0123456789abcdef; while :; do x=$x$x; done"
    done = cli("run", "--name", "hungry", "--memory", "16m", "--memory-swap", "16m", "busybox", "sh", "-c", hungry,
               check=False)  # fmt: skip
    assert done.returncode == 137
    assert inspect(cli, "hungry")["State"]["OOMKilled"] is True


def test_labels_name_and_format(cli: Cli, clean: EngineHost) -> None:
    id = cli("run", "-d", "--name", "named", "-l", "a=b", "--label", "bare", "busybox", "sleep", "1000").stdout.strip()
    assert inspect(cli, "named")["Config"]["Labels"] == {"a": "b", "bare": ""}
    assert cli("ps", "-q", "--no-trunc", "-f", "label=a=b").stdout.strip() == id
    assert cli("ps", "--format", "{{.Names}} {{.Image}} {{.State}}").stdout.strip() == "named busybox running"
    assert cli("ps", "-q", "-f", "label=a=c").stdout == ""


def test_stop_signal(cli: Cli, clean: EngineHost) -> None:
    script = "trap 'echo got; exit 5' USR1; echo ready; while :; do sleep .05; done"
    cli("run", "-d", "--name", "trapper", "--stop-signal", "USR1", "busybox", "sh", "-c", script)
    until(lambda: "ready" in cli("logs", "trapper").stdout, "the script to be ready")
    cli("stop", "-t", "20", "trapper")
    assert inspect(cli, "trapper")["State"]["ExitCode"] == 5
    assert cli("logs", "trapper").stdout == "ready\ngot\n"


def test_rm_leaves_nothing_and_without_it_the_container_stays(cli: Cli, clean: EngineHost) -> None:
    cli("run", "--rm", "--name", "gone", "busybox", "true")
    until(lambda: not cli("ps", "-aq").stdout, "the removal")
    cli("run", "--name", "kept", "busybox", "true")
    assert cli("ps", "-a", "--format", "{{.Names}}").stdout == "kept\n"
    cli("rm", "kept")


def test_env_file_and_cidfile(cli: Cli, clean: EngineHost, tmp_path: Path) -> None:
    variables = tmp_path / "env"
    variables.write_text("# comment\nC=3\n")
    cid = tmp_path / "cid"
    done = cli("run", "--env-file", str(variables), "--cidfile", str(cid), "busybox", "sh", "-c", "echo $C")
    assert done.stdout == "3\n"
    assert inspect(cli, cid.read_text().strip())["State"]["Status"] == "exited"


def test_publish_nothing_on_host_network(cli: Cli, clean: EngineHost) -> None:
    done = cli("run", "--rm", "--network", "host", "busybox", "cat", "/proc/net/route")
    assert "eth0" in done.stdout


@pytest.mark.parametrize("policy", ["on-failure:2", "always"])
def test_restart_policy(cli: Cli, clean: EngineHost, policy: str) -> None:
    cli("run", "-d", "--name", "again", "--restart", policy, "busybox", "sh", "-c", "echo run; exit 1")
    until(lambda: cli("logs", "again").stdout.count("run") >= 3, "the third run")
    if policy.startswith("on-failure"):
        until(lambda: inspect(cli, "again")["State"]["Status"] == "exited", "the last end")
        assert inspect(cli, "again")["RestartCount"] == 2
        assert inspect(cli, "again")["State"]["ExitCode"] == 1
    else:
        cli("stop", "again")
        assert inspect(cli, "again")["State"]["Status"] == "exited"


def test_terminal(cli: Cli, clean: EngineHost) -> None:
    cli("run", "-d", "-t", "--name", "terminal", "busybox", "sh", "-c", "test -t 1 && echo tty")
    until(lambda: cli("logs", "terminal").stdout == "tty\r\n", "the terminal's output")
