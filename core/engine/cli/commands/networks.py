"""network create, ls, inspect, rm, prune, connect, disconnect, plan."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer

from engine.cli.base import argument, client_of, option, session
from engine.cli.commands.lifecycle import Force, for_each
from engine.cli.commands.listing import inspect_objects
from engine.cli.errors import BadValue, Failure
from engine.cli.parse.networks import Attachment
from engine.cli.parse.pairs import filters, ip_address, labels, mac_address, options
from engine.cli.render.table import write_columns, write_rows
from engine.cli.render.words import short_id
from engine.cli.terminal import confirm

_COLUMNS = {"ID": "NETWORK ID", "Name": "NAME", "Driver": "DRIVER", "Scope": "SCOPE"}
Many = list[str] | None


def create(
    ctx: typer.Context,
    name: Annotated[str, argument("NAME")],
    driver: Annotated[str, option("-d", "--driver", metavar="DRIVER", help="Network driver (bridge)")] = "",
    opt: Annotated[Many, option("-o", "--opt", metavar="KEY=VALUE", help="Option of the driver")] = None,
    subnet: Annotated[
        Many, option("--subnet", metavar="CIDR", help="Subnet, e.g. 10.1.0.0/24", panel="Addresses")
    ] = None,
    gateway: Annotated[Many, option("--gateway", metavar="IP", help="Gateway of the subnet", panel="Addresses")] = None,
    ip_range: Annotated[
        Many, option("--ip-range", metavar="CIDR", help="Give out addresses of this part only", panel="Addresses")
    ] = None,
    aux_address: Annotated[
        Many, option("--aux-address", metavar="NAME=IP", help="Address that is taken already", panel="Addresses")
    ] = None,
    ipam_driver: Annotated[
        str, option("--ipam-driver", metavar="DRIVER", help="Driver that gives out addresses", panel="Addresses")
    ] = "",
    ipam_opt: Annotated[
        Many, option("--ipam-opt", metavar="KEY=VALUE", help="Option of that driver", panel="Addresses")
    ] = None,
    ipv4: Annotated[bool, option("--ipv4/--no-ipv4", help="IPv4", panel="Addresses")] = True,
    ipv6: Annotated[bool, option("--ipv6", help="Also IPv6", panel="Addresses")] = False,
    internal: Annotated[bool, option("--internal", help="No way to the outside")] = False,
    attachable: Annotated[bool, option("--attachable", help="Containers may join by hand")] = False,
    scope: Annotated[str, option("--scope", metavar="SCOPE", help="local or global")] = "",
    label: Annotated[Many, option("--label", metavar="KEY[=VALUE]", help="Label")] = None,
) -> None:
    """Make a network."""
    chosen = driver or session(ctx).net_driver
    body = {
        "Name": name,
        "CheckDuplicate": True,
        "Driver": chosen or "bridge",
        "Scope": scope,
        "Internal": internal,
        "Attachable": attachable,
        "EnableIPv4": ipv4,
        "EnableIPv6": ipv6 or any(":" in text for text in subnet or ()),
        "IPAM": {
            "Driver": ipam_driver or "default",
            "Config": ipam_config(subnet or [], gateway or [], ip_range or [], aux_address or []),
            "Options": options("--ipam-opt", ipam_opt or ()),
        },
        "Options": options("--opt", opt or ()),
        "Labels": labels(label or ()),
    }
    answer = client_of(ctx).post("/networks/create", body=body)
    if answer.get("Warning"):
        print(f"engine: warning: {answer['Warning']}", file=sys.stderr)
    print(answer["Id"])


def _network(flag: str, text: str) -> Any:
    import ipaddress

    try:
        return ipaddress.ip_network(text)
    except ValueError as err:
        raise BadValue(flag, text, f"{err}; expected e.g. 10.1.0.0/24") from None


def ipam_config(subnets: list[str], gateways: list[str], ranges: list[str], taken: list[str]) -> list[dict[str, Any]]:
    """Join the address flags to the API's IPAM.Config: each goes with the subnet it lies in. Raises Failure."""
    import ipaddress

    nets = [(_network("--subnet", text), {"Subnet": text}) for text in subnets]
    for n, (net, _) in enumerate(nets):
        for other, _ in nets[:n]:
            if net.version == other.version and net.overlaps(other):
                raise BadValue("--subnet", str(net), f"overlaps with {other}")
    configs: list[tuple[Any, dict[str, Any]]] = list(nets)

    def owner(flag: str, text: str, address: Any) -> dict[str, Any]:
        for net, config in configs:
            if net.version == address.version and (
                address in net if not hasattr(address, "subnet_of") else address.subnet_of(net)
            ):
                return config
        known = ", ".join(str(net) for net, _ in configs)
        raise BadValue(flag, text, f"lies in no subnet ({known})" if known else "needs --subnet")

    for text in ranges:
        config = owner("--ip-range", text, _network("--ip-range", text))
        if "IPRange" in config:
            raise Failure(f"--ip-range {text}: the subnet {config['Subnet']} has one already", 125)
        config["IPRange"] = text
    for text in gateways:
        config = owner("--gateway", text, ipaddress.ip_address(ip_address("--gateway", text)))
        if "Gateway" in config:
            raise Failure(f"--gateway {text}: the subnet {config['Subnet']} has one already", 125)
        config["Gateway"] = text
    for text in taken:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise BadValue("--aux-address", text, "expected NAME=IP")
        config = owner("--aux-address", text, ipaddress.ip_address(ip_address("--aux-address", value, text)))
        config.setdefault("AuxiliaryAddresses", {})[name] = value
    return [config for _, config in configs]


