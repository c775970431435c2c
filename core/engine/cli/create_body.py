"""The body of `POST /containers/create` from what the user wrote: pure, apart from the files that flags name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.cli.create_options import CreateOptions
from engine.cli.errors import BadValue, Failure, did_you_mean
from engine.cli.parse import amounts, mounts, networks, pairs, ports

_STREAMS = ("stdin", "stdout", "stderr")
_LOG_DRIVERS = ("json-file", "none")
PULL_POLICIES = ("missing", "always", "never")


@dataclass(frozen=True)
class Surroundings:
    """What the flags refer to: our environment, our directory, the global --net-driver and --net-opt."""

    environment: Mapping[str, str]
    cwd: Path
    net_driver: str = ""
    net_opts: tuple[str, ...] = ()


def streams(options: CreateOptions, *, detached: bool) -> set[str]:
    """Return the streams to attach. Raises BadValue."""
    if detached:
        return set()
    if options.attach:
        chosen = {text.lower() for text in options.attach}
        for text in chosen - set(_STREAMS):
            raise BadValue("--attach", text, f"use stdin, stdout or stderr{did_you_mean(text, _STREAMS)}")
        return chosen
    return {"stdout", "stderr"} | ({"stdin"} if options.interactive else set())


def create_body(
    options: CreateOptions, image: str, arguments: Sequence[str], around: Surroundings, *, detached: bool
) -> dict[str, Any]:
    """Return the request. Raises BadValue or Failure (exit code 125) for what cannot be meant."""
    _check_choices(options)
    attached = streams(options, detached=detached)
    joined = networks.attachments(
        options.network, aliases=options.network_alias, ip=options.ip, ip6=options.ip6, mac=options.mac_address,
        link_local=options.link_local_ip,
    )  # fmt: skip
    binds, anonymous = _volumes(options, around.cwd)
    published = ports.published("--publish", options.publish)
    exposed: dict[str, dict[str, str]] = {port: {} for port in [*ports.exposed("--expose", options.expose), *published]}
    body: dict[str, Any] = {
        "Hostname": options.hostname,
        "Domainname": options.domainname,
        "User": options.user,
        "AttachStdin": "stdin" in attached,
        "AttachStdout": "stdout" in attached,
        "AttachStderr": "stderr" in attached,
        "Tty": options.tty,
        "OpenStdin": options.interactive,
        "StdinOnce": "stdin" in attached and options.interactive,
        "Env": pairs.environment(options.env, options.env_file, around.environment),
        "Cmd": list(arguments) or None,
        "Image": image,
        "Volumes": anonymous,
        "WorkingDir": options.workdir,
        "Entrypoint": _entrypoint(options.entrypoint),
        "Labels": pairs.labels(options.label, options.label_file),
        "ExposedPorts": exposed,
        "HostConfig": _host_config(options, around, binds, published, joined),
        "NetworkingConfig": {"EndpointsConfig": {a.network: a.settings() for a in joined if not a.alone}},
    }
    if options.mac_address:
        body["MacAddress"] = pairs.mac_address("--mac-address", options.mac_address)
    if options.stop_signal:
        body["StopSignal"] = pairs.signal_name("--stop-signal", options.stop_signal)
    if options.stop_timeout:
        body["StopTimeout"] = amounts.integer("--stop-timeout", options.stop_timeout, -1, 2**31 - 1)
    if health := _health(options):
        body["Healthcheck"] = health
    return body


def _check_choices(options: CreateOptions) -> None:
    if options.pull not in PULL_POLICIES:
        hint = did_you_mean(options.pull, PULL_POLICIES)
        raise BadValue("--pull", options.pull, f"use missing, always or never{hint}")
    if options.log_driver and options.log_driver not in _LOG_DRIVERS:
        hint = did_you_mean(options.log_driver, _LOG_DRIVERS)
        raise BadValue("--log-driver", options.log_driver, f"use json-file or none{hint}")
    if options.restart and options.rm and options.restart != "no":
        raise Failure("--restart and --rm contradict each other", 125)


def _entrypoint(text: str | None) -> list[str] | None:
    """Return the replaced entry point; an empty one clears the image's."""
    if text is None:
        return None
    return [text] if text else [""]


def _volumes(options: CreateOptions, cwd: Path) -> tuple[list[str], dict[str, dict[str, Any]]]:
    binds: list[str] = []
    anonymous: dict[str, dict[str, Any]] = {}
    for text in options.volume:
        bind, path = mounts.volume("--volume", text, cwd)
        if path is None:
            binds.append(bind)
        else:
            anonymous[path] = {}
    return binds, anonymous


