"""daemon: run the engine in the foreground."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Annotated

import typer

from engine.cli.base import option, session
from engine.cli.errors import BadValue, Failure, did_you_mean
from engine.cli.parse.amounts import duration_ns
from engine.cli.parse.pairs import options as key_values
from engine.cli.transport import Endpoint
from engine.cluster.options import GRACE_SECONDS, READY_SECONDS, ClusterOptions
from engine.daemon_options import DEFAULT_DATA_ROOT, DEFAULT_EXEC_ROOT, DEFAULT_HOST, DaemonOptions, DaemonTls

LEVELS = ("debug", "info", "warning", "error")
Many = list[str] | None
_NET, _REG, _TLS, _CLU = "Networks", "Registries", "TLS of tcp hosts", "Cluster"


def daemon(
    ctx: typer.Context,
    host: Annotated[
        Many, option("-H", "--host", metavar="HOST", help=f"Listen there (repeatable; {DEFAULT_HOST})")
    ] = None,
    data_root: Annotated[
        str, option("--data-root", metavar="DIR", help=f"Images, volumes and state ({DEFAULT_DATA_ROOT})")
    ] = str(DEFAULT_DATA_ROOT),
    exec_root: Annotated[
        str, option("--exec-root", metavar="DIR", help=f"What does not outlive a reboot ({DEFAULT_EXEC_ROOT})")
    ] = str(DEFAULT_EXEC_ROOT),
    runtime: Annotated[str, option("--runtime", metavar="NAME", help="OCI runtime (crun, else runc)")] = "",
    log_level: Annotated[str, option("--log-level", metavar="LEVEL", help="debug, info, warning, error")] = "info",
    log_format: Annotated[str, option("--log-format", metavar="FORMAT", help="text or json")] = "text",
    idle_exit: Annotated[
        str, option("--idle-exit", metavar="SECONDS", help="Stop after so long without clients and containers")
    ] = "",
    pidfile: Annotated[str, option("--pidfile", metavar="FILE", help="Keep the process id in a file")] = "",
    no_cli_server: Annotated[bool, option("--no-cli-server", help="Keep no warm command line")] = False,
    net_driver: Annotated[
        str, option("--net-driver", metavar="DRIVER", help="Driver of the default network (bridge)", panel=_NET)
    ] = "",
    net_opt: Annotated[Many, option("--net-opt", metavar="KEY=VALUE", help="Option of that driver", panel=_NET)] = None,
    default_address_pool: Annotated[
        Many,
        option("--default-address-pool", metavar="base=CIDR,size=N", help="Take subnets from there", panel=_NET),
    ] = None,
    insecure_registry: Annotated[
        Many, option("--insecure-registry", metavar="HOST[:PORT]", help="Speak plain HTTP with it", panel=_REG)
    ] = None,
    cluster: Annotated[
        str, option("--cluster", metavar="URL", help="etcd://HOST:PORT,HOST:PORT or file:///PATH of peers", panel=_CLU)
    ] = "",
    advertise: Annotated[
        str, option("--advertise", metavar="IP", help="Address at which other nodes reach this host", panel=_CLU)
    ] = "",
    node_name: Annotated[
        str, option("--node-name", metavar="NAME", help="Name of this node (the host's)", panel=_CLU)
    ] = "",
    cluster_user: Annotated[str, option("--cluster-user", metavar="USER", help="User of etcd", panel=_CLU)] = "",
    cluster_password_file: Annotated[
        str, option("--cluster-password-file", metavar="FILE", help="Holds the user's password", panel=_CLU)
    ] = "",
    cluster_ca: Annotated[
        str, option("--cluster-ca", metavar="FILE", help="Authority of etcd's certificates", panel=_CLU)
    ] = "",
    cluster_cert: Annotated[
        str, option("--cluster-cert", metavar="FILE", help="Certificate to show to etcd", panel=_CLU)
    ] = "",
    cluster_key: Annotated[str, option("--cluster-key", metavar="FILE", help="Its key", panel=_CLU)] = "",
    cluster_wait: Annotated[
        str, option("--cluster-wait", metavar="SECONDS", help="Wait so long for an etcd that is away (0)", panel=_CLU)
    ] = "",
    cluster_grace: Annotated[
        str,
        option("--cluster-grace", metavar="SECONDS", help="Without a sign for so long, a node is gone", panel=_CLU),
    ] = "",
    cluster_ready: Annotated[
        str,
        option("--cluster-ready", metavar="SECONDS", help="Without a sign for so long, it counts as down", panel=_CLU),
    ] = "",
    tlscert: Annotated[str, option("--tlscert", metavar="FILE", help="Certificate", panel=_TLS)] = "",
    tlskey: Annotated[str, option("--tlskey", metavar="FILE", help="Its key", panel=_TLS)] = "",
    tlscacert: Annotated[
        str,
        option("--tlscacert", metavar="FILE", help="Admit clients with a certificate of this authority", panel=_TLS),
    ] = "",
    insecure: Annotated[
        bool, option("--insecure", help="Serve tcp hosts without client certificates: all are root", panel=_TLS)
    ] = False,
) -> int:
    """Run the daemon in the foreground."""
    for flag, value, known in (("--log-level", log_level, LEVELS), ("--log-format", log_format, ("text", "json"))):
        if value not in known:
            raise BadValue(flag, value, f"use {', '.join(known)}{did_you_mean(value, known)}")
    if bool(tlscert) != bool(tlskey) or (tlscacert and not tlscert):
        raise Failure("--tlscert and --tlskey go together, and --tlscacert needs both", 125)
    if not cluster and (advertise or node_name or cluster_user or cluster_ca or cluster_cert):
        raise Failure("--advertise, --node-name and --cluster-… go with --cluster", 125)
    around = session(ctx)
    hosts = tuple(host or ([around.host] if around.chosen else [DEFAULT_HOST]))
    for text in hosts:
        Endpoint.parse(text)
    options = DaemonOptions(
        hosts=hosts,
        data_root=Path(data_root).absolute(),
        exec_root=Path(exec_root).absolute(),
        net_driver=net_driver or around.net_driver or "bridge",
        net_opts={**key_values("--net-opt", around.net_opts), **key_values("--net-opt", net_opt or ())},
        default_address_pools=tuple(default_address_pool or ()),
        insecure_registries=tuple(insecure_registry or ()),
        runtime=runtime,
        idle_exit=_seconds("--idle-exit", idle_exit) if idle_exit else None,
        log_level=log_level,
        log_format=log_format,
        tls=DaemonTls(Path(tlscert), Path(tlskey), Path(tlscacert) if tlscacert else None) if tlscert else None,
        pidfile=Path(pidfile).absolute() if pidfile else None,
        cli_server=not no_cli_server,
        insecure=insecure,
        cluster=ClusterOptions(
            url=cluster,
            advertise=advertise,
            node=node_name,
            user=cluster_user,
            password_file=_absolute(cluster_password_file),
            ca=_absolute(cluster_ca),
            certificate=_absolute(cluster_cert),
            key=_absolute(cluster_key),
            wait=_seconds("--cluster-wait", cluster_wait) if cluster_wait else 0.0,
            grace=int(_seconds("--cluster-grace", cluster_grace)) if cluster_grace else GRACE_SECONDS,
            ready=int(_seconds("--cluster-ready", cluster_ready)) if cluster_ready else READY_SECONDS,
        )
        if cluster
        else None,
    )
    if os.geteuid() != 0:
        raise Failure("the daemon must run as root: it makes namespaces, mounts and firewall rules. Use sudo")
    code: int = importlib.import_module("engine.daemon").run(options)
    return code


def _absolute(path: str) -> str:
    return str(Path(path).absolute()) if path else ""


def _seconds(flag: str, text: str) -> float:
    """Parse seconds, or a duration such as 5m. Raises BadValue."""
    return float(text) if text.isdecimal() else duration_ns(flag, text) / 1e9
