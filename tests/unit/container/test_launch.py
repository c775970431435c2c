"""From a create request and an image's configuration to what the runtime is told."""

from pathlib import Path
from typing import Any

import pytest

from engine.container.config import Config, CreateRequest, HostConfig
from engine.container.launch import Security, command, container_spec, merge_image, process, resources
from engine.container.record import Container, MountPoint
from engine.spec.errors import InvalidParameter

IMAGE = {
    "Entrypoint": ["/entry"],
    "Cmd": ["serve"],
    "Env": ["PATH=/bin", "MODE=image"],
    "WorkingDir": "/srv",
    "User": "app",
    "Labels": {"a": "image", "b": "image"},
    "Volumes": {"/data": {}},
    "ExposedPorts": {"80/tcp": {}},
    "StopSignal": "SIGQUIT",
}


def make(**host: Any) -> Container:
    config = merge_image(Config(cmd=["true"], hostname="h"), {})
    return Container(
        id="a" * 64,
        name="n",
        created="2026-01-01T00:00:00Z",
        image_id="sha256:x",
        image_ref="x",
        config=config,
        host_config=HostConfig(**host),
        path="true",
    )


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, ["/entry", "serve"]),
        ({"cmd": ["other"]}, ["/entry", "other"]),
        ({"entrypoint": ["/mine"]}, ["/mine"]),
        ({"entrypoint": ["/mine"], "cmd": ["x"]}, ["/mine", "x"]),
        ({"entrypoint": [""], "cmd": ["x"]}, ["x"]),
        ({"cmd": "text"}, ["/entry", "text"]),
    ],
)
def test_entrypoint_and_command(given: dict[str, Any], expected: list[str]) -> None:
    assert command(merge_image(Config.model_validate(given), IMAGE)) == expected


def test_what_a_person_gave_wins_over_the_image() -> None:
    given = Config(env=["MODE=mine", "NEW=1"], labels={"a": "mine"}, user="root", volumes={"/more": {}})
    merged = merge_image(given, IMAGE)
    assert merged.env == ["PATH=/bin", "MODE=mine", "NEW=1"]
    assert merged.labels == {"a": "mine", "b": "image"}
    assert (merged.user, merged.working_dir, merged.stop_signal) == ("root", "/srv", "SIGQUIT")
    assert set(merged.volumes) == {"/data", "/more"}
    assert given.env == ["MODE=mine", "NEW=1"], "the request is not changed"


def test_nothing_to_run_is_refused() -> None:
    with pytest.raises(InvalidParameter, match="no command specified"):
        merge_image(Config(), {})


def test_environment_has_path_hostname_and_term() -> None:
    container = make()
    container.config.tty = True
    container.config.env = ["A=1", "UNSET"]
    env = process(container).env
    assert env[0].startswith("PATH=")
    assert {"HOSTNAME=h", "TERM=xterm", "A=1"} <= set(env)
    assert not any(e.startswith("UNSET") for e in env)


@pytest.mark.parametrize(
    ("host", "why"),
    [
        ({"memory": 1}, "minimum memory"),
        ({"memory_swap": 1 << 30}, "memory limit"),
        ({"memory": 64 << 20, "memory_swap": 32 << 20}, "larger than memory"),
        ({"nano_cpus": 1, "cpu_quota": 1}, "conflicting"),
    ],
)
def test_contradicting_limits_are_refused(host: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidParameter, match=why):
        resources(HostConfig(**host))


def test_security_options() -> None:
    assert Security.parse(["seccomp=unconfined", "no-new-privileges"]) == Security("unconfined", True)
    assert Security.parse(["no-new-privileges=false", "label=disable"]) == Security()
    with pytest.raises(InvalidParameter, match="seccmp"):
        Security.parse(["seccmp=x"])


def test_specification() -> None:
    container = make(privileged=True, sysctls={"net.core.somaxconn": "1"}, memory=64 << 20, cap_add=["NET_ADMIN"])
    container.mounts = [MountPoint(type="tmpfs", target="/t", options="size=1m")]
    spaces = {"ipc": "private", "pid": "host", "uts": "private"}
    spec = container_spec(container, rootfs=Path("/r"), mounts=(), network="/n", namespaces=spaces, cgroup="/engine/x")
    assert spec.process.args == ("true",)
    assert (spec.privileged, spec.pid, spec.network, spec.cgroup_path) == (True, "host", "/n", "/engine/x")
    assert spec.tmpfs == {"/t": "size=1m"}
    assert spec.resources.memory == 64 << 20


def test_request_reads_dockers_words_and_names_what_is_wrong() -> None:
    body = {"Image": "x", "Cmd": None, "HostConfig": {"UTSMode": "host", "Binds": None, "NetDriver": "macvlan"}}
    request = CreateRequest.parse(body)
    assert (request.image, request.cmd, request.host_config.uts_mode) == ("x", None, "host")
    assert request.host_config.net_driver == "macvlan"
    assert request.host_config.docker()["ContainerIDFile"] == ""
    with pytest.raises(InvalidParameter, match=r"HostConfig\.Memory"):
        CreateRequest.parse({"HostConfig": {"Memory": "lots"}})


def test_an_update_changes_limits_and_the_restart_policy_and_nothing_else() -> None:
    before = HostConfig.parse({"Memory": 64 << 20, "RestartPolicy": {"Name": "always"}, "Binds": ["/a:/a"]})
    limits = {"PidsLimit": 17, "Memory": 0, "Devices": None, "Ulimits": [], "RestartPolicy": {"Name": ""}}
    after = before.changed(limits)  # as docker's client sends it: every field, and an empty policy
    assert after == before.model_copy(update={"pids_limit": 17})
    again = after.changed({"RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3}})
    assert again.restart_policy.maximum_retry_count == 3


@pytest.mark.parametrize(
    "field",
    [{"Privileged": True}, {"Binds": ["/:/host"]}, {"CapAdd": ["SYS_ADMIN"]}, {"NetworkMode": "host"},
     {"PidMode": "host"}, {"SecurityOpt": ["seccomp=unconfined"]}, {"Devices": [{"PathOnHost": "/dev/sda"}]},
     {"UTSMode": "host"}, {"ContainerIDFile": "/x"}, {"Runtime": "runc"}],
)  # fmt: skip
def test_an_update_cannot_open_what_create_closed(field: dict[str, Any]) -> None:
    with pytest.raises(InvalidParameter, match=f"^{next(iter(field))} cannot be changed"):
        HostConfig().changed({"Memory": 64 << 20, **field})
