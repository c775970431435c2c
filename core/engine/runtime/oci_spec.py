"""ContainerSpec -> OCI runtime-spec 1.0 configuration, with docker's defaults."""

from __future__ import annotations

import functools
import json
import os
import re
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from engine.directories import CONTAINER_UMASK
from engine.runtime import bpf, capabilities, devices, seccomp
from engine.runtime.cgroup import hierarchy
from engine.runtime.model import (
    HOST,
    PRIVATE,
    SECCOMP_DEFAULT,
    SECCOMP_UNCONFINED,
    ContainerSpec,
    ExecSpec,
    ProcessSpec,
)
from engine.runtime.mounts import all_mounts
from engine.runtime.resources import linux_resources, rlimits
from engine.runtime.users import User, resolve_user
from engine.spec.errors import InvalidParameter, Unsupported

OCI_VERSION = "1.0.2"
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
INIT_TARGET = "/sbin/docker-init"

_MASKED = (
    *(f"/proc/{name}" for name in ("asound", "acpi", "interrupts", "kcore", "keys", "latency_stats", "timer_list")),
    *(f"/proc/{name}" for name in ("timer_stats", "sched_debug", "scsi")),
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
)
_READONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
_INIT_NAMES = ("docker-init", "catatonit", "tini-static", "tini")
_INIT_DIRECTORIES = (
    "/usr/libexec/docker",
    "/usr/libexec/podman",
    "/usr/lib/podman",
    "/usr/bin",
    "/usr/sbin",
    "/bin",
    "/sbin",
)

# Sysctls that belong to a namespace (moby opts.ValidateSysctl); others would change the host.
_IPC_SYSCTLS = frozenset(
    f"kernel.{name}" for name in ("msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced")
)
_UTS_SYSCTLS = frozenset({"kernel.domainname", "kernel.hostname"})
# Docker since 20.10: low ports and ping need no privilege in a network namespace of one's own.
_DEFAULT_SYSCTLS = {"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647"}
# Marks where the profile goes in; random, so that no text of a user can be taken for it.
_SECCOMP_SLOT = secrets.token_hex(16)
_SECCOMP_SLOT_JSON = json.dumps(_SECCOMP_SLOT)


def oci_config(spec: ContainerSpec) -> dict[str, Any]:
    """The OCI configuration as a dictionary; the root file system must be in place, its user database is read.

    Raises InvalidParameter, Unsupported, or Unavailable when the default seccomp profile is asked for and missing.
    """
    return dict(json.loads(oci_config_text(spec)))


def oci_config_text(spec: ContainerSpec) -> str:
    """The same as JSON text, which is what the hot path needs: the large seccomp part is inserted as text made
    earlier.
    """
    caps = capabilities.effective(spec.cap_add, spec.cap_drop, privileged=spec.privileged)
    init_binary = find_init() if spec.init else ""
    profile = _seccomp(spec, caps)
    config: dict[str, Any] = {
        "ociVersion": OCI_VERSION,
        "process": _process(spec, caps),
        "root": {"path": str(spec.rootfs), "readonly": spec.readonly},
        "mounts": all_mounts(spec, init_binary=init_binary),
        "linux": _linux(spec),
    }
    if spec.hostname and spec.uts != HOST:
        config["hostname"] = spec.hostname
    if spec.domainname and spec.uts != HOST:
        config["linux"]["sysctl"]["kernel.domainname"] = spec.domainname
    annotations = dict(spec.annotations)
    if profile:
        config["linux"]["seccomp"] = _SECCOMP_SLOT
        program = bpf.compiled(profile)
        if program:
            annotations[bpf.ANNOTATION] = program
    if annotations:
        config["annotations"] = annotations
    text = json.dumps(config, separators=(",", ":"))
    return text.replace(_SECCOMP_SLOT_JSON, profile, 1) if profile else text


