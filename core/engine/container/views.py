"""Containers in the Docker Engine API's words: what inspect and list answer."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from engine.container.record import NEVER, Container, MountPoint

JsonObject = dict[str, Any]

_UNITS = (
    ("year", 31_536_000),
    ("month", 2_592_000),
    ("week", 604_800),
    ("day", 86_400),
    ("hour", 3600),
    ("minute", 60),
)


def seconds_of(timestamp: str) -> float:
    """Return an RFC 3339 time as seconds since the epoch; 0.0 for one that has not come."""
    return 0.0 if timestamp == NEVER else datetime.fromisoformat(timestamp).timestamp()


def ago(seconds: float) -> str:
    """Return a duration as Docker's CLI writes it: "About a minute", "3 hours"."""
    if seconds < 1:
        return "Less than a second"
    if seconds < 2:
        return "1 second"
    if seconds < 60:
        return f"{int(seconds)} seconds"
    if seconds < 120:
        return "About a minute"
    if 3600 <= seconds < 7200:
        return "About an hour"
    # Docker counts in a unit until two of the next are full: 47 hours, then 2 days.
    for name, length in _UNITS:
        if seconds >= 2 * length or name == "minute":
            return f"{int(seconds // length)} {name}s"
    raise AssertionError("unreachable: the last unit is minutes")


def status_text(container: Container, at: float | None = None) -> str:
    """Return the STATUS column: "Up 3 seconds", "Exited (0) 2 minutes ago"."""
    state = container.state
    at = time.time() if at is None else at
    if state.running:
        text = f"Up {ago(at - seconds_of(state.started_at))}"
        return f"{text} (Paused)" if state.status == "paused" else text
    if state.status == "restarting":
        return f"Restarting ({state.exit_code}) {ago(at - seconds_of(state.finished_at))} ago"
    if state.status == "exited":
        return f"Exited ({state.exit_code}) {ago(at - seconds_of(state.finished_at))} ago"
    return {"created": "Created", "removing": "Removal In Progress", "dead": "Dead"}[state.status]


def state_json(container: Container) -> JsonObject:
    """Return the State object of inspect."""
    state = container.state
    return {
        "Status": state.status,
        "Running": state.running or state.status == "restarting",
        "Paused": state.status == "paused",
        "Restarting": state.status == "restarting",
        "OOMKilled": state.oom_killed,
        "Dead": state.status == "dead",
        "Pid": state.pid,
        "ExitCode": state.exit_code,
        "Error": state.error,
        "StartedAt": state.started_at,
        "FinishedAt": state.finished_at,
    }


def mount_json(mount: MountPoint, source: str) -> JsonObject:
    """Return one element of Mounts; `source` is the path on the host."""
    result: JsonObject = {
        "Type": mount.type,
        "Source": source,
        "Destination": mount.target,
        "Mode": "ro" if mount.read_only and mount.type == "bind" else "",
        "RW": not mount.read_only,
        "Propagation": mount.propagation or ("rprivate" if mount.type == "bind" else ""),
    }
    if mount.type == "volume":
        result |= {"Name": mount.source, "Driver": mount.driver or "local", "Mode": "z"}
    return result


def network_settings(
    networks: Mapping[str, JsonObject], ports: Mapping[str, list[JsonObject] | None], sandbox: str, id: str
) -> JsonObject:
    """Return the NetworkSettings object of inspect; its flat fields are those of the network named bridge."""
    bridge = networks.get("bridge", {})
    return {
        "Bridge": "",
        "SandboxID": id if sandbox else "",
        "SandboxKey": sandbox,
        "Ports": dict(ports),
        "HairpinMode": False,
        "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0,
        "SecondaryIPAddresses": None,
        "SecondaryIPv6Addresses": None,
        "EndpointID": bridge.get("EndpointID", ""),
        "Gateway": bridge.get("Gateway", ""),
        "GlobalIPv6Address": bridge.get("GlobalIPv6Address", ""),
        "GlobalIPv6PrefixLen": bridge.get("GlobalIPv6PrefixLen", 0),
        "IPAddress": bridge.get("IPAddress", ""),
        "IPPrefixLen": bridge.get("IPPrefixLen", 0),
        "IPv6Gateway": bridge.get("IPv6Gateway", ""),
        "MacAddress": bridge.get("MacAddress", ""),
        "Networks": dict(networks),
    }


def inspection(
    container: Container,
    *,
    directory: Path,
    rootfs: Path,
    mounts: Sequence[JsonObject],
    networks: JsonObject,
    execs: Sequence[str],
) -> JsonObject:
    """Return GET /containers/ID/json."""
    return {
        "Id": container.id,
        "Created": container.created,
        "Path": container.path,
        "Args": container.args,
        "State": state_json(container),
        "Image": container.image_id,
        "ResolvConfPath": str(directory / "resolv.conf"),
        "HostnamePath": str(directory / "hostname"),
        "HostsPath": str(directory / "hosts"),
        "LogPath": str(directory / "log"),
        "Name": f"/{container.name}",
        "RestartCount": container.state.restart_count,
        "Driver": "overlay2",
        "Platform": "linux",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": list(execs) or None,
        "HostConfig": container.host_config.docker(),
        "GraphDriver": {"Name": "overlay2", "Data": {"UpperDir": str(directory / "upper"), "MergedDir": str(rootfs)}},
        "Mounts": list(mounts),
        "Config": container.config.docker(),
        "NetworkSettings": networks,
    }


def summary(
    container: Container, *, mounts: Sequence[JsonObject], networks: Mapping[str, JsonObject], ports: Mapping[str, Any]
) -> JsonObject:
    """Return one element of GET /containers/json."""
    return {
        "Id": container.id,
        "Names": [f"/{container.name}"],
        "Image": container.image_ref,
        "ImageID": container.image_id,
        "Command": " ".join([container.path, *container.args]),
        "Created": int(seconds_of(container.created)),
        "Ports": port_list(ports),
        "Labels": container.config.labels,
        "State": container.state.status,
        "Status": status_text(container),
        "HostConfig": {"NetworkMode": container.host_config.network_mode},
        "NetworkSettings": {"Networks": dict(networks)},
        "Mounts": list(mounts),
    }


def bare_summary(container: Container, fault: str) -> JsonObject:
    """Return an element of GET /containers/json of which only the name and the state are certain."""
    return {
        "Id": container.id,
        "Names": [f"/{container.name}"],
        "Image": container.image_ref,
        "ImageID": container.image_id,
        "Command": "",
        "Created": 0,
        "Ports": [],
        "Labels": {},
        "State": container.state.status,
        "Status": f"Faulty: {fault}",
        "HostConfig": {"NetworkMode": container.host_config.network_mode},
        "NetworkSettings": {"Networks": {}},
        "Mounts": [],
    }


def port_list(ports: Mapping[str, Any]) -> list[JsonObject]:
    """Return the Ports of a summary from those of an inspection (`{"80/tcp": [{"HostIp", "HostPort"}] | None}`)."""
    result: list[JsonObject] = []
    for name, bindings in sorted(ports.items()):
        port, _, protocol = name.partition("/")
        base = {"PrivatePort": int(port), "Type": protocol or "tcp"}
        for binding in bindings or []:
            result.append({"IP": binding["HostIp"], **base, "PublicPort": int(binding["HostPort"])})
        if not bindings:
            result.append(base)
    return result
