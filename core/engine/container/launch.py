"""From a container's configuration to what the runtime is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.container.config import Config, HostConfig
from engine.container.ports import parse_port
from engine.container.record import Container
from engine.runtime.model import HOST, PRIVATE, ContainerSpec, Device, Mount, ProcessSpec, Resources, Ulimit
from engine.spec.errors import InvalidParameter

DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MEMORY_MINIMUM = 6 << 20
"""Bytes; below this a container cannot start (Docker refuses the same)."""


@dataclass(frozen=True)
class Security:
    """What `--security-opt` says."""

    seccomp: str = "default"
    no_new_privileges: bool = False
    unmask: bool = False

    @classmethod
    def parse(cls, options: Sequence[str]) -> Security:
        """Read the options; AppArmor and SELinux labels are not applied. Raises InvalidParameter for an unknown one."""
        seccomp, no_new, unmask = "default", False, False
        for option in options:
            name, separator, value = option.partition("=" if "=" in option else ":")
            if name == "seccomp" and value:
                seccomp = value
            elif name == "no-new-privileges":
                no_new = not separator or value == "true"
            elif name == "systempaths" and value == "unconfined":
                unmask = True
            elif name not in ("apparmor", "label"):
                raise InvalidParameter(
                    f"invalid --security-opt: {option!r}",
                    hint="Known: seccomp=PROFILE|unconfined, no-new-privileges, systempaths=unconfined.",
                )
        return cls(seccomp, no_new, unmask)


def merge_image(config: Config, given: Mapping[str, Any]) -> Config:
    """Return a configuration completed by that of the image `given`: what a person gave wins.

    A given entrypoint drops the image's command, as Docker has it. Raises InvalidParameter when there is nothing to
    run, or the image's configuration is not of the types that it must have: what is stored must be readable.
    """
    image = _checked(given)
    merged = config.model_copy(deep=True)
    if not merged.entrypoint and merged.entrypoint != [""]:
        merged.entrypoint = image.entrypoint or None
        if merged.cmd is None:
            merged.cmd = image.cmd or None
    if merged.entrypoint == [""]:
        merged.entrypoint = None
    variables = {e.partition("=")[0] for e in merged.env}
    merged.env = [e for e in image.env if e.partition("=")[0] not in variables] + merged.env
    merged.user = merged.user or image.user
    merged.working_dir = merged.working_dir or image.working_dir
    merged.stop_signal = merged.stop_signal or image.stop_signal
    merged.labels = image.labels | merged.labels
    for port in merged.exposed_ports:
        parse_port(port)
    merged.exposed_ports = {p: v for p, v in image.exposed_ports.items() if _is_port(p)} | merged.exposed_ports
    merged.volumes = image.volumes | merged.volumes
    if not (merged.entrypoint or merged.cmd):
        raise InvalidParameter("no command specified", hint="The image has none: say what to run after its name.")
    return merged


def _checked(image: Mapping[str, Any]) -> Config:
    try:
        return Config.parse(image)
    except InvalidParameter as err:
        raise InvalidParameter("the image's configuration is invalid", why=err.why) from err


def _is_port(name: str) -> bool:
    """Tell whether what an image exposes is a port; one that is none is as if it were not there."""
    try:
        parse_port(name)
    except InvalidParameter:
        return False
    return True


def command(config: Config) -> list[str]:
    """Return the arguments of the container's first process."""
    return [*(config.entrypoint or []), *(config.cmd or [])]


