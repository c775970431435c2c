"""Bad input: one clear error, the right exit code and status, and nothing left behind.

`clean` compares links, addresses, routes, firewall, mounts, loop devices, processes, cgroups, files and database rows
before and after each test; nothing is removed in between unless the test says so.
"""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.host import EngineHost
from tests.images import Registry, Sample, busybox_archive, busybox_image, compress, digest, entry, tar

from .conftest import Cli


@pytest.fixture
def untouched(host: EngineHost) -> Iterator[EngineHost]:
    """The machine; the test must leave it exactly as it was."""
    before = host.snapshot()
    yield host
    host.assert_clean(before)


def refused(cli: Cli, words: list[str], code: int, *mentioned: str) -> str:
    """Run a command that must fail in an orderly way; return what it said.

    What a command line finds wrong itself is 125 for some commands and 1 for others, as with Docker's.
    """
    done = cli(*words, check=False)
    assert done.returncode in (code, 125), done.stdout + done.stderr
    assert done.stdout in ("", "[]\n")  # an inspection of nothing
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 6, done.stderr
    for text in mentioned:
        assert text.lower() in done.stderr.lower()
    return done.stderr


RUN = [
    (["127.0.0.1:1/none/such", "true"], ["127.0.0.1:1"]),
    (["--network", "bridgge", "busybox", "true"], ["bridgge"]),
    (["--network", "container:nobody", "busybox", "true"], ["nobody"]),
    (["-p", "99999:80", "busybox", "true"], ["99999"]),
    (["-p", "80:http", "busybox", "true"], ["http"]),
    (["-v", "data:relative", "busybox", "true"], ["relative"]),
    (["-v", "/a:/b:nonsense", "busybox", "true"], ["nonsense"]),
    (["--mount", "type=bind,source=/no/such/place,target=/x", "busybox", "true"], ["/no/such/place"]),
    (["--mount", "type=unknown,target=/x", "busybox", "true"], ["unknown"]),
    (["--memory", "12parsecs", "busybox", "true"], ["12parsecs"]),
    (["--memory", "1k", "busybox", "true"], ["6m"]),
    (["--cpus", "-3", "busybox", "true"], []),
    (["--ip", "10.1.2.3", "busybox", "true"], ["10.1.2.3"]),
    (["--cap-add", "FLY", "busybox", "true"], ["FLY"]),
    (["--device", "/dev/no-such-device", "busybox", "true"], ["/dev/no-such-device"]),
    (["--restart", "sometimes", "busybox", "true"], ["sometimes"]),
    (["--name", "not a name", "busybox", "true"], ["not a name"]),
    (["--ulimit", "nosuch=1", "busybox", "true"], ["nosuch"]),
    (["--sysctl", "kernel.hostname", "busybox", "true"], []),
    (["-u", "no-such-user", "busybox", "true"], ["no-such-user"]),
    (["-w", "relative", "busybox", "true"], ["relative"]),
    (["--stop-signal", "SIGNOSUCH", "busybox", "true"], ["SIGNOSUCH"]),
    (["--pids-limit", "many", "busybox", "true"], ["many"]),
    (["--dns", "not-an-address", "busybox", "true"], ["not-an-address"]),
    (["--add-host", "nocolon", "busybox", "true"], ["nocolon"]),
    (["--mac-address", "zz:zz", "busybox", "true"], ["zz:zz"]),
    (["--runtime", "no-such-runtime", "busybox", "true"], ["no-such-runtime"]),
    (["--log-driver", "no-such-log", "busybox", "true"], ["no-such-log"]),
    (["--security-opt", "seccomp=/no/such/file", "busybox", "true"], ["/no/such/file"]),
    (["--rm", "--restart", "always", "busybox", "true"], ["--rm"]),
]


@pytest.mark.parametrize(("words", "mentioned"), RUN, ids=lambda v: " ".join(v[:2]) if v and "-" in v[0] else "")
def test_run(cli: Cli, untouched: EngineHost, words: list[str], mentioned: list[str]) -> None:
    removing = [] if "--restart" in words else ["--rm"]
    refused(cli, ["run", *removing, *words], 125, *mentioned)


def test_names_that_exist(cli: Cli, clean: EngineHost) -> None:
    cli("create", "--name", "taken", "busybox", "true")
    cli("network", "create", "taken")
    cli("volume", "create", "taken")
    before = clean.snapshot()
    refused(cli, ["create", "--name", "taken", "busybox", "true"], 1, "taken")
    refused(cli, ["network", "create", "taken"], 1, "taken", "already exists")
    refused(cli, ["volume", "create", "-o", "type=tmpfs", "-o", "device=tmpfs", "taken"], 1, "taken")
    clean.assert_clean(before)


