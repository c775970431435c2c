"""From what a daemon was told of its cluster to the cluster itself."""

from __future__ import annotations

import socket
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path

from engine.cluster.cluster import Cluster, Settings
from engine.cluster.membership import Memory
from engine.cluster.model import Node
from engine.cluster.options import ClusterOptions, text_of
from engine.cluster.static import Partition, PeersFile, StaticStore
from engine.cluster.store import ClusterStore
from engine.spec.errors import InvalidParameter, Unsupported
from engine.spec.network import NetworkDriver


def open_cluster(options: ClusterOptions, node_id: str, version: str, memory: Memory, data: Path) -> Cluster:
    """Return the cluster, not started. `data` is a directory of the daemon's.

    Raises InvalidParameter for options that are wrong, Unsupported when the package for etcd is not installed.
    """
    name, endpoints = options.node_name, options.endpoints
    partition, store = None, None
    if endpoints:
        advertise = options.advertise or _own_address(endpoints)
        store = _etcd(options, endpoints)
    else:
        partition = Partition(PeersFile.read(Path(options.url.removeprefix("file://"))), name)
        own = partition.file.nodes[partition.own].address
        advertise = options.advertise or own
        if advertise != own:
            raise InvalidParameter(f"the file of peers has node {name} at {own}, and --advertise says {advertise}")
        store = StaticStore(partition, data / "networks.json")
    spec = NetworkDriver.SPEC
    node = Node(
        name=name,
        id=node_id,
        address=_address(advertise),
        spec=(spec.major, spec.minor),
        version=version,
        joined=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    settings = Settings(grace=options.grace, ready=options.ready, wait=options.wait, memory=memory, partition=partition)
    return Cluster(store, node, settings)


def _etcd(options: ClusterOptions, endpoints: tuple[str, ...]) -> ClusterStore:
    try:
        from engine.cluster.etcd import EtcdAccess, EtcdStore
    except ImportError as err:
        raise Unsupported(
            "a cluster on etcd needs a package that is not installed", why=str(err),
            hint="pip install 'pluggable-engine[cluster]', or use a file of peers: --cluster file:///PATH",
        ) from err  # fmt: skip

    def path(text: str) -> Path | None:
        return Path(text) if text else None

    password = text_of(options.password_file).rstrip("\n") if options.password_file else ""
    if bool(options.user) != bool(password):
        raise InvalidParameter(
            "a user of etcd and a password go together", hint="--cluster-user, --cluster-password-file"
        )
    if bool(options.certificate) != bool(options.key):
        raise InvalidParameter("--cluster-cert and --cluster-key go together")
    tls = options.url.startswith("etcds://")
    certificate, key = path(options.certificate), path(options.key)
    return EtcdStore(EtcdAccess(endpoints, options.user, password, path(options.ca), certificate, key, tls))


def _own_address(endpoints: tuple[str, ...]) -> str:
    """Return the address with which this host would speak to the first endpoint that it has a route to."""
    for endpoint in endpoints:
        host, _, port = endpoint.rpartition(":")
        try:
            for family, kind, protocol, _, address in socket.getaddrinfo(
                host.strip("[]"), int(port), type=socket.SOCK_DGRAM
            ):
                with socket.socket(family, kind, protocol) as sock:
                    sock.connect(address)
                    own = str(sock.getsockname()[0])
                    if not ip_address(own).is_loopback:
                        return own
        except OSError:
            continue
    raise InvalidParameter(
        "this host's address on the underlay is not known",
        why=f"it has no route to {', '.join(endpoints)} but its own",
        hint="Give it with --advertise",
    )  # fmt: skip


def _address(text: str) -> str:
    try:
        address = ip_address(text)
    except ValueError as err:
        raise InvalidParameter(f"{text!r} is no address that others could reach this host at") from err
    if address.is_unspecified or address.is_multicast or address.is_loopback:
        raise InvalidParameter(f"other hosts cannot reach this one at {text}", hint="Give another --advertise")
    return str(address)