def resources(host: HostConfig) -> Resources:
    """Return the limits. Raises InvalidParameter for those that contradict each other."""
    if host.memory and host.memory < MEMORY_MINIMUM:
        raise InvalidParameter(f"minimum memory limit allowed is {MEMORY_MINIMUM >> 20}MB")
    if host.memory_swap > 0 and not host.memory:
        raise InvalidParameter("you should always set the memory limit when using the memoryswap limit")
    if 0 < host.memory_swap < host.memory:
        raise InvalidParameter("minimum memoryswap limit should be larger than memory limit")
    if host.memory_reservation and host.memory and host.memory_reservation > host.memory:
        raise InvalidParameter("minimum memory limit can not be less than memory reservation limit")
    if host.nano_cpus and (host.cpu_period or host.cpu_quota):
        raise InvalidParameter("conflicting options: --cpus and --cpu-period or --cpu-quota")
    if host.nano_cpus < 0:
        raise InvalidParameter("the number of CPUs must not be negative")
    return Resources(
        memory=host.memory,
        memory_swap=host.memory_swap,
        memory_reservation=host.memory_reservation,
        memory_swappiness=host.memory_swappiness,
        oom_kill_disable=host.oom_kill_disable,
        nano_cpus=host.nano_cpus,
        cpu_shares=host.cpu_shares,
        cpu_period=host.cpu_period,
        cpu_quota=host.cpu_quota,
        cpuset_cpus=host.cpuset_cpus,
        cpuset_mems=host.cpuset_mems,
        pids_limit=max(host.pids_limit, 0),
        blkio_weight=host.blkio_weight,
    )


def process(container: Container) -> ProcessSpec:
    """Return the container's first process."""
    config, host = container.config, container.host_config
    env = list(config.env)
    if not any(e.startswith("PATH=") for e in env):
        env.insert(0, DEFAULT_PATH)
    env.insert(1, f"HOSTNAME={config.hostname}")
    if config.tty and not any(e.startswith("TERM=") for e in env):
        env.append("TERM=xterm")
    rows, columns = host.console_size
    return ProcessSpec(
        args=(container.path, *container.args),
        # `NAME` without a value unsets what the image gives.
        env=tuple(e for e in env if "=" in e),
        cwd=config.working_dir or "/",
        user=config.user,
        groups=tuple(host.group_add),
        tty=config.tty,
        console_size=(rows, columns) if rows and columns else None,
    )


def container_spec(
    container: Container,
    *,
    rootfs: Path,
    mounts: Sequence[Mount],
    network: str,
    namespaces: Mapping[str, str],
    cgroup: str,
) -> ContainerSpec:
    """Return what the runtime builds the container from.

    `network` is "host" or the path of its network namespace; `namespaces` maps ipc, pid and uts to "host",
    "private" or a path, already resolved.
    """
    config, host = container.config, container.host_config
    security = Security.parse(host.security_opt)
    return ContainerSpec(
        id=container.id,
        process=process(container),
        rootfs=rootfs,
        readonly=host.readonly_rootfs,
        hostname="" if namespaces["uts"] == HOST else config.hostname,
        domainname=config.domainname,
        mounts=tuple(mounts),
        tmpfs={m.target: m.options for m in container.mounts if m.type == "tmpfs"},
        shm_size=host.shm_size or 64 << 20,
        devices=tuple(
            Device(host=d.path_on_host, container=d.path_in_container, access=d.cgroup_permissions)
            for d in host.devices
        ),
        device_cgroup_rules=tuple(host.device_cgroup_rules),
        cap_add=tuple(host.cap_add),
        cap_drop=tuple(host.cap_drop),
        privileged=host.privileged,
        seccomp=security.seccomp,
        no_new_privileges=security.no_new_privileges,
        unmask=security.unmask,
        sysctls=host.sysctls,
        default_sysctls=container.sandbox == PRIVATE,
        ulimits=tuple(Ulimit(name=u.name, soft=u.soft, hard=u.hard) for u in host.ulimits),
        resources=resources(host),
        oom_score_adj=host.oom_score_adj,
        cgroup_path=cgroup,
        network=network,
        ipc=namespaces["ipc"],
        pid=namespaces["pid"],
        uts=namespaces["uts"],
        cgroupns=host.cgroupns_mode,
        init=host.init,
        annotations=host.annotations,
    )