def _host_config(
    options: CreateOptions,
    around: Surroundings,
    binds: list[str],
    published: Mapping[str, list[ports.Binding]],
    joined: Sequence[networks.Attachment],
) -> dict[str, Any]:
    config: dict[str, Any] = {
        "Binds": binds,
        "Mounts": [mounts.mount("--mount", text, around.cwd) for text in options.mount],
        "Tmpfs": dict(mounts.tmpfs("--tmpfs", text) for text in options.tmpfs),
        "VolumesFrom": options.volumes_from,
        "VolumeDriver": options.volume_driver,
        "NetworkMode": joined[0].network if joined else "default",
        "PortBindings": dict(published),
        "PublishAllPorts": options.publish_all,
        "RestartPolicy": pairs.restart_policy("--restart", options.restart or "no"),
        "AutoRemove": options.rm,
        "CapAdd": options.cap_add,
        "CapDrop": options.cap_drop,
        "Dns": [pairs.ip_address("--dns", text) for text in options.dns],
        "DnsSearch": options.dns_search,
        "DnsOptions": options.dns_option,
        "ExtraHosts": [pairs.host_entry("--add-host", text) for text in options.add_host],
        "GroupAdd": options.group_add,
        "IpcMode": options.ipc,
        "PidMode": options.pid,
        "UTSMode": options.uts,
        "UsernsMode": options.userns,
        "CgroupnsMode": options.cgroupns,
        "CgroupParent": options.cgroup_parent,
        "Runtime": options.runtime,
        "Privileged": options.privileged,
        "ReadonlyRootfs": options.read_only,
        "SecurityOpt": [pairs.security_option("--security-opt", text) for text in options.security_opt],
        "Sysctls": pairs.options("--sysctl", options.sysctl),
        "Devices": [pairs.device("--device", text) for text in options.device],
        "Ulimits": [pairs.ulimit("--ulimit", text) for text in options.ulimit],
        "OomKillDisable": options.oom_kill_disable,
        "LogConfig": {"Type": options.log_driver, "Config": pairs.options("--log-opt", options.log_opt)},
        "Annotations": pairs.options("--annotation", options.annotation),
        **resources(options),
        **_net_driver(options, around),
    }
    if options.init:
        config["Init"] = True
    if options.shm_size:
        config["ShmSize"] = amounts.size("--shm-size", options.shm_size)
    return config


def resources(options: Any) -> dict[str, Any]:
    """Return the limits that were given (also of `update`, whose options have the same names)."""
    found: dict[str, Any] = {}
    if options.memory:
        found["Memory"] = amounts.size("--memory", options.memory)
        if 0 < found["Memory"] < 6 << 20:
            raise BadValue("--memory", options.memory, "a container needs 6m at least")
    if options.memory_swap:
        found["MemorySwap"] = amounts.swap("--memory-swap", options.memory_swap)
        if 0 < found["MemorySwap"] < found.get("Memory", 0):
            raise BadValue("--memory-swap", options.memory_swap, "it includes --memory and must not be less than that")
    if options.memory_reservation:
        found["MemoryReservation"] = amounts.size("--memory-reservation", options.memory_reservation)
    if options.cpus:
        if options.cpu_period or options.cpu_quota:
            raise Failure("--cpus does not go with --cpu-period or --cpu-quota", 125)
        found["NanoCpus"] = amounts.nano_cpus("--cpus", options.cpus)
    for flag, field, text, low in (
        ("--cpu-shares", "CpuShares", options.cpu_shares, 0),
        ("--cpu-period", "CpuPeriod", options.cpu_period, 1000),
        ("--cpu-quota", "CpuQuota", options.cpu_quota, -1),
        ("--pids-limit", "PidsLimit", options.pids_limit, -1),
        ("--oom-score-adj", "OomScoreAdj", getattr(options, "oom_score_adj", ""), -1000),
    ):
        if text:
            found[field] = amounts.integer(flag, text, low, 1000 if field == "OomScoreAdj" else 2**62)
    if options.cpuset_cpus:
        found["CpusetCpus"] = amounts.cpu_set("--cpuset-cpus", options.cpuset_cpus)
    if options.cpuset_mems:
        found["CpusetMems"] = amounts.cpu_set("--cpuset-mems", options.cpuset_mems)
    return found


def _net_driver(options: CreateOptions, around: Surroundings) -> dict[str, Any]:
    """Return NetDriver and NetOpts, ours beside docker's; the command's own flags go before the global ones."""
    if options.network and options.net_driver:
        raise Failure("--network and --net-driver contradict each other: a network has its driver already", 125)
    driver = options.net_driver or ("" if options.network else around.net_driver)
    if options.net_opt and not driver:
        raise Failure(
            "--net-opt needs --net-driver. Options of a network are set when it is made: engine network create -o", 125
        )
    own = pairs.options("--net-opt", options.net_opt)
    if not driver:
        return {}
    shared = pairs.options("--net-opt", around.net_opts) if driver == around.net_driver else {}
    return {"NetDriver": driver, "NetOpts": {**shared, **own}}


def _health(options: CreateOptions) -> dict[str, Any] | None:
    if options.no_healthcheck:
        return {"Test": ["NONE"]}
    found: dict[str, Any] = {}
    if options.health_cmd:
        found["Test"] = ["CMD-SHELL", options.health_cmd]
    for flag, field, text in (
        ("--health-interval", "Interval", options.health_interval),
        ("--health-timeout", "Timeout", options.health_timeout),
        ("--health-start-period", "StartPeriod", options.health_start_period),
    ):
        if text:
            found[field] = amounts.duration_ns(flag, text)
    if options.health_retries:
        found["Retries"] = amounts.integer("--health-retries", options.health_retries, 0, 2**31)
    return found or None
