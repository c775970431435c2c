"""run, create, exec, start: the request that is sent, exit codes, streams."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from .conftest import Cli
from .fake_daemon import Answer, FakeContainer, FakeDaemon, frame, refuse


def _says(connection: socket.socket, _container: FakeContainer) -> int:
    connection.sendall(frame(1, b"out\n") + frame(2, b"err\n"))
    connection.close()
    return 7


def test_run_shows_output_and_returns_the_exit_code(daemon: FakeDaemon, cli: Cli) -> None:
    FakeContainer(daemon, _says).install()
    result = cli("run", "--rm", "image", "a", "-b")
    assert (result.code, result.out, result.err) == (7, "out\n", "err\n")
    body = daemon.sent("POST", "/containers/create")[0].json
    assert (body["Image"], body["Cmd"], body["HostConfig"]["AutoRemove"]) == ("image", ["a", "-b"], True)
    order = [r.path.rsplit("/", 1)[1] for r in daemon.requests if r.method == "POST"]
    assert order.index("attach") < order.index("start")
    assert order.index("wait") < order.index("start")
    assert daemon.sent("POST", ".*/wait")[0].query == {"condition": "removed"}


def test_detached_run_prints_the_id(daemon: FakeDaemon, cli: Cli) -> None:
    FakeContainer(daemon, _says).install()
    assert cli("run", "-d", "image").out == "c" * 64 + "\n"
    assert not daemon.sent("POST", ".*/attach")


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ('exec: "x": executable file not found in $PATH', 127),
        ('exec: "/x": stat /x: no such file or directory', 127),
        ('exec: "/etc": permission denied', 126),
        ("exec /x: exec format error", 126),
        ("port is already allocated", 125),
    ],
)
@pytest.mark.parametrize("flag", ["-d", "-i"])
def test_failed_starts(daemon: FakeDaemon, cli: Cli, message: str, code: int, flag: str) -> None:
    FakeContainer(daemon, _says, start_error=Answer(400, {"message": message})).install()
    result = cli("run", flag, "image", "x")
    assert result.code == code
    assert result.err == f"engine: {message}\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("-p", "99999:1", "image"), "99999"),
        (("--memory", "1x", "image"), "--memory"),
        (("--nonsense", "image"), "No such option"),
        (("--rm", "--restart", "always", "image"), "contradict"),
        (("--network", "a", "--net-driver", "b", "image"), "contradict"),
        (("--net-opt", "a=b", "image"), "needs --net-driver"),
        (("--log-driver", "jsonfile", "image"), "did you mean 'json-file'"),
        (("--pull", "sometimes", "image"), "missing, always or never"),
        (("-a", "stdeer", "image"), "did you mean 'stderr'"),
        (("--memory", "4m", "image"), "6m at least"),
        (("--memory", "64m", "--memory-swap", "32m", "image"), "must not be less"),
        (("--cpus", "1", "--cpu-quota", "5000", "image"), "does not go with"),
        (("-it", "image"), "no terminal"),
        ((), "IMAGE"),
        (("--name",), "--name"),
    ],
)
def test_wrong_command_lines(daemon: FakeDaemon, cli: Cli, arguments: tuple[str, ...], said: str) -> None:
    result = cli("run", *arguments)
    assert result.code == 125
    assert said.lower() in result.err.lower()
    assert result.err.startswith("engine: ")
    assert result.err.count("\n") == 1
    assert result.out == ""
    assert not daemon.requests


def test_an_image_that_is_missing_is_pulled(daemon: FakeDaemon, cli: Cli) -> None:
    FakeContainer(daemon, _says).install()
    answers = [Answer(404, {"message": "No such image: i:latest"}), Answer(201, {"Id": "c" * 64})]
    daemon.routes["POST /containers/create"] = lambda _r: answers.pop(0)
    daemon.routes["POST /images/create"] = Answer(200, [b'{"status":"Pulling","id":"i"}\n', b'{"status":"Done"}\n'])
    result = cli("run", "r.example:5000/i", "true")
    assert result.code == 7
    assert result.out == "out\n"
    assert "Done" in result.err
    pull = daemon.sent("POST", "/images/create")[0]
    assert (pull.query["fromImage"], pull.query["tag"]) == ("r.example:5000/i", "latest")
    assert "x-registry-auth" in pull.headers


def test_never_pull(daemon: FakeDaemon, cli: Cli) -> None:
    FakeContainer(daemon, _says).install()
    daemon.routes["POST /containers/create"] = refuse(404, "No such image: i")
    result = cli("run", "--pull", "never", "i")
    assert (result.code, result.err) == (125, "engine: No such image: i\n")
    assert not daemon.sent("POST", "/images/create")


def test_a_failed_pull(daemon: FakeDaemon, cli: Cli) -> None:
    FakeContainer(daemon, _says).install()
    daemon.routes["POST /containers/create"] = refuse(404, "No such image: i")
    daemon.routes["POST /images/create"] = Answer(200, [b'{"error":"no route","errorDetail":{"message":"no route"}}'])
    result = cli("run", "-q", "i")
    assert (result.code, result.err) == (125, "engine: no route\n")


def test_a_missing_network_is_no_missing_image(daemon: FakeDaemon, cli: Cli) -> None:
    FakeContainer(daemon, _says).install()
    daemon.routes["POST /containers/create"] = refuse(404, "network x not found")
    assert cli("run", "--network", "x", "i").code == 125
    assert not daemon.sent("POST", "/images/create")


def _body(daemon: FakeDaemon, cli: Cli, *arguments: str) -> dict[str, Any]:
    FakeContainer(daemon, _says).install()
    result = cli(*arguments)
    assert result.code == 0, result.err
    body: dict[str, Any] = daemon.sent("POST", "/containers/create")[-1].json
    return body


def test_net_driver_of_the_command_and_of_the_whole(daemon: FakeDaemon, cli: Cli) -> None:
    host = _body(daemon, cli, "run", "-d", "--net-driver", "macvlan", "--net-opt", "parent=eth1", "i")["HostConfig"]
    assert (host["NetDriver"], host["NetOpts"]) == ("macvlan", {"parent": "eth1"})
    host = _body(daemon, cli, "--net-driver", "macvlan", "--net-opt", "mode=vepa", "run", "-d", "i")["HostConfig"]
    assert (host["NetDriver"], host["NetOpts"]) == ("macvlan", {"mode": "vepa"})
    host = _body(
        daemon, cli, "--net-driver", "macvlan", "--net-opt", "mode=vepa", "create", "--net-opt", "parent=e", "i"
    )["HostConfig"]
    assert host["NetOpts"] == {"mode": "vepa", "parent": "e"}
    assert "NetDriver" not in _body(daemon, cli, "create", "i")["HostConfig"]
    host = _body(daemon, cli, "--net-driver", "macvlan", "create", "--network", "mine", "i")["HostConfig"]
    assert ("NetDriver" in host, host["NetworkMode"]) == (False, "mine")


def test_all_flags_reach_the_request(daemon: FakeDaemon, cli: Cli, tmp_path: Path) -> None:
    labels = tmp_path / "labels"
    labels.write_text("from=file\n")
    cid = tmp_path / "cid"
    body = _body(
        daemon, cli, "create", "-it", "--name", "n", "-e", "A=b", "-w", "/w", "-u", "1:2", "-v", "vol:/v:ro",
        "-v", "/anonymous", "--tmpfs", "/t:size=1m", "--network", "net", "--network-alias", "al", "--ip", "10.0.0.5",
        "--mac-address", "02:00:00:00:00:07", "-h", "host", "--domainname", "dom", "--dns", "1.1.1.1",
        "--dns-search", "s", "--add-host", "x:1.2.3.4", "-p", "8080:80", "-P", "--expose", "99", "--restart",
        "on-failure:2", "-m", "64m", "--memory-swap", "-1", "--cpus", "0.5", "--cpu-shares", "2", "--cpuset-cpus", "0",
        "--pids-limit", "9", "--cap-add", "NET_ADMIN", "--cap-drop", "ALL", "--read-only", "--entrypoint", "/e",
        "--label", "l=1", "--label-file", str(labels), "--init", "--stop-signal", "INT", "--stop-timeout", "3",
        "--ulimit", "nofile=5", "--sysctl", "net.x=1", "--privileged", "--device", "/dev/fuse", "--security-opt",
        "seccomp=unconfined", "--shm-size", "1m", "--group-add", "5", "--ipc", "host", "--pid", "host", "--uts", "host",
        "--cidfile", str(cid), "--log-driver", "none", "image", "cmd", "--rm",
    )  # fmt: skip
    host = body["HostConfig"]
    assert body["Cmd"] == ["cmd", "--rm"]
    expected = {
        "Tty": True, "OpenStdin": True, "Env": ["A=b"], "WorkingDir": "/w", "User": "1:2", "Hostname": "host",
        "Domainname": "dom", "Entrypoint": ["/e"], "Labels": {"from": "file", "l": "1"}, "StopSignal": "SIGINT",
        "StopTimeout": 3, "Volumes": {"/anonymous": {}}, "MacAddress": "02:00:00:00:00:07",
        "ExposedPorts": {"99/tcp": {}, "80/tcp": {}},
        "NetworkingConfig": {"EndpointsConfig": {"net": {
            "Aliases": ["al"], "IPAMConfig": {"IPv4Address": "10.0.0.5"}, "MacAddress": "02:00:00:00:00:07",
        }}},
    }  # fmt: skip
    assert {key: body[key] for key in expected} == expected
    expected_host = {
        "Binds": ["vol:/v:ro"], "Tmpfs": {"/t": "size=1m"}, "NetworkMode": "net", "Dns": ["1.1.1.1"],
        "DnsSearch": ["s"], "ExtraHosts": ["x:1.2.3.4"], "PublishAllPorts": True, "Memory": 64 << 20, "MemorySwap": -1,
        "PortBindings": {"80/tcp": [{"HostIp": "", "HostPort": "8080"}]}, "NanoCpus": 5 * 10**8, "CpuShares": 2,
        "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 2}, "CpusetCpus": "0", "PidsLimit": 9,
        "CapAdd": ["NET_ADMIN"], "CapDrop": ["ALL"], "ReadonlyRootfs": True, "Init": True, "Privileged": True,
        "Ulimits": [{"Name": "nofile", "Soft": 5, "Hard": 5}], "Sysctls": {"net.x": "1"}, "GroupAdd": ["5"],
        "SecurityOpt": ["seccomp=unconfined"], "ShmSize": 1 << 20, "IpcMode": "host", "PidMode": "host",
        "UTSMode": "host", "LogConfig": {"Type": "none", "Config": {}},
        "Devices": [{"PathOnHost": "/dev/fuse", "PathInContainer": "/dev/fuse", "CgroupPermissions": "rwm"}],
    }  # fmt: skip
    assert {key: host[key] for key in expected_host} == expected_host
    assert cid.read_text() == "c" * 64
    assert daemon.sent("POST", "/containers/create")[-1].query == {"name": "n"}


def test_cidfile_is_never_overwritten(daemon: FakeDaemon, cli: Cli, tmp_path: Path) -> None:
    cid = tmp_path / "cid"
    cid.write_text("old")
    assert cli("run", "--cidfile", str(cid), "image").code == 125
    assert not daemon.requests


def test_booleans_as_docker_writes_them(daemon: FakeDaemon, cli: Cli) -> None:
    body = _body(daemon, cli, "create", "--rm=true", "--init=false", "-it", "--read-only=1", "i", "--rm=false")
    assert body["HostConfig"]["AutoRemove"] is True
    assert "Init" not in body["HostConfig"]
    assert body["HostConfig"]["ReadonlyRootfs"] is True
    assert body["Cmd"] == ["--rm=false"]


def test_exec(daemon: FakeDaemon, cli: Cli) -> None:
    daemon.routes.update(
        {
            "POST /containers/c/exec": Answer(201, {"Id": "e"}),
            "POST /exec/e/start": lambda r: r.upgrade().sendall(frame(1, b"hello\n")),
            "GET /exec/e/json": Answer(200, {"ExitCode": 3}),
        }
    )
    result = cli("exec", "-e", "A=1", "-w", "/w", "c", "ls", "-l")
    assert (result.code, result.out) == (3, "hello\n")
    body = daemon.sent("POST", "/containers/c/exec")[0].json
    assert (body["Cmd"], body["Env"], body["WorkingDir"]) == (["ls", "-l"], ["A=1"], "/w")


@pytest.mark.parametrize(
    ("status", "message", "code"),
    [
        (404, "No such container: c", 1),
        (409, "container c is not running", 1),
        (400, '"x": executable file not found', 127),
    ],
)
def test_exec_failures(daemon: FakeDaemon, cli: Cli, status: int, message: str, code: int) -> None:
    if status == 400:
        daemon.routes["POST /containers/c/exec"] = Answer(201, {"Id": "e"})
        daemon.routes["POST /exec/e/start"] = refuse(status, message)
    else:
        daemon.routes["POST /containers/c/exec"] = refuse(status, message)
    result = cli("exec", "c", "x")
    assert (result.code, result.err) == (code, f"engine: {message}\n")


def test_start_attached(daemon: FakeDaemon, cli: Cli) -> None:
    FakeContainer(daemon, _says).install()
    result = cli("start", "-a", "c")
    assert (result.code, result.out) == (7, "out\n")


def test_start_several(daemon: FakeDaemon, cli: Cli) -> None:
    daemon.routes["POST /containers/a/start"] = Answer(204)
    daemon.routes["POST /containers/b/start"] = refuse(404, "No such container: b")
    result = cli("start", "a", "b")
    assert (result.code, result.out, result.err) == (1, "a\n", "engine: No such container: b\n")
