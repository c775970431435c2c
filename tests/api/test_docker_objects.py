"""The stock docker CLI against the server: images, networks, volumes, the system."""

from __future__ import annotations

import subprocess

from .conftest import SECONDS, Server
from .fakes_objects import IMAGE


def test_pull_shows_progress_and_sends_credentials(server: Server) -> None:
    done = server.cli("pull", "--platform", "linux/amd64", "registry.example/busybox")
    assert done.returncode == 0
    assert b"0123456789ab: Pull complete" in done.stdout
    assert b"Status: Downloaded newer image" in done.stdout
    assert ("pull", "registry.example/busybox:latest", None, "linux/amd64") in server.images.calls
    digest = "sha256:" + "0" * 64
    server.cli("pull", f"registry.example/busybox@{digest}", check=True)
    assert server.images.calls[-1][1] == f"registry.example/busybox@{digest}"


def test_a_pull_that_fails_says_why(server: Server) -> None:
    early = server.cli("pull", "registry.example/absent")
    assert early.returncode == 1
    assert early.stderr == b"Error response from daemon: manifest for registry.example/absent:latest not found\n"
    late = server.cli("pull", "registry.example/breaks")
    assert late.returncode == 1
    assert b"the registry went away: connection reset" in late.stderr
    everything = server.cli("pull", "-a", "registry.example/busybox")
    assert b"pulling all tags of a repository is not supported" in everything.stderr


def test_login_and_push_with_its_credentials(server: Server) -> None:
    wrong = server.cli("login", "-u", "alice", "--password-stdin", "registry.example", input=b"wrong")
    assert b"unauthorized" in wrong.stderr
    server.cli("login", "-u", "alice", "--password-stdin", "registry.example", input=b"right", check=True)
    assert server.cli("push", "registry.example/busybox:1").returncode == 0
    kind, ref, auth = server.images.calls[-1]
    assert (kind, ref) == ("push", "registry.example/busybox:1")
    assert auth["username"] == "alice"  # type: ignore[index]
    assert auth["password"] == "right"  # type: ignore[index]


def test_images_are_listed_inspected_and_removed(server: Server) -> None:
    lines = server.cli("images", "--format", "{{.Repository}} {{.Tag}} {{.Size}}").stdout.decode().splitlines()
    assert sorted(lines) == ["busybox latest 1.23MB", "registry.example:5000/team/busybox 1 1.23MB"]
    assert server.cli("image", "inspect", "-f", "{{.Os}} {{.Config.Cmd}}", "busybox").stdout == b"linux [sh]\n"
    inspected = server.cli("image", "inspect", "-f", "{{.Id}}", "registry.example:5000/team/busybox:1").stdout
    assert inspected.decode().strip() == IMAGE.id
    assert (
        server.cli("history", "--format", "{{.CreatedBy}}|{{.Comment}}", "busybox").stdout == b"layer 0|made by hand\n"
    )
    assert b"No such image: nothing" in server.cli("rmi", "nothing").stderr
    refused = server.cli("rmi", "busybox")
    assert (refused.returncode, b"conflict: unable to remove" in refused.stderr) == (1, True)
    assert server.cli("rmi", "-f", "busybox").stdout.decode() == f"Untagged: busybox:latest\nDeleted: {IMAGE.id}\n"
    server.cli("tag", "busybox", "registry.example:5000/a/b:c", check=True)
    assert ("tag", "busybox", "registry.example:5000/a/b:c") in server.images.calls


def test_prune_of_images(server: Server) -> None:
    assert b"Total reclaimed space: 99B" in server.cli("image", "prune", "-f", "--filter", "label=x").stdout
    assert server.images.calls[-1] == ("prune", False, {"label": ["x"]})
    server.cli("image", "prune", "-f", "-a", check=True)
    assert server.images.calls[-1] == ("prune", True, {})


def test_save_load_import(server: Server) -> None:
    assert server.cli("save", "busybox").stdout == b"x" * (64 << 16)
    missing = server.cli("save", "nothing")
    assert (missing.returncode, missing.stdout, b"No such image" in missing.stderr) == (1, b"", True)
    data = b"archive" * 100_000
    assert server.cli("load", input=data).stdout == b"Loaded image: busybox:latest\n"
    assert server.images.loaded == data
    done = server.cli("import", "-c", "CMD sh", "-m", "why", "-", "name:tag", input=b"y" * 70_000)
    assert done.stdout.decode() == f"{IMAGE.id}\n"
    assert server.images.calls[-1] == ("import", 70_000, "name:tag", ["CMD sh"], "why", None)


def test_what_is_not_there_is_refused_in_words(server: Server) -> None:
    assert b"searching registries is not supported" in server.cli("search", "busybox").stderr
    (server.home / "Dockerfile").write_text("FROM busybox\n")
    built = subprocess.run(
        ["docker", *server.cli_options(), "build", "-q", str(server.home)], capture_output=True, timeout=SECONDS,
        env={**server.environment, "DOCKER_BUILDKIT": "0"}, check=False,
    )  # fmt: skip
    assert b"building images is not supported yet" in built.stderr