def exec_process(config: Mapping[str, Any], spec: ExecSpec) -> dict[str, Any]:
    """The OCI process object of an exec, from the container's own configuration. Raises InvalidParameter."""
    base: Mapping[str, Any] = config["process"]
    process: dict[str, Any] = {
        **base,
        "args": _arguments(spec.args),
        "terminal": spec.tty,
        "cwd": spec.cwd or base["cwd"],
    }
    process.pop("consoleSize", None)
    inherited = [entry for entry in base["env"] if not (entry.startswith("TERM=") and not spec.tty)]
    user = base["user"]
    if spec.user:
        user = _oci_user(resolve_user(Path(config["root"]["path"]), spec.user))
    process["user"] = user
    process["env"] = _merge_env(inherited, ["TERM=xterm"] if spec.tty else [], spec.env)
    if spec.console_size and spec.tty:
        process["consoleSize"] = {"height": spec.console_size[0], "width": spec.console_size[1]}
    if spec.privileged:
        process["capabilities"] = _oci_capabilities(capabilities.effective((), (), privileged=True))
    return process


def _process(spec: ContainerSpec, caps: Sequence[str]) -> dict[str, Any]:
    asked = spec.process
    user = resolve_user(spec.rootfs, asked.user, asked.groups)
    args = _arguments(asked.args)
    if spec.init:
        args = [INIT_TARGET, "--", *args]
    cwd = asked.cwd or "/"
    if not cwd.startswith("/"):
        raise InvalidParameter(
            f"the working directory '{cwd}' is invalid, it needs to be an absolute path",
            hint="Give an absolute path to -w",
        )
    process: dict[str, Any] = {
        "terminal": asked.tty,
        "user": _oci_user(user),
        "args": args,
        "env": _environment(spec, asked),
        "cwd": cwd,
        "capabilities": _oci_capabilities(caps),
        "noNewPrivileges": spec.no_new_privileges,
    }
    if asked.tty and asked.console_size:
        process["consoleSize"] = {"height": asked.console_size[0], "width": asked.console_size[1]}
    if spec.ulimits:
        process["rlimits"] = rlimits(spec.ulimits)
    if spec.oom_score_adj:
        process["oomScoreAdj"] = spec.oom_score_adj
    return process


def _arguments(args: Sequence[str]) -> list[str]:
    if not args or not args[0]:
        raise InvalidParameter("No command specified", hint="Give a command, or use an image that has one")
    return list(args)


def _environment(spec: ContainerSpec, process: ProcessSpec) -> list[str]:
    # HOME is left to the OCI runtime, which takes it from the passwd entry of the user, in an exec too.
    defaults = [f"PATH={DEFAULT_PATH}"]
    if spec.hostname:
        defaults.append(f"HOSTNAME={spec.hostname}")
    if process.tty:
        defaults.append("TERM=xterm")
    return _merge_env(defaults, process.env)


def _merge_env(*layers: Sequence[str]) -> list[str]:
    """Later layers win; an entry without `=` takes a variable away, as docker's `-e NAME` of an unset one."""
    merged: dict[str, str] = {}
    for entry in (entry for layer in layers for entry in layer):
        name, separator, _ = entry.partition("=")
        if separator:
            merged[name] = entry
        else:
            merged.pop(name, None)
    return list(merged.values())


def _oci_user(user: User) -> dict[str, Any]:
    return {"uid": user.uid, "gid": user.gid, "additionalGids": list(user.groups), "umask": CONTAINER_UMASK}


def _oci_capabilities(names: Sequence[str]) -> dict[str, list[str]]:
    # No inheritable and no ambient ones: a process that is not root has none after exec (CVE-2022-24769).
    return {"bounding": list(names), "effective": list(names), "permitted": list(names)}


def _linux(spec: ContainerSpec) -> dict[str, Any]:
    nodes, rules = devices.resolve(spec.devices)
    limits = linux_resources(spec.resources)
    if spec.privileged:
        nodes = list({node["path"]: node for node in [*devices.host_devices(), *nodes]}.values())
        limits["devices"] = list(devices.ALLOW_ALL)
    else:
        extra = [devices.cgroup_rule(text) for text in spec.device_cgroup_rules]
        limits["devices"] = [*devices.DEFAULT_RULES, *rules, *extra]
    linux: dict[str, Any] = {
        "namespaces": _namespaces(spec),
        "resources": limits,
        "devices": nodes,
        "sysctl": _sysctls(spec),
    }
    if not (spec.privileged or spec.unmask):
        linux["maskedPaths"] = list(_MASKED)
        linux["readonlyPaths"] = list(_READONLY)
    if spec.cgroup_path:
        linux["cgroupsPath"] = spec.cgroup_path
    if spec.rootfs_propagation:
        linux["rootfsPropagation"] = spec.rootfs_propagation
    return linux


