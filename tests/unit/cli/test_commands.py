"""All other commands: requests, output, exit codes."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from engine.cli.commands.copy import split_place
from engine.cli.commands.networks import ipam_config
from engine.cli.commands.pull import familiar, split_reference
from engine.cli.commands.stats import stats_row
from engine.cli.errors import Failure

from .conftest import Cli
from .fake_daemon import Answer, FakeDaemon, frame, refuse

CONTAINER = {
    "Id": "a" * 64, "Names": ["/web"], "Image": "busybox", "Command": "sleep 1000000000000000000",
    "Created": 1_700_000_000,
    "State": "running", "Status": "Up 2 hours", "Labels": {"k": "v"},
    "Ports": [{"IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"}],
    "NetworkSettings": {"Networks": {"bridge": {}}}, "Mounts": [],
}  # fmt: skip


def test_ps(daemon: FakeDaemon, cli: Cli) -> None:
    daemon.routes["GET /containers/json"] = Answer(200, [CONTAINER])
    lines = cli("ps").out.splitlines()
    assert lines[0].split() == ["CONTAINER", "ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES"]
    assert lines[1].startswith('aaaaaaaaaaaa   busybox   "sleep 1000000000000…"')
    assert "0.0.0.0:8080->80/tcp   web" in lines[1]
    assert cli("ps", "-q").out == "a" * 12 + "\n"
    assert cli("ps", "-q", "--no-trunc").out == "a" * 64 + "\n"
    assert cli("ps", "--format", "{{.Names}} {{.State}}").out == "web running\n"
    assert json.loads(cli("ps", "--format", "json").out)["Names"] == "web"
    cli("ps", "-a", "-n", "3", "-f", "status=exited", "--filter", "name=x")
    query = daemon.requests[-1].query
    assert (query["all"], query["limit"]) == ("1", "3")
    assert json.loads(query["filters"]) == {"status": ["exited"], "name": ["x"]}


@pytest.mark.parametrize(
    ("arguments", "method", "path", "query"),
    [
        (("stop", "-t", "3", "c"), "POST", "/containers/c/stop", {"t": "3"}),
        (("stop", "--signal", "INT", "c"), "POST", "/containers/c/stop", {"signal": "SIGINT"}),
        (("restart", "c"), "POST", "/containers/c/restart", {}),
        (("kill", "c"), "POST", "/containers/c/kill", {"signal": "SIGKILL"}),
        (("kill", "-s", "9", "c"), "POST", "/containers/c/kill", {"signal": "9"}),
        (("pause", "c"), "POST", "/containers/c/pause", {}),
        (("container", "unpause", "c"), "POST", "/containers/c/unpause", {}),
        (("rm", "-fv", "c"), "DELETE", "/containers/c", {"force": "1", "v": "1"}),
        (("network", "rm", "c"), "DELETE", "/networks/c", {}),
        (("volume", "rm", "-f", "c"), "DELETE", "/volumes/c", {"force": "1"}),
    ],
)
def test_one_request_a_name(
    daemon: FakeDaemon, cli: Cli, arguments: tuple[str, ...], method: str, path: str, query: dict[str, str]
) -> None:
    daemon.routes[f"{method} {path}"] = Answer(204)
    result = cli(*arguments)
    assert (result.code, result.out) == (0, "c\n")
    assert daemon.requests[-1].query == query


def test_the_others_are_done_when_one_fails(daemon: FakeDaemon, cli: Cli) -> None:
    daemon.routes["POST /containers/a/stop"] = refuse(404, "No such container: a")
    daemon.routes["POST /containers/b/stop"] = Answer(204)
    result = cli("stop", "a", "b")
    assert (result.code, result.out, result.err) == (1, "b\n", "engine: No such container: a\n")


def test_forced_removal_of_what_is_gone_is_no_error(daemon: FakeDaemon, cli: Cli) -> None:
    daemon.routes["DELETE /containers/x"] = refuse(404, "No such container: x")
    assert cli("rm", "-f", "x").code == 0
    assert cli("rm", "x").code == 1


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("frobnicate",), 1, "unknown command: engine frobnicate"),
        (("inspct",), 1, "did you mean 'inspect'"),
        (("network", "creat"), 1, "did you mean 'create'"),
        (("ps", "--qiet"), 125, "No such option"),
        (("ps", "extra"), 125, "unexpected"),
        (("rm",), 125, "CONTAINER"),
        (("stop", "-t", "soon", "c"), 125, "whole number"),
        (("kill", "-s", "TREM", "c"), 125, "did you mean 'TERM'"),
        (("logs", "--tail", "x", "c"), 125, "--tail"),
        (("volume", "create", "-o", "x", "v"), 125, "key=value"),
        (("network", "create", "--subnet", "10.0.0.1/24", "n"), 125, "host bits"),
        (("inspect", "--type", "box", "n"), 1, "unknown kind"),
        (("update", "c"), 125, "nothing to change"),
        (("driver", "ls", "-k", "netwrk"), 1, "did you mean 'network'"),
        (("cp", "a", "b"), 1, "CONTAINER:PATH"),
    ],
)
def test_wrong_command_lines(cli: Cli, daemon: FakeDaemon, arguments: tuple[str, ...], code: int, said: str) -> None:
    result = cli(*arguments)
    assert result.code == code
    assert said.lower() in result.err.lower()
    assert result.err.count("\n") == 1
    assert not daemon.requests


def test_help(cli: Cli) -> None:
    top = cli("--help")
    assert top.code == 0
    assert top.out.index("Containers:") < top.out.index("Images:") < top.out.index("This host:")
    assert cli().out == top.out
    run = cli("run", "--help").out
    assert "Usage: engine run [OPTIONS] IMAGE [COMMAND] [ARG]..." in run
    for heading in ("Container:", "Network:", "Storage:", "Resources:", "Security and isolation:"):
        assert heading in run
    assert "create" in cli("network").out


@pytest.mark.parametrize(
    "arguments", [("run", "--net-driver", "mv", "--help"), ("--net-driver", "mv", "run", "--help")]
)
def test_help_shows_the_options_of_a_driver(daemon: FakeDaemon, cli: Cli, arguments: tuple[str, ...]) -> None:
    daemon.routes["GET /engine/drivers"] = Answer(200, [DRIVER])
    daemon.routes["GET /engine/drivers/network/mv"] = Answer(200, DRIVER)
    text = cli(*arguments).out
    assert "Options of driver mv" in text
    assert "mode=bridge|vepa" in text


DRIVER = {
    "Name": "mv", "Kind": "network", "Group": "engine.network", "Distribution": "dist", "Version": "1", "Status": "ok",
    "Reason": "", "Spec": "1.0", "Doc": "Does things.", "Capabilities": {"ports": False},
    "Options": {
        "properties": {
            "parent": {"type": "string", "description": "Host link"},
            "mode": {"enum": ["bridge", "vepa"], "default": "bridge", "description": "How"},
            "mtu": {"anyOf": [{"type": "integer"}, {"type": "null"}], "default": None},
        },
        "required": ["parent"],
    },
}  # fmt: skip


def test_driver_show(daemon: FakeDaemon, cli: Cli) -> None:
    daemon.routes["GET /engine/drivers"] = Answer(200, [DRIVER])
    daemon.routes["GET /engine/drivers/network/mv"] = Answer(200, DRIVER)
    text = cli("driver", "show", "mv").out
    assert "mv (network driver, dist 1)" in text
    assert "parent=TEXT" in text
    assert "Host link (required)" in text
    assert "How (default: bridge)" in text
    assert "mtu=NUMBER" in text
    assert "ports: no" in text
    missing = cli("driver", "show", "mvv")
    assert (missing.code, missing.err) == (1, "engine: there is no driver 'mvv' (did you mean 'mv'?)\n")


def test_driver_check(daemon: FakeDaemon, cli: Cli) -> None:
    broken = {**DRIVER, "Status": "broken", "Reason": "No module named 'x'"}
    daemon.routes["GET /engine/drivers"] = Answer(200, [DRIVER])
    daemon.routes["POST /engine/drivers/network/mv/check"] = Answer(200, broken)
    result = cli("driver", "check")
    assert result.code == 1
    assert "No module named 'x'" in result.out


def test_inspect(daemon: FakeDaemon, cli: Cli) -> None:
    daemon.routes["GET /containers/web/json"] = Answer(200, {"Id": "1", "NetworkSettings": {"IPAddress": "10.0.0.2"}})
    daemon.routes["GET /volumes/vol"] = Answer(200, {"Name": "vol"})
    assert cli("inspect", "-f", "{{.NetworkSettings.IPAddress}}", "web").out == "10.0.0.2\n"
    result = cli("inspect", "web", "vol", "nope")
    assert [next(iter(found.values())) for found in json.loads(result.out)] == ["1", "vol"]
    assert (result.code, result.err) == (1, "engine: no such object: nope\n")


def test_logs(daemon: FakeDaemon, cli: Cli) -> None:
    daemon.routes["GET /containers/c/json"] = Answer(200, {"Id": "c", "Config": {"Tty": False}})
    data = frame(1, b"out\n") + frame(2, b"err\n")
    daemon.routes["GET /containers/c/logs"] = Answer(200, [data[:5], data[5:]])
    result = cli("logs", "--tail", "5", "-t", "c")
    assert (result.out, result.err) == ("out\n", "err\n")
    query = daemon.requests[-1].query
    assert (query["tail"], query["timestamps"], query["stdout"]) == ("5", "1", "1")


def test_wait(daemon: FakeDaemon, cli: Cli) -> None:
    daemon.routes["POST /containers/[ab]/wait"] = Answer(200, {"StatusCode": 3})
    assert cli("wait", "a", "b").out == "3\n3\n"


def test_events_and_their_line(daemon: FakeDaemon, cli: Cli) -> None:
    event = {
        "Type": "container", "Action": "start", "time": 1_700_000_000, "timeNano": 1_700_000_000_000_000_005,
        "Actor": {"ID": "abc", "Attributes": {"name": "n", "image": "i"}},
    }  # fmt: skip
    daemon.routes["GET /events"] = Answer(200, [json.dumps(event).encode() + b"\n"])
    assert cli("events").out == "2023-11-14T22:13:20.000000005Z container start abc (image=i, name=n)\n"
    assert cli("events", "--format", "{{.Action}}").out == "start\n"


def test_port(daemon: FakeDaemon, cli: Cli) -> None:
    ports = {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}, {"HostIp": "::", "HostPort": "8080"}], "9/tcp": None}
    daemon.routes["GET /containers/c/json"] = Answer(200, {"NetworkSettings": {"Ports": ports}})
    assert cli("port", "c").out == "80/tcp -> 0.0.0.0:8080\n80/tcp -> [::]:8080\n"
    assert cli("port", "c", "80").out == "0.0.0.0:8080\n[::]:8080\n"
    assert cli("port", "c", "81").code == 1


def test_images(daemon: FakeDaemon, cli: Cli) -> None:
    image = {
        "Id": "sha256:" + "b" * 64, "RepoTags": ["r:5000/x:1", "r:5000/x:2"], "RepoDigests": ["r:5000/x@sha256:0"],
        "Created": 1_700_000_000, "Size": 1_980_000, "Containers": -1,
    }  # fmt: skip
    daemon.routes["GET /images/json"] = Answer(200, [image, {**image, "RepoTags": [], "RepoDigests": []}])
    rows = [line.split()[:3] for line in cli("images").out.splitlines()[1:]]
    assert rows == [["r:5000/x", "1", "b" * 12], ["r:5000/x", "2", "b" * 12], ["<none>", "<none>", "b" * 12]]
    assert cli("images", "-q").out == "b" * 12 + "\n"
    assert "1.98MB" in cli("image", "ls").out


def test_load_save_and_their_files(daemon: FakeDaemon, cli: Cli, tmp_path: Path) -> None:
    daemon.routes["GET /_ping"] = Answer(200, b"OK")
    daemon.routes["POST /images/load"] = Answer(
        200, [b'{"stream":"Loaded image: x:1\\n"}\n'], {"Content-Type": "application/json"}
    )
    archive = tmp_path / "a.tar"
    archive.write_bytes(b"z" * 100_000)
    assert cli("load", "-i", str(archive)).out == "Loaded image: x:1\n"
    assert daemon.sent("POST", "/images/load")[0].data == b"z" * 100_000
    assert "No such file" in cli("load", "-i", str(tmp_path / "no")).err
    daemon.routes["GET /images/get"] = Answer(200, [b"tar", b"data"])
    target = tmp_path / "out.tar"
    assert cli("save", "-o", str(target), "x:1").code == 0
    assert target.read_bytes() == b"tardata"
    daemon.routes["GET /images/get"] = refuse(404, "no such image: x:1")
    assert cli("save", "-o", str(tmp_path / "none.tar"), "x:1").code == 1
    assert sorted(p.name for p in tmp_path.iterdir() if p.suffix == ".tar") == ["a.tar", "out.tar"]


def test_network_create(daemon: FakeDaemon, cli: Cli) -> None:
    daemon.routes["POST /networks/create"] = Answer(201, {"Id": "n" * 64, "Warning": ""})
    result = cli(
        "network", "create", "-d", "macvlan", "-o", "parent=eth0", "--subnet", "10.0.0.0/24", "--gateway", "10.0.0.1",
        "--ip-range", "10.0.0.128/25", "--aux-address", "r=10.0.0.2", "--internal", "net",
    )  # fmt: skip
    assert result.out == "n" * 64 + "\n"
    body = daemon.requests[-1].json
    assert (body["Name"], body["Driver"], body["Options"], body["Internal"]) == (
        "net",
        "macvlan",
        {"parent": "eth0"},
        True,
    )
    assert body["IPAM"]["Config"] == [
        {
            "Subnet": "10.0.0.0/24",
            "Gateway": "10.0.0.1",
            "IPRange": "10.0.0.128/25",
            "AuxiliaryAddresses": {"r": "10.0.0.2"},
        }
    ]


@pytest.mark.parametrize(
    ("given", "cause"),
    [
        ({"subnets": ["10.0.0.0/24", "10.0.0.128/25"]}, "overlaps"),
        ({"subnets": ["x"]}, "does not appear"),
        ({"gateways": ["10.0.0.1"]}, "needs --subnet"),
        ({"subnets": ["10.0.0.0/24"], "gateways": ["10.0.1.1"]}, "lies in no subnet"),
        ({"subnets": ["10.0.0.0/24"], "gateways": ["10.0.0.1", "10.0.0.2"]}, "has one already"),
        ({"subnets": ["10.0.0.0/24"], "ranges": ["10.0.0.0/16"]}, "lies in no subnet"),
        ({"subnets": ["10.0.0.0/24"], "taken": ["10.0.0.9"]}, "NAME=IP"),
    ],
)
def test_address_flags_that_contradict(given: dict[str, Any], cause: str) -> None:
    with pytest.raises(Failure) as err:
        ipam_config(*(given.get(name, []) for name in ("subnets", "gateways", "ranges", "taken")))
    assert cause in str(err.value)
    assert err.value.code == 125


def test_subnets_of_both_families() -> None:
    found = ipam_config(["10.0.0.0/24", "fd00::/64"], ["fd00::1", "10.0.0.1"], [], [])
    assert [(c["Subnet"], c["Gateway"]) for c in found] == [("10.0.0.0/24", "10.0.0.1"), ("fd00::/64", "fd00::1")]


def test_network_plan(daemon: FakeDaemon, cli: Cli) -> None:
    row = {"owner": "net:1", "resource": "bridge/br0", "state": "differs", "fields": {"mtu": ["1500", "9000"]}}
    daemon.routes["GET /engine/networks/n/plan"] = Answer(200, {"network": "n", "resources": [row]})
    assert "mtu is 9000, not 1500" in cli("network", "plan", "n").out


def test_doctor(daemon: FakeDaemon, cli: Cli) -> None:
    daemon.routes["GET /engine/doctor"] = Answer(200, {"differences": []})
    assert cli("doctor").out == "Everything is as it should be.\n"
    difference = {"owner": "net:1", "resource": "bridge/br0", "detail": "missing"}
    daemon.routes["GET /engine/doctor"] = Answer(200, {"differences": [difference]})
    result = cli("doctor")
    assert result.code == 1
    assert "bridge/br0" in result.out
    daemon.routes["POST /engine/doctor/repair"] = Answer(200, {"repaired": [difference], "differences": []})
    assert cli("doctor", "--repair").code == 0


def test_login_and_logout(daemon: FakeDaemon, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon.routes["POST /auth"] = Answer(200, {"Status": "Login Succeeded"})
    monkeypatch.setattr("sys.stdin", io.StringIO("secret\n"))
    result = cli("login", "-u", "alice", "--password-stdin", "r.example")
    assert result.code == 0, result.err
    assert daemon.requests[-1].json == {"username": "alice", "password": "secret", "serveraddress": "r.example"}
    daemon.routes["POST /auth"] = refuse(401, "unauthorized: wrong password")
    denied = cli("login", "-u", "alice", "-p", "x", "other.example")
    assert (denied.code, denied.err.splitlines()[-1]) == (1, "engine: unauthorized: wrong password")
    assert cli("logout", "r.example").out == "Removing login credentials for r.example\n"
    assert cli("logout", "other.example").out == "Not logged in to other.example\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("c:/p", ("c", "/p")),
        ("./c:p", ("", "./c:p")),
        ("/a:b", ("", "/a:b")),
        ("a/b:c", ("", "a/b:c")),
        ("-", ("", "-")),
    ],
)
def test_places(text: str, expected: tuple[str, str]) -> None:
    assert split_place(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a", ("a", "latest")), ("a:1", ("a", "1")), ("r:5/a", ("r:5/a", "latest")), ("r:5/a:1", ("r:5/a", "1")),
        ("a@sha256:0", ("a", "sha256:0")),
    ],
)  # fmt: skip
def test_references(text: str, expected: tuple[str, str]) -> None:
    assert split_reference(text) == expected
    assert familiar("a@sha256:0") == "a@sha256:0"


def _tar(*members: tarfile.TarInfo | tuple[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for member in members:
            if isinstance(member, tuple):
                info = tarfile.TarInfo(member[0])
                info.size, info.mode = len(member[1]), 0o666
                tar.addfile(info, io.BytesIO(member[1]))
            else:
                tar.addfile(member)
    return buffer.getvalue()


def _stat(name: str, *, directory: bool = False) -> dict[str, str]:
    import base64

    mode = (1 << 31 | 0o755) if directory else 0o644
    found = {"name": name, "size": 1, "mode": mode, "mtime": "", "linkTarget": ""}
    return {"X-Docker-Container-Path-Stat": base64.b64encode(json.dumps(found).encode()).decode()}


def test_copy_out_keeps_modes(daemon: FakeDaemon, cli: Cli, tmp_path: Path) -> None:
    daemon.routes["HEAD /containers/c/archive"] = Answer(200, None, _stat("x"))
    daemon.routes["GET /containers/c/archive"] = Answer(200, [_tar(("x", b"data"))])
    assert cli("cp", "c:/x", str(tmp_path)).code == 0
    assert (tmp_path / "x").read_bytes() == b"data"
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o666
    assert cli("cp", "c:/x", str(tmp_path / "y")).code == 0
    assert (tmp_path / "y").read_bytes() == b"data"
    assert "no directory" in cli("cp", "c:/x", str(tmp_path / "no" / "y")).err


def test_an_archive_that_escapes_is_refused(daemon: FakeDaemon, cli: Cli, tmp_path: Path) -> None:
    inside = tmp_path / "in"
    inside.mkdir()
    link = tarfile.TarInfo("d/link")
    link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path)
    daemon.routes["HEAD /containers/c/archive"] = Answer(200, None, _stat("d", directory=True))
    for members in ((("d/../../evil", b"x"),), (link, ("d/link/evil", b"x"))):
        daemon.routes["GET /containers/c/archive"] = Answer(200, [_tar(*members)])
        result = cli("cp", "c:/d", str(inside))
        assert result.code == 1
        assert "refused" in result.err
    assert not (tmp_path / "evil").exists()


def test_copy_in(daemon: FakeDaemon, cli: Cli, tmp_path: Path) -> None:
    daemon.routes["GET /_ping"] = Answer(200, b"OK")
    daemon.routes["HEAD /containers/c/archive"] = Answer(200, None, _stat("tmp", directory=True))
    daemon.routes["PUT /containers/c/archive"] = Answer(200)
    (tmp_path / "f").write_bytes(b"data")
    assert cli("cp", str(tmp_path / "f"), "c:/tmp").code == 0
    request = daemon.sent("PUT", ".*")[0]
    assert request.query["path"] == "/tmp"
    with tarfile.open(fileobj=io.BytesIO(request.data)) as tar:
        assert tar.getnames() == ["f"]
    assert cli("cp", str(tmp_path / "absent"), "c:/tmp").code == 1


def test_stats_row() -> None:
    sample = {
        "id": "a" * 64, "name": "/n", "pids_stats": {"current": 3},
        "cpu_stats": {"cpu_usage": {"total_usage": 300}, "system_cpu_usage": 2000, "online_cpus": 2},
        "precpu_stats": {"cpu_usage": {"total_usage": 100}, "system_cpu_usage": 1000},
        "memory_stats": {"usage": 3 << 20, "limit": 8 << 20, "stats": {"inactive_file": 1 << 20}},
        "networks": {"eth0": {"rx_bytes": 1000, "tx_bytes": 2000}},
        "blkio_stats": {"io_service_bytes_recursive": [{"op": "Read", "value": 5}, {"op": "Write", "value": 7}]},
    }  # fmt: skip
    row = stats_row(sample, full=False)
    assert row["CPUPerc"] == "40.00%"
    assert row["MemUsage"] == "2MiB / 8MiB"
    assert (row["NetIO"], row["BlockIO"], row["PIDs"]) == ("1kB / 2kB", "5B / 7B", "3")
    assert stats_row({"id": "b", "name": "x"}, full=True)["CPUPerc"] == "0.00%"


def test_version_without_a_daemon(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.routes["GET /version"] = refuse(500, "broken")
    result = cli("version")
    assert result.code == 1
    assert "API version:       1.44" in result.out
    assert result.err == "engine: broken\n"


def test_disk_usage_of_each_object(daemon: FakeDaemon, cli: Cli) -> None:
    volume = {"Name": "data", "Driver": "local", "UsageData": {"Size": 4096, "RefCount": 1}}
    image = {"Id": "sha256:" + "b" * 64, "RepoTags": ["busybox:1"], "Created": 0, "Size": 10**6, "Containers": 1}
    found = {"Images": [image], "Containers": [CONTAINER], "Volumes": [volume], "BuildCache": [], "LayersSize": 10**6}
    daemon.routes["GET /system/df"] = Answer(200, found)
    lines = [line.split() for line in cli("system", "df", "-v").out.splitlines()]
    assert ["busybox", "1", "b" * 12, "N/A", "1MB", "1"] in lines
    assert ["data", "local", "1", "4.096kB"] in lines
    assert any(line[:1] == ["a" * 12] for line in lines)
    assert json.loads(cli("system", "df", "-v", "--format", "json").out) == found


def test_scrub_says_whether_to_accept(daemon: FakeDaemon, cli: Cli) -> None:
    done = {"files": 1, "bytes": 2, "foreign": 0, "counts": {}, "problems": []}
    daemon.routes["POST /engine/volumes/v/scrub"] = Answer(200, {"aux": done})
    cli("volume", "scrub", "v")
    cli("volume", "scrub", "--accept", "v")
    assert [r.query.get("accept") for r in daemon.sent("POST", "/engine/volumes/v/scrub")] == [None, "1"]
