"""How a daemon is told of its cluster: `--cluster` and what goes with it; and the token with which others join.

etcd://host:2379,host:2379      endpoints of etcd; etcds:// speaks TLS with the authorities that the host trusts
file:///etc/engine/peers.json   a file of peers
"""

from __future__ import annotations

import base64
import json
import re
import socket
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from engine.cluster.cluster import Cluster, Settings
from engine.cluster.membership import GRACE_SECONDS, Memory
from engine.cluster.model import Node
from engine.cluster.static import Partition, PeersFile, StaticStore
from engine.cluster.store import ClusterStore
from engine.spec.errors import InvalidParameter, Unsupported
from engine.spec.network import NetworkDriver

TOKEN = "engine-join-"
_FORM = "Expected etcd://HOST:PORT,HOST:PORT, etcds://… or file:///PATH"
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}")


@dataclass(frozen=True)
class ClusterOptions:
    """What a daemon was told. Checked when it is used."""

    url: str
    advertise: str = ""
    """This host's own address on the underlay; empty: that with which it would speak to the cluster."""
    node: str = ""
    """Name of this node; empty: the host's name."""
    user: str = ""
    password_file: str = ""
    ca: str = ""
    certificate: str = ""
    key: str = ""
    wait: float = 0.0
    """Seconds for which joins wait for a store that is away."""
    grace: int = GRACE_SECONDS
    """Seconds without a sign of life after which a node is gone, with its endpoints."""

    @property
    def endpoints(self) -> tuple[str, ...]:
        """Return etcd's endpoints; empty for a file of peers. Raises InvalidParameter."""
        scheme, found, rest = self.url.partition("://")
        if scheme == "file" and found:
            return ()
        if scheme not in ("etcd", "etcds") or not rest:
            raise InvalidParameter(f"{self.url!r} is no cluster", hint=_FORM)
        return tuple(_endpoint(self.url, text) for text in rest.rstrip("/").split(","))

    @property
    def node_name(self) -> str:
        """Return the name of this node. Raises InvalidParameter."""
        name = self.node or socket.gethostname()
        if not _NAME.fullmatch(name):
            raise InvalidParameter(f"{name!r} is no name for a node", hint="Give another one with --node-name")
        return name

    def token(self) -> str:
        """Return what `engine node join` takes on another host: all of this that is not the host's own.

        It holds the password and the authority's certificate, but no file of a client's key: those stay where they are.
        """
        document: dict[str, Any] = {"url": self.url, "user": self.user, "wait": self.wait, "grace": self.grace}
        document |= {"certificate": self.certificate, "key": self.key}
        for name in ("password_file", "ca"):
            if getattr(self, name):
                document[name.removesuffix("_file")] = _text(getattr(self, name))
        if not self.endpoints:
            document["peers"] = _text(self.url.removeprefix("file://"))
        return TOKEN + base64.urlsafe_b64encode(json.dumps(document).encode()).decode().rstrip("=")


def unpack_token(token: str, directory: Path, *, advertise: str = "", node: str = "") -> ClusterOptions:
    """Read a token; what it holds of secrets goes into files of a directory, readable by root alone.

    Raises InvalidParameter for what is no token.
    """
    text = token.strip().removeprefix(TOKEN)
    try:
        document = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        if not token.strip().startswith(TOKEN) or not isinstance(document.get("url"), str):
            raise ValueError("it does not begin as one")
    except (ValueError, AttributeError) as err:
        raise InvalidParameter("that is no token for joining", why=str(err), hint="See: engine node token") from err

    def keep(name: str) -> str:
        if not document.get(name):
            return ""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = directory / name
        path.touch(mode=0o600)
        path.write_text(document[name])
        return str(path)

    url = f"file://{keep('peers')}" if document.get("peers") else document["url"]
    return ClusterOptions(
        url, advertise, node, document.get("user", ""), keep("password"), keep("ca"), document.get("certificate", ""),
        document.get("key", ""), float(document.get("wait", 0)), int(document.get("grace", GRACE_SECONDS)),
    )  # fmt: skip


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
    node = Node(name=name, id=node_id, address=_address(advertise), spec=(spec.major, spec.minor), version=version)
    settings = Settings(grace=options.grace, wait=options.wait, memory=memory, partition=partition)
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

    password = _text(options.password_file).rstrip("\n") if options.password_file else ""
    if bool(options.user) != bool(password):
        raise InvalidParameter(
            "a user of etcd and a password go together", hint="--cluster-user, --cluster-password-file"
        )
    if bool(options.certificate) != bool(options.key):
        raise InvalidParameter("--cluster-cert and --cluster-key go together")
    tls = options.url.startswith("etcds://")
    certificate, key = path(options.certificate), path(options.key)
    return EtcdStore(EtcdAccess(endpoints, options.user, password, path(options.ca), certificate, key, tls))


def _endpoint(url: str, text: str) -> str:
    try:
        parts = urlsplit(f"//{text}")
        port = parts.port or 2379
    except ValueError as err:
        raise InvalidParameter(f"{url!r} is no cluster", why=f"{text!r}: {err}", hint=_FORM) from err
    if not parts.hostname or parts.username or parts.path:
        raise InvalidParameter(f"{url!r} is no cluster", why=f"{text!r} is no HOST:PORT", hint=_FORM)
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{host}:{port}"


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
        "this host's address on the underlay is not known", why=f"it has no route to {', '.join(endpoints)} but its own",
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


def _text(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError as err:
        raise InvalidParameter(f"{path} cannot be read", why=err.strerror or str(err)) from err