@pytest.mark.parametrize(
    ("words", "mentioned"),
    [
        (["container", "inspect", "nobody"], ["nobody"]),
        (["start", "nobody"], ["nobody"]),
        (["stop", "nobody"], ["nobody"]),
        (["kill", "nobody"], ["nobody"]),
        (["rm", "nobody"], ["nobody"]),
        (["logs", "nobody"], ["nobody"]),
        (["exec", "nobody", "true"], ["nobody"]),
        (["cp", "nobody:/x", "/tmp/none"], ["nobody"]),
        (["wait", "nobody"], ["nobody"]),
        (["rmi", "nosuchimage"], ["nosuchimage"]),
        (["tag", "nosuchimage", "x:y"], ["nosuchimage"]),
        (["tag", "busybox", "UPPER/Case"], []),
        (["history", "nosuchimage"], ["nosuchimage"]),
        (["network", "rm", "nonet"], ["nonet"]),
        (["network", "rm", "bridge"], ["bridge"]),
        (["network", "connect", "nonet", "nobody"], ["nobody"]),
        (["volume", "rm", "novol"], ["novol"]),
        (["network", "create", "-d", "bridg", "xx"], ["bridg"]),
        (["network", "create", "--subnet", "10.0.0.0/99", "xx"], ["10.0.0.0/99"]),
        (["network", "create", "--subnet", "10.9.0.0/24", "--gateway", "10.8.0.1", "xx"], ["10.8.0.1"]),
        (["network", "create", "--subnet", "10.9.0.0/24", "--ip-range", "10.8.0.0/25", "xx"], ["10.8.0.0/25"]),
        (["network", "create", "-d", "macvlan", "-o", "parent=nolink0", "xx"], ["nolink0"]),
        (["network", "create", "-d", "macvlan", "-o", "parnt=eth0", "xx"], ["parnt", "parent"]),
        (["network", "create", "-d", "macvlan", "-o", "mode=bridges", "xx"], ["mode"]),
        (["volume", "create", "-d", "locall", "xx"], ["locall"]),
        (["volume", "create", "-o", "tpe=tmpfs", "xx"], ["tpe", "type"]),
        (["volume", "create", "not/a/name"], ["not/a/name"]),
    ],
    ids=lambda v: " ".join(v) if v and len(v) > 1 else "",
)
def test_commands(cli: Cli, untouched: EngineHost, words: list[str], mentioned: list[str]) -> None:
    refused(cli, words, 1, *mentioned)


def test_did_you_mean(host: EngineHost, untouched: EngineHost) -> None:
    for words, meant in (
        (["run", "--net-driver", "macvlam", "busybox", "true"], "macvlan"),
        (["run", "--net-driver", "macvlan", "--net-opt", "mod=private", "busybox", "true"], "mode"),
        (["network", "create", "-d", "bridg", "xx"], "bridge"),
        (["volume", "create", "-d", "locall", "xx"], "local"),
        (["volume", "create", "-o", "tpe=tmpfs", "xx"], "type"),
    ):
        done = host.engine(*words, check=False)
        assert done.returncode in (1, 125)
        assert "did you mean" in done.stderr.lower(), (words, done.stderr)
        assert meant in done.stderr


def test_overlapping_subnets(cli: Cli, clean: EngineHost) -> None:
    cli("network", "create", "--subnet", "10.66.0.0/16", "first")
    before = clean.snapshot()
    text = refused(cli, ["network", "create", "--subnet", "10.66.5.0/24", "second"], 1, "10.66.5.0/24")
    assert "first" in text
    clean.assert_clean(before)


@pytest.mark.parametrize("address", ["10.67.1.5", "10.67.0.0", "10.67.0.255", "10.67.0.1"])
def test_addresses_that_cannot_be_had(cli: Cli, clean: EngineHost, address: str) -> None:
    cli("network", "create", "--subnet", "10.67.0.0/24", "small")
    before = clean.snapshot()
    refused(cli, ["run", "--rm", "--network", "small", "--ip", address, "busybox", "true"], 125, address)
    clean.assert_clean(before)


