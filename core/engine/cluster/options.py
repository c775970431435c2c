"""How a daemon is told of its cluster: `--cluster` and what goes with it; and the token with which others join.

    etcd://host:2379,host:2379      endpoints of etcd; etcds:// speaks TLS with the authorities that the host trusts
    file:///etc/engine/peers.json   a file of peers

The command line imports this: nothing that is slow to import belongs here.
"""

from __future__ import annotations

import base64
import json
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from engine.spec.errors import InvalidParameter

GRACE_SECONDS = 120
"""After so long without a sign a node is gone, and its endpoints with it."""
READY_SECONDS = 10
"""After so long without a sign a daemon counts as down."""
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
    ready: int = READY_SECONDS
    """Seconds without a sign after which its daemon counts as down."""

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
        document: dict[str, Any] = {"url": self.url, "user": self.user, "wait": self.wait}
        document |= {"grace": self.grace, "ready": self.ready}
        document |= {"certificate": self.certificate, "key": self.key}
        for name in ("password_file", "ca"):
            if getattr(self, name):
                document[name.removesuffix("_file")] = text_of(getattr(self, name))
        if not self.endpoints:
            document["peers"] = text_of(self.url.removeprefix("file://"))
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
        url=url,
        advertise=advertise,
        node=node,
        user=document.get("user", ""),
        password_file=keep("password"),
        ca=keep("ca"),
        certificate=document.get("certificate", ""),
        key=document.get("key", ""),
        wait=float(document.get("wait", 0)),
        grace=int(document.get("grace", GRACE_SECONDS)),
        ready=int(document.get("ready", READY_SECONDS)),
    )


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


def text_of(path: str) -> str:
    """Return what a file holds that an option names. Raises InvalidParameter."""
    try:
        return Path(path).read_text()
    except OSError as err:
        raise InvalidParameter(f"{path} cannot be read", why=err.strerror or str(err)) from err
