"""What a container is to run: frozen values that the caller fills in and `oci_spec` turns into an OCI runtime
spec.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

SECCOMP_DEFAULT = "default"
SECCOMP_UNCONFINED = "unconfined"
HOST = "host"
PRIVATE = "private"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """One mount of the container; `type` is `bind` or a file system, `options` are those of mount(8)."""

    target: str
    source: str = ""
    type: str = "bind"
    options: tuple[str, ...] = ("rbind",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """`--device host:container:access`; a directory stands for every device node in it."""

    host: str
    container: str = ""
    access: str = "rwm"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ulimit:
    """`--ulimit name=soft:hard`; name as docker's (`nofile`), -1 is unlimited."""

    name: str
    soft: int
    hard: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """Limits; 0 or an empty string means not set. Memory in bytes, CPU times in microseconds.

    `memory_swap` is memory plus swap as docker's: 0 gives twice the memory, -1 unlimited. `nano_cpus` is `--cpus`
    times 10^9.
    """

    memory: int = 0
    memory_swap: int = 0
    memory_reservation: int = 0
    memory_swappiness: int | None = None
    oom_kill_disable: bool = False
    nano_cpus: int = 0
    cpu_shares: int = 0
    cpu_period: int = 0
    cpu_quota: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    pids_limit: int = 0
    blkio_weight: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSpec:
    """The process: `env` is `NAME=value`, `user` is `name|uid[:group|gid]`, `console_size` is (rows, columns)."""

    args: tuple[str, ...]
    env: tuple[str, ...] = ()
    cwd: str = "/"
    user: str = ""
    groups: tuple[str, ...] = ()
    tty: bool = False
    console_size: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecSpec:
    """A further process in a running container; empty `user` and `cwd` are those of the container."""

    args: tuple[str, ...]
    env: tuple[str, ...] = ()
    cwd: str = ""
    user: str = ""
    tty: bool = False
    console_size: tuple[int, int] | None = None
    privileged: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerSpec:
    """Everything that the OCI runtime needs to know of one container.

    `network`, `ipc`, `pid`, `uts` and `cgroupns` are `host`, `private` or the path of a namespace; `cgroupns` may be
    empty: private on cgroup v2, host on v1, as docker. `tmpfs` maps a target to docker's option string. `shm_path` is
    a directory to use as /dev/shm (a shared IPC namespace) instead of a new tmpfs of `shm_size` bytes. `seccomp` is
    `default`, `unconfined` or the path of a profile in docker's format. `default_sysctls` are docker's two network
    ones; leave them out where the network namespace is another container's.
    """

    id: str
    process: ProcessSpec
    rootfs: Path
    readonly: bool = False
    hostname: str = ""
    domainname: str = ""
    mounts: tuple[Mount, ...] = ()
    tmpfs: Mapping[str, str] = field(default_factory=dict)
    shm_size: int = 64 * 1024 * 1024
    shm_path: str = ""
    devices: tuple[Device, ...] = ()
    device_cgroup_rules: tuple[str, ...] = ()
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    privileged: bool = False
    seccomp: str = SECCOMP_DEFAULT
    no_new_privileges: bool = False
    unmask: bool = False
    sysctls: Mapping[str, str] = field(default_factory=dict)
    default_sysctls: bool = True
    ulimits: tuple[Ulimit, ...] = ()
    resources: Resources = Resources()
    oom_score_adj: int = 0
    cgroup_path: str = ""
    network: str = PRIVATE
    ipc: str = PRIVATE
    pid: str = PRIVATE
    uts: str = PRIVATE
    cgroupns: str = ""
    init: bool = False
    rootfs_propagation: str = ""
    annotations: Mapping[str, str] = field(default_factory=dict)