def ls(
    ctx: typer.Context,
    quiet: Annotated[bool, option("-q", "--quiet", help="Only ids")] = False,
    no_trunc: Annotated[bool, option("--no-trunc", help="Do not cut long values")] = False,
    filter: Annotated[Many, option("-f", "--filter", metavar="KEY=VALUE", help="Condition")] = None,
    format: Annotated[str, option("--format", metavar="TEMPLATE", help="json, or a Go template")] = "",
) -> None:
    """List networks."""
    found = client_of(ctx).get("/networks", {"filters": filters(filter or ())})
    rows = [
        {
            "ID": n["Id"] if no_trunc else short_id(n["Id"]),
            "Name": n["Name"],
            "Driver": n["Driver"],
            "Scope": n["Scope"],
            "Internal": str(n.get("Internal", False)).lower(),
            "IPv6": str(n.get("EnableIPv6", False)).lower(),
            "CreatedAt": n.get("Created", ""),
            "Labels": ",".join(f"{k}={v}" for k, v in sorted((n.get("Labels") or {}).items())),
        }
        for n in sorted(found, key=lambda n: n["Name"])
    ]
    write_rows(rows, _COLUMNS, format=format, quiet=(lambda row: str(row["ID"])) if quiet else None)


def inspect(
    ctx: typer.Context,
    names: Annotated[list[str], argument("NETWORK...")],
    format: Annotated[str, option("-f", "--format", metavar="TEMPLATE", help="json, or a Go template")] = "",
    verbose: Annotated[bool, option("-v", "--verbose", help="Also what other hosts have")] = False,
) -> int:
    """Show everything about networks."""
    return inspect_objects(client_of(ctx), names, ["network"], format)


def rm(
    ctx: typer.Context,
    networks: Annotated[list[str], argument("NETWORK...")],
    force: Annotated[bool, option("-f", "--force", help="One that is gone is no error")] = False,
) -> int:
    """Remove networks."""
    client = client_of(ctx)

    def remove(name: str) -> None:
        try:
            client.delete(f"/networks/{name}")
        except Failure as err:
            if not (force and getattr(err, "status", 0) == 404):
                raise

    return for_each(networks, remove)


def prune(
    ctx: typer.Context,
    force: Force = False,
    filter: Annotated[Many, option("--filter", metavar="KEY=VALUE", help="Condition")] = None,
) -> None:
    """Remove networks that no container uses."""
    if not force and not confirm("This removes all networks that no container uses. Go on?"):
        return
    gone = (client_of(ctx).post("/networks/prune", {"filters": filters(filter or ())}) or {}).get("NetworksDeleted")
    if gone:
        print("\n".join(["Deleted Networks:", *gone]))


