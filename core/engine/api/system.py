"""The daemon as a whole: `/_ping`, `/version`, `/info`, `/events`, `/system/df`, `/auth`."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections import Counter
from functools import cache
from typing import Any

from aiohttp import web

from engine.api import events, host, images, versions, volumes
from engine.api.requests import call, reply, services
from engine.api.services import Services
from engine.api.services.data import JsonObject
from engine.spec.errors import Unsupported


@cache
def engine_version() -> str:
    """Return the version of the installed distribution."""
    return importlib.metadata.version("pluggable-engine")


async def ping(request: web.Request) -> web.Response:
    """Answer; clients negotiate the version by the headers."""
    headers = {
        "Api-Version": versions.text(versions.CURRENT),
        "Ostype": "linux",
        "Docker-Experimental": "false",
        "Builder-Version": "",
        "Swarm": "inactive",
        "Cache-Control": "no-cache, no-store, must-revalidate",
        "Pragma": "no-cache",
        "Server": f"engine/{engine_version()} (linux)",
    }
    return web.Response(text="OK" if request.method == "GET" else "", headers=headers)


async def version(request: web.Request) -> web.Response:
    """Say what runs here."""
    instance = services(request).instance
    facts = {
        "ApiVersion": versions.text(versions.CURRENT),
        "MinAPIVersion": versions.text(versions.OLDEST),
        "GitCommit": "",
        "GoVersion": f"none (Python {platform.python_version()})",
        "Os": "linux",
        "Arch": host.architecture(),
        "KernelVersion": os.uname().release,
        "BuildTime": "",
    }
    components: list[JsonObject] = [
        {"Name": "Engine", "Version": engine_version(), "Details": {**facts, "Experimental": "false"}}
    ]
    components += [{"Name": name, "Version": number} for name, number in instance.components.items()]
    return reply({"Platform": {"Name": ""}, "Components": components, "Version": engine_version(), **facts})


async def info(request: web.Request) -> web.Response:
    """Say how the daemon and the machine are."""
    return reply(await call(request, _info, services(request)))


def _info(managers: Services) -> JsonObject:
    states = Counter(c.get("State") for c in managers.containers.list(all=True, filters={}))
    instance = managers.instance
    name, release = host.operating_system()
    drivers = managers.plugins.info()

    def names(group: str) -> list[str]:
        return sorted({d.name for d in drivers if d.group == group and d.status in ("ok", "not loaded")})

    return {
        "ID": instance.id,
        "Name": platform.node(),
        "ServerVersion": engine_version(),
        "Containers": sum(states.values()),
        "ContainersRunning": states["running"],
        "ContainersPaused": states["paused"],
        "ContainersStopped": sum(states.values()) - states["running"] - states["paused"],
        "Images": len(managers.images.list()),
        "Driver": "overlay2",
        "DriverStatus": [["Backing", "overlayfs on content-addressed layers"]],
        "DockerRootDir": instance.data_root,
        "Plugins": {
            "Network": names("engine.network"),
            "Volume": names("engine.volume"),
            "Authorization": None,
            "Log": ["json-file", "none"],
        },
        "LoggingDriver": "json-file",
        "CgroupDriver": "cgroupfs",
        "CgroupVersion": host.cgroup_version(),
        "MemoryLimit": True,
        "SwapLimit": True,
        "CpuCfsPeriod": True,
        "CpuCfsQuota": True,
        "CPUShares": True,
        "CPUSet": True,
        "PidsLimit": True,
        "OomKillDisable": True,
        "IPv4Forwarding": True,
        "Debug": False,
        "NFd": host.open_files(),
        "NEventsListener": 0,
        "SystemTime": host.now(),
        "KernelVersion": os.uname().release,
        "OperatingSystem": name,
        "OSVersion": release,
        "OSType": "linux",
        "Architecture": platform.machine(),
        "NCPU": len(os.sched_getaffinity(0)),
        "MemTotal": host.memory_bytes(),
        "IndexServerAddress": "https://index.docker.io/v1/",
        "RegistryConfig": None,
        "HttpProxy": os.environ.get("HTTP_PROXY", ""),
        "HttpsProxy": os.environ.get("HTTPS_PROXY", ""),
        "NoProxy": os.environ.get("NO_PROXY", ""),
        "Labels": [],
        "ExperimentalBuild": False,
        "Runtimes": {instance.runtime: {"path": instance.runtime}},
        "DefaultRuntime": instance.runtime,
        "Swarm": {"NodeID": "", "LocalNodeState": "inactive", "ControlAvailable": False},
        "LiveRestoreEnabled": True,
        "Isolation": "",
        "InitBinary": "",
        "SecurityOptions": ["name=seccomp,profile=builtin"],
        "DefaultAddressPools": list(instance.address_pools),
        "Warnings": list(instance.warnings),
    }


async def disk_usage(request: web.Request) -> web.Response:
    """Say what takes how much space; `type` (container, image, volume) chooses."""
    kinds = set(request.query.getall("type", [])) or {"container", "image", "volume", "build-cache"}
    return reply(await call(request, _disk_usage, services(request), kinds))


def _disk_usage(managers: Services, kinds: set[str]) -> JsonObject:
    answer: JsonObject = {"LayersSize": 0, "Images": None, "Containers": None, "Volumes": None, "BuildCache": None}
    used = Counter(c.get("ImageID") for c in managers.containers.list(all=True, filters={}))
    if "image" in kinds:
        found = [image for image in managers.images.list() if not image.builtin]
        answer["Images"] = [{**images.summary(i), "SharedSize": 0, "Containers": used[i.id]} for i in found]
        answer["LayersSize"] = sum(image.size for image in found)
    if "container" in kinds:
        answer["Containers"] = managers.containers.list(all=True, size=True, filters={})
    if "volume" in kinds:
        answer["Volumes"] = volumes.with_usage(managers)
    if "build-cache" in kinds:
        answer["BuildCache"] = []
    return answer


async def list_plugins(request: web.Request) -> web.Response:
    """List docker's managed plugins: none. Drivers are packages of Python, see `/engine/drivers`."""
    return reply([])


async def no_swarm(request: web.Request) -> web.Response:
    """Refuse what is about a swarm."""
    raise Unsupported("there is no swarm here", hint="For networks that span hosts: engine node --help")


ROUTES: list[Any] = [
    web.get("/_ping", ping, allow_head=False),
    web.head("/_ping", ping),
    web.get("/version", version),
    web.get("/info", info),
    web.get("/events", events.events),
    web.get("/system/df", disk_usage),
    web.get("/plugins", list_plugins),
    web.route("*", "/{kind:swarm|nodes|services|tasks|configs}{rest:(/.*)?}", no_swarm),
]