def _namespaces(spec: ContainerSpec) -> list[dict[str, str]]:
    wanted = {
        "network": spec.network,
        "ipc": spec.ipc,
        "pid": spec.pid,
        "uts": spec.uts,
        "cgroup": spec.cgroupns or (PRIVATE if hierarchy().unified and not spec.privileged else HOST),
    }
    namespaces = [{"type": "mount"}]
    for kind, where in wanted.items():
        if where == PRIVATE:
            namespaces.append({"type": kind})
        elif where.startswith("/"):
            namespaces.append({"type": kind, "path": where})
        elif where != HOST:
            raise InvalidParameter(
                f"invalid {kind} namespace {where!r}", why="it is `host`, `private` or an absolute path"
            )
    return namespaces


def _sysctls(spec: ContainerSpec) -> dict[str, str]:
    for name in spec.sysctls:
        if name.startswith("net.") and spec.network == HOST:
            raise InvalidParameter(f"sysctl '{name}' not allowed in host network namespace")
        if (name in _IPC_SYSCTLS or name.startswith("fs.mqueue.")) and spec.ipc == HOST:
            raise InvalidParameter(f"sysctl '{name}' not allowed in host ipc namespace")
        if name in _UTS_SYSCTLS and spec.uts == HOST:
            raise InvalidParameter(f"sysctl '{name}' not allowed in host uts namespace")
        if not (name.startswith(("net.", "fs.mqueue.")) or name in _IPC_SYSCTLS or name in _UTS_SYSCTLS):
            raise InvalidParameter(
                f"sysctl '{name}' is not allowed", why="it does not belong to a namespace and would change the host"
            )
        if not re.fullmatch(r"[A-Za-z0-9_./:-]+", name) or ".." in name:
            raise InvalidParameter(f"sysctl '{name}' is malformed")
    defaults = _DEFAULT_SYSCTLS if spec.default_sysctls and spec.network != HOST else {}
    return {**defaults, **spec.sysctls}


def _seccomp(spec: ContainerSpec, caps: Sequence[str]) -> str:
    if spec.privileged or spec.seccomp == SECCOMP_UNCONFINED:
        return ""
    if spec.seccomp == SECCOMP_DEFAULT:
        return seccomp.default_profile(frozenset(caps))
    return seccomp.profile_from_file(Path(spec.seccomp), frozenset(caps))


@functools.cache
def find_init() -> str:
    """Path of a statically linked init for `--init`. Raises Unsupported when none is installed."""
    for name in _INIT_NAMES:
        for directory in _INIT_DIRECTORIES:
            path = os.path.join(directory, name)  # noqa: PTH118  # dozens of candidates, most missing
            if os.access(path, os.X_OK) and is_static(path):
                return path
    raise Unsupported(
        "--init needs a small init program", why="none is installed", hint="Install one: `apt install catatonit`"
    )


def is_static(path: str) -> bool:
    """Whether an ELF program needs no interpreter (no PT_INTERP header), so that it runs in any root file system."""
    with open(path, "rb") as file:  # noqa: PTH123
        header = file.read(64)
        if header[:4] != b"\x7fELF" or header[4] != 2:
            return False
        order: Literal["little", "big"] = "little" if header[5] == 1 else "big"
        number = functools.partial(int.from_bytes, byteorder=order)
        table, size, count = number(header[32:40]), number(header[54:56]), number(header[56:58])
        file.seek(table)
        entries = file.read(size * count)
    return all(number(entries[start : start + 4]) != 3 for start in range(0, len(entries), size))
