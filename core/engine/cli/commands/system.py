"""version, info, system prune, doctor."""

from __future__ import annotations

import json
import platform
import sys
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as distribution_version
from typing import Annotated, Any

import typer

from engine.cli.base import client_of, option, session
from engine.cli.client import API_VERSION
from engine.cli.commands.lifecycle import Force, report_pruned
from engine.cli.errors import Failure
from engine.cli.parse.pairs import filters
from engine.cli.render.table import write_columns
from engine.cli.render.template import Template
from engine.cli.render.words import bytes_binary
from engine.cli.terminal import confirm

Format = Annotated[str, option("-f", "--format", metavar="TEMPLATE", help="json, or a Go template")]


def own_version() -> str:
    """Return the version of this engine."""
    try:
        return distribution_version("pluggable-engine")
    except PackageNotFoundError:
        return "unknown"


def version(ctx: typer.Context, format: Format = "") -> int:
    """Show the versions of the command line and the daemon."""
    ours = {
        "Version": own_version(),
        "ApiVersion": API_VERSION,
        "PythonVersion": platform.python_version(),
        "Os": platform.system().lower(),
        "Arch": platform.machine(),
    }
    failure: Failure | None = None
    try:
        server: dict[str, Any] | None = client_of(ctx).get("/version")
    except Failure as err:
        server, failure = None, err
    if format:
        write_objects_one({"Client": ours, "Server": server}, format)
    else:
        print("Client:")
        for title, key in (("Version", "Version"), ("API version", "ApiVersion"), ("Python version", "PythonVersion")):
            print(f" {title + ':':<19}{ours[key]}")
        print(f" {'OS/Arch:':<19}{ours['Os']}/{ours['Arch']}")
        if server is not None:
            _print_server(server)
    if failure is not None:
        print(f"engine: {failure}", file=sys.stderr)
    return int(failure is not None)


def write_objects_one(found: Any, format: str) -> None:
    """Print one object as JSON or by a template."""
    print(json.dumps(found, ensure_ascii=False) if format == "json" else Template(format).render(found))


def _print_server(server: dict[str, Any]) -> None:
    print(f"\nServer: {(server.get('Platform') or {}).get('Name', '')}".rstrip())
    components = server.get("Components") or [{"Name": "Engine", "Version": server.get("Version", ""), "Details": {}}]
    for component in components:
        print(f" {component['Name']}:")
        print(f"  {'Version:':<18}{component['Version']}")
        for key, value in (component.get("Details") or {}).items():
            print(f"  {key + ':':<18}{value}")


_INFO = (
    ("Containers", "Containers"), (" Running", "ContainersRunning"), (" Paused", "ContainersPaused"),
    (" Stopped", "ContainersStopped"), ("Images", "Images"), ("Server Version", "ServerVersion"),
    ("Storage Driver", "Driver"), ("Logging Driver", "LoggingDriver"), ("Cgroup Driver", "CgroupDriver"),
    ("Cgroup Version", "CgroupVersion"), ("Default Runtime", "DefaultRuntime"), ("Kernel Version", "KernelVersion"),
    ("Operating System", "OperatingSystem"), ("OSType", "OSType"), ("Architecture", "Architecture"), ("CPUs", "NCPU"),
    ("Total Memory", "MemTotal"), ("Name", "Name"), ("ID", "ID"), ("Data Root", "DockerRootDir"),
)  # fmt: skip


def info(ctx: typer.Context, format: Format = "") -> None:
    """Show what the daemon is, has and can."""
    found = client_of(ctx).get("/info")
    if format:
        write_objects_one(found, format)
        return
    for title, key in _INFO:
        if key in found:
            value = bytes_binary(found[key]) if key == "MemTotal" else found[key]
            print(f"{title}: {value}")
    plugins = found.get("Plugins") or {}
    print("Plugins:")
    for kind in ("Network", "Volume", "Ipam", "Storage"):
        if plugins.get(kind):
            print(f" {kind}: {' '.join(plugins[kind])}")
    for registry in (found.get("RegistryConfig") or {}).get("InsecureRegistryCIDRs") or ():
        print(f"Insecure Registry: {registry}")
    for warning in found.get("Warnings") or ():
        print(warning, file=sys.stderr)


def prune(
    ctx: typer.Context,
    all: Annotated[bool, option("-a", "--all", help="Also images with a name that no container uses")] = False,
    volumes: Annotated[bool, option("--volumes", help="Also anonymous volumes")] = False,
    force: Force = False,
    filter: Annotated[list[str] | None, option("--filter", metavar="KEY=VALUE", help="Condition")] = None,
) -> None:
    """Remove all that is not used."""
    what = ["stopped containers", "networks", "images that no container uses" if all else "nameless images"]
    if volumes:
        what.insert(2, "anonymous volumes")
    if not force and not confirm(f"This removes all unused {', '.join(what)}. Go on?"):
        return
    client, chosen = client_of(ctx), filters(filter or ())
    steps: list[tuple[str, str, str, dict[str, Any] | None]] = [
        ("containers", "Deleted Containers:", "ContainersDeleted", chosen),
        ("networks", "Deleted Networks:", "NetworksDeleted", chosen),
    ]
    if volumes:
        steps.append(("volumes", "Deleted Volumes:", "VolumesDeleted", chosen))
    dangling = {"dangling": ["false" if all else "true"]}
    steps.append(("images", "Deleted Images:", "ImagesDeleted", {**(chosen or {}), **dangling}))
    space = 0
    for path, title, key, given in steps:
        answer = client.post(f"/{path}/prune", {"filters": given}) or {}
        space += answer.get("SpaceReclaimed") or 0
        gone = [
            item if isinstance(item, str) else ", ".join(f"{k.lower()}: {v}" for k, v in item.items())
            for item in answer.get(key) or ()
        ]
        if gone:
            print("\n".join([title, *gone, ""]))
    report_pruned("", (), space)


def doctor(
    ctx: typer.Context,
    repair: Annotated[bool, option("--repair", help="Make the host what it should be")] = False,
    format: Annotated[str, option("--format", metavar="FORMAT", help="json for everything")] = "",
) -> int:
    """Compare what should be on this host with what is; the exit code is 1 if they differ.

    Links, addresses, routes, firewall rules, mounts, namespaces and what is paused are looked at. With --repair what is
    missing is made again, and what is ours and not wanted is removed.
    """
    client = session(ctx).client
    found = client.post("/engine/doctor/repair") if repair else client.get("/engine/doctor")
    if format == "json":
        print(json.dumps(found, indent=2))
        return int(bool(found.get("differences")))
    if repaired := found.get("repaired"):
        print("Repaired:")
        write_columns(["OWNER", "RESOURCE", "WHAT"], [_difference(d) for d in repaired])
    differences = found.get("differences") or []
    if differences:
        print("Different:")
        write_columns(["OWNER", "RESOURCE", "WHAT"], [_difference(d) for d in differences])
        if not repair:
            print("To repair: engine doctor --repair")
    else:
        print("Everything is as it should be.")
    return int(bool(differences))


def _difference(found: dict[str, Any]) -> tuple[str, str, str]:
    owner = str(found.get("title") or found.get("owner", ""))
    return owner, str(found.get("resource", "")), str(found.get("detail", ""))