def request(host: EngineHost, method: str, path: str, body: Any = None) -> tuple[int, str]:
    status, data = host.request(method, path, None if body is None else json.dumps(body))
    return status, json.loads(data)["message"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/containers/nobody/json", None, 404),
        ("POST", "/containers/create", {"Image": "nosuch"}, 404),
        ("POST", "/containers/create", {"Image": "busybox", "HostConfig": {"Memory": -5}}, 400),
        ("POST", "/containers/create", {"Image": "busybox", "HostConfig": {"NetDriver": "nosuch"}}, 400),
        ("POST", "/containers/create", {"Image": 7}, 400),
        ("POST", "/containers/create?name=a/b", {"Image": "busybox"}, 400),
        ("POST", "/networks/create", {"Name": "xx", "Driver": "nosuch"}, 404),
        ("POST", "/networks/create", {"Name": "bridge"}, 409),
        ("POST", "/networks/create", {"Name": "xx", "IPAM": {"Config": [{"Subnet": "x"}]}}, 400),
        ("DELETE", "/networks/bridge", None, 403),
        ("POST", "/volumes/create", {"Name": "xx", "Driver": "nosuch"}, 404),
        ("POST", "/volumes/create", {"Name": "xx", "DriverOpts": {"type": "nosuch"}}, 400),
        ("DELETE", "/volumes/nosuch", None, 404),
        ("DELETE", "/images/nosuch", None, 404),
        ("GET", "/images/nosuch/json", None, 404),
        ("POST", "/exec/nosuch/start", {}, 404),
        ("GET", "/no/such/path", None, 404),
    ],
)
def test_status(untouched: EngineHost, method: str, path: str, body: Any, status: int) -> None:
    found, message = request(untouched, method, path, body)
    assert (found, bool(message)) == (status, True), message
    assert "Traceback" not in message


def test_conflicts_have_status_409(clean: EngineHost) -> None:
    clean.engine("run", "-d", "--name", "busy", "-v", "held:/x", "busybox", "sleep", "1000")
    assert request(clean, "DELETE", "/containers/busy")[0] == 409
    assert request(clean, "DELETE", "/volumes/held")[0] == 409
    assert request(clean, "POST", "/containers/create?name=busy", {"Image": "busybox"})[0] == 409
    assert request(clean, "DELETE", "/images/busybox")[0] == 409
    assert clean.request("POST", "/containers/busy/start")[0] == 304
    clean.engine("stop", "-t", "0", "busy")
    assert clean.request("POST", "/containers/busy/stop")[0] == 304
    assert request(clean, "POST", "/containers/busy/kill")[0] == 409
    assert request(clean, "POST", "/containers/busy/pause")[0] == 409


def test_a_corrupt_layer(cli: Cli, host: EngineHost, untouched: EngineHost) -> None:
    with Registry(netns=host.netns) as registry:
        image = busybox_image((b"not a tar" * 999,), Cmd=["true"])
        name = registry.push(image, "broken:1", "")
        refused(cli, ["pull", "-q", name], 1, "broken:1")
        layer = tar([entry("file", os.urandom(1 << 16))])  # not here yet, so it is fetched
        name = registry.push(Sample((layer,)), "flipped:1")
        blob = registry.blob(digest(compress(layer, "gzip")))
        data = bytearray(blob.read_bytes())
        data[len(data) // 2] ^= 1
        blob.write_bytes(data)
        refused(cli, ["pull", "-q", name], 1)


def test_archives_that_are_none(cli: Cli, untouched: EngineHost, tmp_path: Path) -> None:
    text, empty = tmp_path / "text", tmp_path / "empty.tar"
    text.write_text("hello " * 5000)
    with tarfile.open(empty, "w"):
        pass
    for path in (text, empty):
        done = cli("load", "-i", str(path), check=False)
        assert done.returncode == 1, done.stdout
        assert "Traceback" not in done.stderr
        assert done.stderr
    refused(cli, ["load", "-i", str(tmp_path / "absent")], 1, "absent")
    refused(cli, ["import", str(text)], 1)


def test_a_full_disk() -> None:
    with EngineHost() as small:
        small.stop_daemon()
        small.run("mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(small.data_root))
        small.start_daemon()
        small.engine("images")
        archive = busybox_archive(small.root / "busybox.tar")
        before = small.settled()
        done = small.engine("load", "-i", str(archive), check=False)
        assert done.returncode == 1
        assert "No space left" in done.stderr
        small.assert_clean(before)
        assert "busybox" not in small.engine("images").stdout


def test_no_daemon(cli: Cli, host: EngineHost) -> None:
    done = cli("-H", f"unix://{host.root}/nobody.sock", "ps", check=False)
    assert done.returncode == 1
    assert f"{host.root}/nobody.sock" in done.stderr
    assert "Traceback" not in done.stderr
