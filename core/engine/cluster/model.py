"""What a cluster keeps: nodes, networks, endpoints; and where (the keys of the store).

    engine/spec                         version of this layout, and the cluster's identifier: where every version looks
    engine/1/nodes/NAME                 a node; goes with its daemon's long lease
    engine/1/addresses/ADDRESS          the node that has an address on the underlay (long lease)
    engine/1/ready/NAME                 its daemon answers (short lease)
    engine/1/networks/ID                a network
    engine/1/allocation                 changes with each network that is made: makes names, VNIs and pools unique
    engine/1/endpoints/NETWORK/ID       an endpoint (long lease of its node)
    engine/1/claims/NETWORK/KIND/VALUE  who has an address or a MAC on a network: an endpoint's id (long lease)

"1" is the major version: a daemon of another one sees nothing of it. Within it, fields are added and never change their
meaning; unknown ones are kept from harm by being ignored.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from engine.spec.values import InterfaceAddress, IpAddress, Mac

log = logging.getLogger(__name__)
LAYOUT = (1, 0)
"""Version of this layout: major and minor."""
ROOT = f"engine/{LAYOUT[0]}/"
SPEC = "engine/spec"
ALLOCATION = f"{ROOT}allocation"
NODES, ADDRESSES, READY = f"{ROOT}nodes/", f"{ROOT}addresses/", f"{ROOT}ready/"
NETWORKS, ENDPOINTS, CLAIMS = f"{ROOT}networks/", f"{ROOT}endpoints/", f"{ROOT}claims/"
FIRST_VNI, LAST_VNI = 4096, (1 << 24) - 1
"""VNIs that are chosen: those below are left to people, as Docker does."""


class Document(BaseModel):
    """Base of what a key holds, as JSON. Immutable; fields of newer versions are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    def encode(self) -> bytes:
        """Return what the key holds."""
        return self.model_dump_json(exclude_defaults=True).encode()


class Identity(Document):
    """The cluster itself."""

    id: str = Field(pattern=r"^[0-9a-f]{32}$")
    layout: tuple[int, int] = LAYOUT
    spec: tuple[int, int]
    """Version of the specification of network drivers that its first node had."""


class Node(Document):
    """A host of the cluster."""

    name: str = Field(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}$")
    id: str
    """Of its daemon's data root: tells a node that is back from another one with its name."""
    address: IpAddress
    """On the underlay."""
    spec: tuple[int, int] = (1, 0)
    """Version of the specification of network drivers."""
    version: str = ""
    """Of the engine."""
    joined: str = ""
    """When (RFC 3339): for people, never compared."""
    lease: int = 0
    """On which it and its endpoints hang: whoever ends it removes the node."""
    keys: Mapping[str, str] = Field(default_factory=dict)
    """What it publishes by name for other nodes, such as public keys."""


class ClusterNetwork(Document):
    """A network of scope global."""

    id: str = Field(pattern=r"^[0-9a-f]{12,64}$")
    name: str
    driver: str
    vni: int = Field(ge=1, le=LAST_VNI)
    record: Mapping[str, Any]
    """The network manager's own document: options, pools, labels."""


class ClusterEndpoint(Document):
    """An endpoint of such a network."""

    id: str = Field(pattern=r"^[0-9a-f]{12,64}$")
    network: str
    node: str
    """Name of the node that it is on."""
    mac: Mac
    addresses: tuple[InterfaceAddress, ...] = ()
    container: str = ""
    """Container id."""
    name: str = ""
    """Container name."""
    hostname: str = ""
    aliases: tuple[str, ...] = ()
    services: tuple[str, ...] = ()
    """What it exposes, as `80/tcp`."""
    assumed: bool = False
    """Nobody knows whether it is there: it follows from a file of peers."""

    @property
    def key(self) -> str:
        """Where the store has it."""
        return f"{ENDPOINTS}{self.network}/{self.id}"

    @property
    def claims(self) -> tuple[str, ...]:
        """The keys of what it has for itself: its MAC and its addresses."""
        own = [*(f"address/{a.partition('/')[0]}" for a in self.addresses), f"mac/{self.mac}"]
        return tuple(f"{CLAIMS}{self.network}/{claim}" for claim in own)


DocumentT = TypeVar("DocumentT", bound=Document)


def decode(model: type[DocumentT], key: str, value: bytes) -> DocumentT | None:
    """Read what a key holds; None, with a line in the log, for what is no such document."""
    try:
        return model.model_validate(json.loads(value))
    except (ValueError, ValidationError) as err:
        kind = model.__name__.lower()
        log.warning("the cluster's key %s holds no %s, and is passed over: %s", key, kind, _short(err))
        return None


def _short(err: Exception) -> str:
    return err.errors()[0]["msg"] if isinstance(err, ValidationError) else str(err)