def test_networks(server: Server) -> None:
    done = server.cli(
        "network", "create", "-d", "macvlan", "-o", "parent=eth1", "--subnet", "10.9.0.0/24", "--gateway", "10.9.0.1",
        "--label", "a=b", "--internal", "lan",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    record = server.networks.networks["lan"]
    assert (record.driver, record.given, record.labels, record.internal) == (
        "macvlan",
        {"parent": "eth1"},
        {"a": "b"},
        True,
    )
    assert str(record.pools[0].gateway) == "10.9.0.1"
    assert server.cli("network", "ls", "--format", "{{.Name}} {{.Driver}} {{.Scope}}").stdout == b"lan macvlan local\n"
    assert server.cli("network", "inspect", "-f", "{{(index .IPAM.Config 0).Subnet}}", "lan").stdout == b"10.9.0.0/24\n"
    assert b"network nothing not found" in server.cli("network", "inspect", "nothing").stderr
    assert b"already exists" in server.cli("network", "create", "lan").stderr
    server.cli("create", "--name", "c", "busybox", check=True)
    server.cli("network", "connect", "--ip", "10.9.0.7", "--alias", "x", "lan", "c", check=True)
    kind, network, container, settings = server.containers.calls[-1]
    assert (kind, network, container, settings.aliases) == ("connect", "lan", "c", ["x"])
    assert settings.ipam_config.ipv4_address == "10.9.0.7"
    server.cli("network", "disconnect", "-f", "lan", "c", check=True)
    assert server.containers.calls[-1] == ("disconnect", "lan", "c", True)
    assert server.cli("network", "prune", "-f", "--filter", "until=24h").returncode == 0
    wanted, until = server.networks.pruned[0]
    assert list(wanted) == ["until"]
    assert until is not None
    assert server.cli("network", "rm", "lan").returncode == 0
    assert server.networks.networks == {}


def test_volumes(server: Server) -> None:
    server.cli("volume", "create", "-d", "local", "-o", "type=tmpfs", "--label", "a=b", "data", check=True)
    assert server.volumes.volumes["data"].given == {"type": "tmpfs"}
    assert server.cli("volume", "ls", "-q").stdout == b"data\n"
    assert server.cli("volume", "inspect", "-f", "{{.Mountpoint}} {{.Labels.a}}", "data").stdout == b"/m b\n"
    assert b"get nothing: no such volume" in server.cli("volume", "rm", "nothing").stderr
    assert b"Total reclaimed space: 4.096kB" in server.cli("volume", "prune", "-f").stdout
    assert server.volumes.pruned == [{}]
    assert server.cli("volume", "rm", "data").stdout == b"data\n"
    assert server.request("POST", "/v1.41/volumes/prune")[0] == 200
    assert server.volumes.pruned[-1] == {"all": ["true"]}


def test_disk_usage(server: Server) -> None:
    server.volumes.create("data", "", None, None)
    lines = server.cli("system", "df", "--format", "{{.Type}} {{.TotalCount}} {{.Size}}").stdout.decode().splitlines()
    assert lines == ["Images 1 1.235MB", "Containers 0 0B", "Local Volumes 1 4.096kB", "Build Cache 0 0B"]


def test_drivers_and_doctor(server: Server) -> None:
    status, found, _ = server.request("GET", "/engine/drivers?kind=network")
    assert status == 200
    assert {"bridge", "host", "none", "macvlan"} <= {d["Name"] for d in found}
    assert {d["Kind"] for d in found} == {"network"}
    status, shown, _ = server.request("GET", "/v1.43/engine/drivers/network/macvlan")
    assert status == 200
    assert "parent" in shown["Options"]["properties"]
    assert shown["Doc"]
    assert server.request("POST", "/engine/drivers/network/macvlan/check")[1]["Status"] == "ok"
    status, error, _ = server.request("GET", "/engine/drivers/network/maclan")
    assert status == 404
    assert "Did you mean 'macvlan'?" in error["message"]
    assert server.request("GET", "/engine/drivers/colour/red")[0] == 404

    status, found, _ = server.request("GET", "/engine/doctor")
    assert [d["detail"] for d in found["differences"]] == ["differs: mtu 1400 instead of 1500"]
    status, found, _ = server.request("POST", "/engine/doctor?repair=1")
    assert (len(found["repaired"]), found["differences"]) == (1, [])
    assert server.request("GET", "/engine/doctor")[1] == {"differences": []}


def test_default_network_and_its_plan(server: Server) -> None:
    body = {"Driver": "bridge", "Options": {"mtu": "1400"}}
    status, made, _ = server.request("POST", "/engine/network/default", body)
    assert (status, made["Name"], made["Options"]) == (200, "bridge", {"mtu": "1400"})
    assert server.request("POST", "/engine/network/default", body)[1]["Id"] == made["Id"]
    status, plan, _ = server.request("GET", "/engine/networks/bridge/plan")
    assert [(r["resource"], r["state"]) for r in plan["resources"]] == [
        ("link/host/br-1", "differs"), ("address/sandbox/br-1/10.9.0.1/24", "ok"), ("link/host/stray0", "unwanted"),
    ]  # fmt: skip
    assert plan["resources"][0]["fields"] == {"mtu": ["1400", "1500"]}
    assert plan["resources"][1]["definition"]["kind"] == "address"