def connect(
    ctx: typer.Context,
    network: Annotated[str, argument("NETWORK")],
    container: Annotated[str, argument("CONTAINER")],
    ip: Annotated[str, option("--ip", metavar="ADDRESS", help="IPv4 address")] = "",
    ip6: Annotated[str, option("--ip6", metavar="ADDRESS", help="IPv6 address")] = "",
    mac: Annotated[str, option("--mac-address", metavar="MAC", help="MAC address")] = "",
    alias: Annotated[Many, option("--alias", metavar="NAME", help="Further name in the network")] = None,
    link_local_ip: Annotated[Many, option("--link-local-ip", metavar="ADDRESS", help="Link-local address")] = None,
    gw_priority: Annotated[
        int, option("--gw-priority", help="The network of the highest one has the container's default route")
    ] = 0,
    driver_opt: Annotated[
        Many, option("--driver-opt", metavar="KEY=VALUE", help="Option of the driver, or of the endpoint (rate=10mbit)")
    ] = None,
) -> None:
    """Let a container join a network."""
    joined = Attachment(
        network,
        aliases=tuple(alias or ()),
        ip=ip_address("--ip", ip, version=4) if ip else "",
        ip6=ip_address("--ip6", ip6, version=6) if ip6 else "",
        mac=mac_address("--mac-address", mac) if mac else "",
        link_local=tuple(ip_address("--link-local-ip", a) for a in link_local_ip or ()),
        gw_priority=gw_priority,
        driver_opts=options("--driver-opt", driver_opt or ()),
    )
    body = {"Container": container, "EndpointConfig": joined.settings()}
    client_of(ctx).post(f"/networks/{network}/connect", body=body)


def disconnect(
    ctx: typer.Context,
    network: Annotated[str, argument("NETWORK")],
    container: Annotated[str, argument("CONTAINER")],
    force: Annotated[bool, option("-f", "--force", help="Even if the container does not answer")] = False,
) -> None:
    """Let a container leave a network."""
    client_of(ctx).post(f"/networks/{network}/disconnect", body={"Container": container, "Force": force})


def plan(
    ctx: typer.Context,
    network: Annotated[str, argument("NETWORK")],
    format: Annotated[str, option("--format", metavar="FORMAT", help="json for everything")] = "",
) -> None:
    """Show what the driver wants on this host, and where the host differs. Nothing is changed."""
    found = client_of(ctx).get(f"/engine/networks/{network}/plan")
    if format == "json":
        print(json.dumps(found, indent=2))
        return
    rows = []
    for resource in found.get("resources") or ():
        fields = (resource.get("fields") or {}).items()
        changes = ", ".join(f"{name} is {seen}, not {wanted}" for name, (wanted, seen) in fields)
        rows.append((resource["owner"], resource["resource"], resource["state"], changes))
    write_columns(["OWNER", "RESOURCE", "STATE", "DIFFERENCE"], rows)


def verify(
    ctx: typer.Context,
    network: Annotated[str, argument("NETWORK")],
    format: Annotated[str, option("--format", metavar="FORMAT", help="json for everything")] = "",
) -> int:
    """Ask all hosts of the cluster whether a network is there as it should be; 1 if it is not."""
    found = client_of(ctx).post(f"/engine/networks/{network}/verify") or {}
    if format == "json":
        print(json.dumps(found, indent=2))
        return 0 if found["Ok"] else 1
    rows = []
    for host in found["Hosts"]:
        problems = [*host["problems"], *(path["problem"] for path in host["paths"] if path["problem"])]
        paths = ", ".join(f"{path['to']} {path['bytes']}" for path in host["paths"] if not path["problem"])
        first, *others = problems or ["none"]
        rows.append((host["node"], str(host["containers"]), str(host["entries"]), paths, first))
        rows += [("", "", "", "", problem) for problem in others]
    write_columns(["HOST", "CONTAINERS", "ENTRIES", "PATHS (BYTES)", "PROBLEMS"], rows)
    return 0 if found["Ok"] else 1
