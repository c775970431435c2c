"""How a daemon was asked to run: the one argument of `engine.daemon.run`."""

from __future__ import annotations

import dataclasses
import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.cluster.options import ClusterOptions
from engine.spec.errors import InvalidParameter

DEFAULT_HOST = "unix:///run/engine/engine.sock"
DEFAULT_DATA_ROOT = Path("/var/lib/engine")
DEFAULT_EXEC_ROOT = Path("/run/engine")


@dataclass(frozen=True)
class DaemonTls:
    """Files of a TLS listener; with `ca`, clients must show a certificate that it signed."""

    certificate: Path
    key: Path
    ca: Path | None = None


@dataclass(frozen=True)
class DaemonOptions:
    """What `engine daemon` was given; the defaults are those of the command line."""

    hosts: tuple[str, ...] = (DEFAULT_HOST,)
    """Addresses to listen on: `unix:///path` and `tcp://address:port`."""
    data_root: Path = DEFAULT_DATA_ROOT
    """What survives a reboot: images, volumes, state."""
    exec_root: Path = DEFAULT_EXEC_ROOT
    """What does not: namespaces, bundles, sockets (among them `cli.sock`)."""
    net_driver: str = "bridge"
    """Network driver of containers that name neither network nor driver."""
    net_opts: Mapping[str, str] = field(default_factory=dict)
    """Options of that driver's default network."""
    default_address_pools: tuple[str, ...] = ()
    """Where networks get subnets from that name none, each `base=PREFIX,size=LENGTH`; empty: docker's."""
    insecure_registries: tuple[str, ...] = ()
    """Registries that are spoken to by plain HTTP or without checking their certificates."""
    runtime: str = ""
    """OCI runtime, by name or path; empty: crun, or runc where crun does not work."""
    idle_exit: float | None = None
    """Seconds without a client, a request and a container after which the daemon stops; None: never."""
    log_level: str = "info"
    """debug, info, warning or error."""
    log_format: str = "text"
    """text or json."""
    tls: DaemonTls | None = None
    """TLS of the tcp hosts."""
    pidfile: Path | None = None
    """File that holds the daemon's process id while it runs."""
    cluster: ClusterOptions | None = None
    """The cluster that the host is a node of."""
    cli_server: bool = True
    """Whether to keep a warm command line (`engine.cli.warm`), which makes `engine` start ten times faster."""
    insecure: bool = False
    """Whether tcp hosts may be served to clients that show no certificate."""

    def __post_init__(self) -> None:
        """Refuse what would make everybody root who reaches a port. Raises InvalidParameter."""
        open_to_all = [host for host in self.hosts if host.startswith("tcp://")]
        if open_to_all and not self.insecure and (self.tls is None or self.tls.ca is None):
            raise InvalidParameter(
                f"{open_to_all[0]} would be served to clients that show no certificate",
                why="whoever reaches that port, from any container or browser page too, would be root on this host",
                hint="Give --tlscert, --tlskey and --tlscacert, or --insecure, if nobody else can reach the port",
            )

    def tls_context(self) -> ssl.SSLContext | None:
        """Return the server context of the tcp hosts, or None. Raises InvalidParameter naming the files."""
        if self.tls is None:
            return None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        try:
            context.load_cert_chain(self.tls.certificate, self.tls.key)
            if self.tls.ca is not None:
                context.load_verify_locations(self.tls.ca)
                context.verify_mode = ssl.CERT_REQUIRED
        except OSError as err:  # ssl.SSLError is one
            files = ", ".join(str(f) for f in (self.tls.certificate, self.tls.key, self.tls.ca) if f)
            raise InvalidParameter(f"cannot use the TLS files {files}", why=str(err)) from err
        return context

    def to_json(self) -> str:
        """Return the options as `from_json` takes them."""
        return json.dumps(dataclasses.asdict(self), default=str)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> DaemonOptions:
        """Make options from a JSON object: the fields' names; what is missing has its default."""
        given = dict(document)
        for name in ("hosts", "insecure_registries", "default_address_pools"):
            if name in given:
                given[name] = tuple(given[name])
        for name in ("data_root", "exec_root", "pidfile"):
            if given.get(name) is not None:
                given[name] = Path(given[name])
        if given.get("tls") is not None:
            tls = given["tls"]
            ca = Path(tls["ca"]) if tls.get("ca") else None
            given["tls"] = DaemonTls(Path(tls["certificate"]), Path(tls["key"]), ca)
        if given.get("cluster") is not None:
            given["cluster"] = ClusterOptions(**given["cluster"])
        return cls(**given)
