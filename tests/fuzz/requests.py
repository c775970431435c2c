"""One random request for a route of the API: a path, parameters and a body that are right but for a few odd parts."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any, cast
from urllib.parse import quote, urlencode

from tests.fuzz import archives, values
from tests.images import docker_archive

from engine.api.server import build_app
from engine.api.services import Services
from engine.container.config import CreateRequest, HostConfig

RUNNING, STOPPED, NETWORK, VOLUME, IMAGE, SECRET = "one", "two", "net", "vol", "busybox", "sec"
"""Names of the objects that requests are about."""

_NOBODY = "127.0.0.1:1"
"""The registry of requests that call one: nothing answers there."""


@dataclass(frozen=True)
class Request:
    """What is sent."""

    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    def __str__(self) -> str:
        return f"{self.method} {self.path[:300]} {self.body[:2000]!r}"


def routes() -> list[tuple[str, str]]:
    """Return method and path of all that the daemon answers, in the order of its router."""
    app = build_app(cast(Services, object()))
    found = [(r.method, r.resource.canonical) for r in app.router.routes() if r.resource is not None]
    return [route for route in dict.fromkeys(found) if route[0] != "*"]


def request(random: Random, method: str, path: str, exec_id: str) -> Request:
    """Return a request for one of `routes()`; `exec_id` is an exec that is there."""
    names = {"/containers": RUNNING, "/networks": NETWORK, "/volumes": VOLUME, "/images": IMAGE, "/secrets": SECRET}
    kind = next((name for prefix, name in names.items() if prefix in path), "bridge")
    for part in ("{id}", "{name}", "{ref}", "{kind}", "{snapshot}"):
        given = exec_id if path.startswith("/exec/") else STOPPED if kind == RUNNING and random.random() < 0.2 else kind
        given = {"{kind}": "network", "{snapshot}": "latest"}.get(part, given)
        if random.random() < 0.08:
            given = values.string(random)
        path = path.replace(part, quote(given, safe="/:", errors="surrogatepass"))
    query = urlencode(_parameters(random, path), errors="surrogatepass")
    body, headers = _body(random, method, path)
    if random.random() < 0.1:
        headers["X-Registry-Auth"] = (
            values.string(random).encode("ascii", "replace").decode().replace("\n", "").replace("\r", "")
        )
    version = random.choice(("", "", "", "/v1.24", "/v1.43", "/v1.44"))
    return Request(method, version + path + (f"?{query}" if query else ""), headers, body)


_PARAMETERS: dict[str, Callable[[Random], Any]] = {
    **dict.fromkeys(
        (
            "all", "size", "force", "v", "link", "stdin", "stdout", "stderr", "logs", "stream", "one-shot",
            "timestamps",
            "details", "noprune", "quiet", "pause", "copyUIDGID", "noOverwriteDirNonDir", "detach", "reveal",
        ),
        lambda random: random.choice((0, 1, "true", "maybe")),
    ),
    **dict.fromkeys(("limit", "tail", "h", "w", "timeout"), lambda random: random.choice(values.NUMBERS)),
    "t": lambda random: random.choice((0, 0, -(2**70), "x")),
    "signal": lambda random: random.choice(("TERM", "9", "0", "SIGNOTHING", "-1", "999999999999999999999")),
    "since": lambda random: random.choice(("0", "1e99", "-1", "10m", "9" * 30, "2024-01-01T00:00:00.123456789Z")),
    "until": lambda random: random.choice(("0", "1e99", "-1", "10m", "9" * 30, "1.5.5")),
    "condition": lambda random: random.choice(("not-running", "next-exit", "removed", "never")),
    "path": lambda random: random.choice(("/tmp", "/etc/passwd", "..", "/proc/1/root", "x" * 5000, "/a\0")),
    "ps_args": lambda random: random.choice(("aux", "-eo pid,comm", "; id", "-o nothing", "")),
    "platform": lambda random: random.choice(("linux/amd64", "linux", "x/y/z/w", '{"os":1}')),
    "filters": lambda random: values.body(random, {_filter(random): [values.string(random)], "until": {"1h": True}}),
}  # fmt: skip


def _filter(random: Random) -> str:
    docker = "name id label status network volume ancestor before since driver type scope dangling reference expose"
    return random.choice(docker.split())


def _parameters(random: Random, path: str) -> dict[str, Any]:
    chosen = random.sample(sorted(_PARAMETERS), random.choice((0, 0, 1, 2, 4)))
    if path.endswith(("/json", "/prune", "/networks", "/volumes", "/events", "/secrets")) and random.random() < 0.6:
        chosen.append("filters")
    found: dict[str, Any] = {name: _PARAMETERS[name](random) for name in chosen}
    if path == "/images/create":
        found["fromImage"] = f"{_NOBODY}/{values.string(random)}"
    for name in "name repo tag container volume names changes detachKeys comment type kind".split():
        if random.random() < 0.25:
            found[name] = random.choice((RUNNING, VOLUME, "fuzz", values.string(random)))
    if path.endswith(("/stop", "/restart")):
        found["t"] = 0  # sleep, as the first process, does not end upon SIGTERM
    if path.endswith(("/archive", "/wait")) or ("until" not in found and path == "/events"):
        found.setdefault("path", "/tmp")
        found["until"] = "1"  # or it would wait for what is to come
    return found


def _create() -> dict[str, Any]:
    given = CreateRequest.model_validate(
        {"Image": IMAGE, "Cmd": ["sleep", "1000"], "Env": ["A=b"], "Labels": {"a": "b"}, "ExposedPorts": {"80/tcp": {}}}
    ).docker()
    healthcheck = {"Test": ["CMD", "true"], "Interval": 10**9, "Timeout": 10**9, "Retries": 3}
    host = {
        **HostConfig().docker(), "Binds": [f"{VOLUME}:/v"], "PortBindings": {"80/tcp": [{"HostIp": "",
        "HostPort": ""}]},
        "Mounts": [{"Type": "tmpfs", "Target": "/t", "TmpfsOptions": {"SizeBytes": 4096, "Mode": 0o700}}],
        "Ulimits": [{"Name": "nofile", "Soft": 64, "Hard": 64}], "LogConfig": {"Type": "json-file", "Config": {}},
        "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 1}, "ExtraHosts": ["a:10.0.0.1"], "Sysctls": {},
        "Devices": [{"PathOnHost": "/dev/null", "PathInContainer": "/dev/n", "CgroupPermissions": "r"}],
    }  # fmt: skip
    networking = {"EndpointsConfig": {NETWORK: {"Aliases": ["x"], "IPAMConfig": {"IPv4Address": ""}, "DriverOpts": {}}}}
    return {**given, "Healthcheck": healthcheck, "HostConfig": host, "NetworkingConfig": networking}


_SECRET = {"Name": "other", "Data": "c2VjcmV0", "Labels": {"a": "b"}}
_REPOSITORY = {
    "URL": "memory://x",
    "Options": {"a": "b"},
    "Password": "x",
    "Tag": "t",
    "Snapshot": "latest",
    "Of": VOLUME,
}
_BODIES: dict[str, Any] = {
    "/containers/create": _create(),
    "/update": {"Memory": 64 << 20, "CpuShares": 10, "RestartPolicy": {"Name": "no"}, "PidsLimit": 10},
    "/exec": {"Cmd": ["true"], "Env": ["A=b"], "User": "0", "WorkingDir": "/", "DetachKeys": "ctrl-p",
    "ConsoleSize": [24, 80]},
    "/start": {"Detach": True, "Tty": False, "ConsoleSize": [24, 80]},
    "/networks/create": {
        "Name": "other", "Driver": "bridge", "Options": {"com.docker.network.driver.mtu": "1400"},
        "Labels": {"a": "b"},
        "IPAM": {"Driver": "default", "Config": [{"Subnet": "10.99.0.0/24", "Gateway": "10.99.0.1"}], "Options": {}},
        "Internal": False, "EnableIPv6": False, "Scope": "local", "CheckDuplicate": True,
    },
    "/connect": {"Container": RUNNING, "EndpointConfig": {"Aliases": ["y"], "IPAMConfig": {"IPv4Address": ""}}},
    "/disconnect": {"Container": RUNNING, "Force": True},
    "/volumes/create": {"Name": "other", "Driver": "local", "DriverOpts": {"type": "tmpfs"}, "Labels": {"a": "b"}},
    "/secrets/create": _SECRET,
    "/commit": {"Cmd": ["true"], "Env": ["A=b"], "ExposedPorts": {"80/tcp": {}}, "Labels": {"a": "b"},
    "Healthcheck": {}},
    "/ports": {"PortBindings": {"80/tcp": [{"HostIp": "", "HostPort": ""}]}},
    "/ports/remove": {"Ports": [{"HostPort": 8080, "Count": 1, "HostIp": "", "Protocol": "tcp"}]},
    "/ports/move": {"To": STOPPED, "Ports": [{"HostPort": 8080, "Count": 1, "HostIp": "", "Protocol": "tcp"}]},
    "/rename": {"Name": "other", "Consistency": "none"},
    "/join": {"Token": "x", "Advertise": "10.0.0.1", "Name": "x"},
    "/keys": {"Key": "a2V5", "Form": "text"},
    "/unlock": {"Key": "a2V5"},
    "/rekey": {"Key": "a2V5", "Slot": "main", "Source": "prompt", "Form": "text", "Remove": "x", "Old": "a2V5"},
    "/default": {"Driver": "bridge", "Options": {"a": "b"}},
    **dict.fromkeys(("/backup", "/restore", "/snapshot", "/rollback", "/clone", "/import", "/export"), _REPOSITORY),
}  # fmt: skip


def _body(random: Random, method: str, path: str) -> tuple[bytes, dict[str, str]]:
    if method in ("GET", "HEAD"):
        return b"", {}
    if path == "/images/load":
        with TemporaryDirectory() as place:
            made = docker_archive(Path(place) / "image.tar", {"odd:1": archives.image(random)})
            return made.read_bytes(), {"Content-Type": "application/x-tar"}
    if path.endswith(("/archive", "/import")):
        return archives.archive(random), {"Content-Type": "application/x-tar"}
    good = next((_BODIES[end] for end in sorted(_BODIES, key=len, reverse=True) if path.endswith(end)), {})
    if path == "/auth":
        server = random.choice((_NOBODY, 1, [], {}))
        given = {"username": values.value(random), "password": values.value(random), "serveraddress": server}
        return json.dumps(given).encode(), {"Content-Type": "application/json"}
    return values.body(random, good), {"Content-Type": random.choice(("application/json",) * 12 + ("text/plain", ""))}
