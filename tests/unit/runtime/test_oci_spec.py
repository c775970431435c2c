"""The OCI configuration: defaults, privileged, limits, and what is refused."""

from __future__ import annotations

import json
import os
import resource
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.runtime import capabilities, oci_spec, resources
from engine.runtime.cgroup import Hierarchy
from engine.runtime.devices import cgroup_rule
from engine.runtime.model import ContainerSpec, Device, ExecSpec, Mount, ProcessSpec, Resources, Ulimit
from engine.runtime.mounts import all_mounts
from engine.runtime.oci_spec import exec_process, oci_config
from engine.spec.errors import EngineError, InvalidParameter, Unsupported

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(autouse=True)
def fixed_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host with cgroup v1, all capabilities and two devices, whatever this one is."""
    groups = Hierarchy(unified=False, root=Path("/cg"), controllers={})
    monkeypatch.setattr(oci_spec, "hierarchy", lambda: groups)
    monkeypatch.setattr(resources, "swap_accounting", lambda: True)
    monkeypatch.setattr(capabilities, "available", lambda: frozenset(capabilities.ALL))
    node = {"path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o666, "uid": 0, "gid": 0}
    monkeypatch.setattr(oci_spec.devices, "host_devices", lambda: [node])


@pytest.fixture
def spec(tmp_path: Path) -> ContainerSpec:
    return ContainerSpec(id="c" * 64, process=ProcessSpec(args=("sh",)), rootfs=tmp_path, seccomp="unconfined")


def check_golden(name: str, config: dict[str, Any], rootfs: Path) -> None:
    config["root"]["path"] = "ROOTFS" if config["root"]["path"] == str(rootfs) else config["root"]["path"]
    file = GOLDEN / f"{name}.json"
    if os.environ.get("UPDATE_GOLDEN"):
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(config, indent=1) + "\n")
    assert config == json.loads(file.read_text())


def test_defaults(spec: ContainerSpec) -> None:
    check_golden("defaults", oci_config(spec), spec.rootfs)


def test_privileged(spec: ContainerSpec) -> None:
    config = oci_config(replace(spec, privileged=True, seccomp="default"))
    assert "seccomp" not in config["linux"]
    assert "maskedPaths" not in config["linux"]
    check_golden("privileged", config, spec.rootfs)


def test_everything_set(spec: ContainerSpec) -> None:
    full = replace(
        spec,
        process=ProcessSpec(
            args=("app", "-x"), env=("PATH=/app", "TERM=dumb", "GONE"), cwd="/srv", user="7:8", groups=("9",), tty=True,
            console_size=(24, 80),
        ),
        readonly=True,
        hostname="box",
        domainname="example",
        mounts=(Mount(target="/data/deep", source="/b"), Mount(target="/data", source="/a", options=("bind", "ro"))),
        tmpfs={"/run": "size=1m,exec"},
        cap_add=("net_admin",),
        cap_drop=("CAP_CHOWN",),
        no_new_privileges=True,
        sysctls={"net.core.somaxconn": "10"},
        device_cgroup_rules=("c 42:* rw",),
        resources=Resources(
            memory=64 << 20, memory_reservation=32 << 20, nano_cpus=1_500_000_000, cpu_shares=512, cpuset_cpus="0-1",
            pids_limit=99, blkio_weight=300, memory_swappiness=0, oom_kill_disable=True,
        ),
        oom_score_adj=500,
        cgroup_path="/engine/x",
        network="/run/ns/x",
        ipc="host",
        pid="host",
        uts="private",
        shm_path="/shared/shm",
        rootfs_propagation="rslave",
        annotations={"a": "b"},
    )  # fmt: skip
    config = oci_config(full)
    config["mounts"] = [mount for mount in config["mounts"] if mount["destination"] != "/dev/mqueue"]  # host dependent
    check_golden("everything", config, spec.rootfs)


def test_seccomp_is_inserted(spec: ContainerSpec, tmp_path: Path) -> None:
    profile = tmp_path / "profile.json"
    profile.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["x"], "action": "A"}]}))
    config = oci_config(replace(spec, seccomp=str(profile)))
    assert config["linux"]["seccomp"] == {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["x"], "action": "A"}],
    }


def test_user_mount_replaces_a_default(spec: ContainerSpec) -> None:
    mounts = all_mounts(replace(spec, mounts=(Mount(target="/dev/shm/", source="/x"),)))
    assert [mount["source"] for mount in mounts if mount["destination"] == "/dev/shm"] == ["/x"]


def test_tmpfs_options(spec: ContainerSpec) -> None:
    mounts = all_mounts(replace(spec, tmpfs={"/a": "", "/b": "exec,size=5m"}))
    options = {mount["destination"]: mount["options"] for mount in mounts}
    assert options["/a"] == ["nosuid", "noexec", "nodev"]
    assert options["/b"] == ["nosuid", "nodev", "exec", "size=5m"]


@pytest.mark.parametrize(
    "changes",
    [
        {"mounts": (Mount(target="relative", source="/x"),)},
        {"mounts": (Mount(target="/", source="/x"),)},
        {"mounts": (Mount(target="/a", source="/x"), Mount(target="/a/", source="/y"))},
        {"cap_add": ("NO_SUCH",)},
        {"devices": (Device(host="/no/such/device"),)},
        {"devices": (Device(host="/etc/passwd"),)},
        {"devices": (Device(host="/dev/null", access="x"),)},
        {"device_cgroup_rules": ("x 1:2 r",)},
        {"sysctls": {"net.core.somaxconn": "1"}, "network": "host"},
        {"sysctls": {"kernel.shmmax": "1"}, "ipc": "host"},
        {"sysctls": {"vm.swappiness": "1"}},
        {"sysctls": {"net.../etc": "1"}},
        {"network": "nonsense"},
        {"ulimits": (Ulimit(name="nonsense", soft=1, hard=1),)},
        {"ulimits": (Ulimit(name="nofile", soft=2, hard=1),)},
        {"resources": Resources(memory=1)},
        {"resources": Resources(memory_swap=1 << 30)},
        {"resources": Resources(memory=1 << 30, memory_swap=1 << 20)},
        {"resources": Resources(memory=1 << 30, memory_reservation=1 << 31)},
        {"resources": Resources(nano_cpus=1, cpu_quota=1)},
        {"process": ProcessSpec(args=())},
        {"process": ProcessSpec(args=("x",), cwd="relative")},
        {"process": ProcessSpec(args=("x",), user="nobody-here")},
        {"process": ProcessSpec(args=("x",), user="0:nobody-here")},
        {"seccomp": "/no/such/profile"},
    ],
)
def test_refused(spec: ContainerSpec, changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidParameter):
        oci_config(replace(spec, **changes))


def test_capability_arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(capabilities.effective((), ())) == set(capabilities.DEFAULT)
    assert capabilities.effective((), ("ALL",)) == ()
    assert capabilities.effective(("chown",), ("all",)) == ("CAP_CHOWN",)
    assert capabilities.effective(("ALL",), ()) == capabilities.ALL
    assert "CAP_SYS_ADMIN" not in capabilities.effective(("ALL",), ("SYS_ADMIN",))
    assert capabilities.effective((), (), privileged=True) == capabilities.ALL
    monkeypatch.setattr(capabilities, "available", lambda: frozenset({"CAP_CHOWN", "CAP_KILL"}))
    assert capabilities.effective(("ALL",), ()) == ("CAP_CHOWN", "CAP_KILL")
    with pytest.raises(Unsupported):
        capabilities.effective(("SYS_ADMIN",), ())


def test_capability_numbers_are_the_kernels() -> None:
    assert capabilities.ALL.index("CAP_NET_ADMIN") == 12
    assert capabilities.ALL.index("CAP_SYS_ADMIN") == 21
    assert capabilities.ALL.index("CAP_CHECKPOINT_RESTORE") == 40


def test_rlimits_are_lowered_to_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (100, 200))
    assert resources.rlimits([Ulimit(name="nofile", soft=-1, hard=-1)]) == [
        {"type": "RLIMIT_NOFILE", "soft": 200, "hard": 200}
    ]
    monkeypatch.setattr(resource, "getrlimit", lambda _: (100, resource.RLIM_INFINITY))
    assert resources.rlimits([Ulimit(name="nofile", soft=5, hard=-1)])[0]["hard"] == 2**64 - 1


def test_directory_of_devices(spec: ContainerSpec) -> None:
    config = oci_config(replace(spec, devices=(Device(host="/dev", container="/x", access="r"),)))
    assert any(node["path"] == "/x/null" for node in config["linux"]["devices"])


def test_device_rule() -> None:
    assert cgroup_rule("c 42:* rw") == {"allow": True, "type": "c", "major": 42, "access": "rw"}


def test_exec_process(spec: ContainerSpec) -> None:
    config = oci_config(replace(spec, process=ProcessSpec(args=("sh",), env=("A=1", "B=2"), cwd="/w", user="5")))
    plain = exec_process(config, ExecSpec(args=("ls",)))
    assert (plain["args"], plain["cwd"], plain["user"]["uid"], plain["terminal"]) == (["ls"], "/w", 5, False)
    other = exec_process(config, ExecSpec(args=("ls",), env=("B=3",), user="6:7", tty=True, console_size=(1, 2)))
    assert {"A=1", "B=3", "TERM=xterm"} <= set(other["env"])
    assert "B=2" not in other["env"]
    assert (other["user"]["uid"], other["user"]["gid"]) == (6, 7)
    assert other["consoleSize"] == {"height": 1, "width": 2}
    strong = exec_process(config, ExecSpec(args=("ls",), privileged=True))
    assert strong["capabilities"]["bounding"] == list(capabilities.ALL)


def test_init(spec: ContainerSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oci_spec, "find_init", lambda: "/opt/tini")
    config = oci_config(replace(spec, init=True))
    assert config["process"]["args"] == ["/sbin/docker-init", "--", "sh"]
    assert any(m["destination"] == "/sbin/docker-init" and m["source"] == "/opt/tini" for m in config["mounts"])


def test_init_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oci_spec, "_INIT_DIRECTORIES", ("/no/such/directory",))
    with pytest.raises(EngineError) as caught:
        oci_spec.find_init.__wrapped__()
    assert "apt install" in caught.value.hint


def test_static_binaries(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\n")
    assert not oci_spec.is_static(str(script))
