"""A cluster without a store: a file, the same on all hosts, says which hosts there are.

    {"cluster": "office", "addresses_per_node": 32,
     "nodes": [{"name": "a", "address": "192.0.2.1"}, {"name": "b", "address": "192.0.2.2"}]}

Nobody tells anybody anything, so all that hosts must agree on follows from the file and from the network's definition,
which is given alike on each host: the network's id and VNI from its name, and each node's part of the subnet from the
node's place in the file (so nodes are only ever added at its end). A container's MAC follows from its address; so every
host can enter all addresses that another host may give, whether they are in use or not. What this cannot do is in
docs/explanation/cluster.md: names across hosts, addresses and MACs that are chosen by hand, two families at once.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from engine.cluster.membership import STATIC
from engine.cluster.memory import MemoryStore
from engine.cluster.model import (
    ENDPOINTS,
    FIRST_VNI,
    LAST_VNI,
    NETWORKS,
    NODES,
    READY,
    ClusterEndpoint,
    ClusterNetwork,
    Node,
    decode,
)
from engine.cluster.store import Condition, Delete, Operation, Put
from engine.spec.errors import InvalidParameter, Unavailable
from engine.spec.network import NetworkDriver
from engine.spec.values import IpAddress


class PeerHost(BaseModel):
    """A host in the file."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str = Field(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}$")
    address: IpAddress


class PeersFile(BaseModel):
    """The file."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    cluster: str = Field(default="static", min_length=1)
    nodes: Annotated[tuple[PeerHost, ...], Field(min_length=1, max_length=1024)]
    addresses_per_node: int = Field(default=32, ge=2, le=1024)

    @classmethod
    def read(cls, path: Path) -> PeersFile:
        """Read a file. Raises InvalidParameter, which names it and what is wrong."""
        try:
            found = cls.model_validate(json.loads(path.read_text()))
        except OSError as err:
            raise InvalidParameter(f"the file of peers {path} cannot be read", why=err.strerror or str(err)) from err
        except ValidationError as err:
            first = err.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise InvalidParameter(f"the file of peers {path} is malformed", why=f"{where}: {first['msg']}") from err
        except ValueError as err:
            raise InvalidParameter(f"the file of peers {path} is no JSON", why=str(err)) from err
        for what in ("name", "address"):
            values = [getattr(node, what) for node in found.nodes]
            twice = next((v for v in values if values.count(v) > 1), None)
            if twice:
                raise InvalidParameter(f"the file of peers {path} has two nodes with the {what} {twice}")
        if found.addresses_per_node & (found.addresses_per_node - 1):
            raise InvalidParameter(
                f"addresses_per_node in {path} is no power of two", why=str(found.addresses_per_node)
            )
        return found


class Partition:
    """Who may give which addresses, and what all hosts agree on without a word."""

    def __init__(self, file: PeersFile, own: str) -> None:
        """Raises InvalidParameter if this node is not in the file."""
        self.file = file
        names = [node.name for node in file.nodes]
        if own not in names:
            raise InvalidParameter(
                f"this node, {own}, is not in the file of peers", why=f"it has {', '.join(names)}",
                hint="Give --node-name, or add the node at the end of the file on every host",
            )  # fmt: skip
        self.own = names.index(own)

    def network_id(self, name: str) -> str:
        """Return the id of the network of that name."""
        return hashlib.sha256(f"engine/{self.file.cluster}/{name}".encode()).hexdigest()

    def vni(self, name: str) -> int:
        """Return the VNI of the network of that name, if none is given."""
        number = int.from_bytes(hashlib.sha256(f"vni/{self.file.cluster}/{name}".encode()).digest()[:4], "big")
        return FIRST_VNI + number % (LAST_VNI + 1 - FIRST_VNI)

    def mac(self, network: str, address: str) -> str:
        """Return the MAC of the container that has an address: locally administered, unicast."""
        return "02:42:" + hashlib.sha256(f"{network}/{address}".encode()).digest()[:4].hex(":")

    def part(self, subnet: str, node: int | None = None) -> str:
        """Return the prefix from which a node (this one) gives addresses. Raises InvalidParameter if there is none."""
        number = self.own if node is None else node
        whole, size = ip_network(subnet), self.file.addresses_per_node
        if (number + 1) * size > whole.num_addresses:
            raise InvalidParameter(
                f"the subnet {subnet} is too small for {len(self.file.nodes)} nodes with {size} addresses each",
                hint="Give a larger one, or a smaller addresses_per_node in the file of peers",
            )
        start = whole.network_address + number * size
        return f"{start}/{whole.max_prefixlen - size.bit_length() + 1}"

    def assumed(self, network: ClusterNetwork) -> Iterator[ClusterEndpoint]:
        """Yield an endpoint for each address that another node may give on a network."""
        for pool in network.record.get("pools", ()):
            whole = ip_network(pool["subnet"])
            reserved = {pool.get("gateway"), *(pool.get("aux") or {}).values()}
            for number, host in enumerate(self.file.nodes):
                if number == self.own or (number + 1) * self.file.addresses_per_node > whole.num_addresses:
                    continue
                for address in _addresses(self.part(pool["subnet"], number), whole):
                    if address not in reserved:
                        yield ClusterEndpoint(
                            id=hashlib.sha256(f"{network.id}/{address}".encode()).hexdigest(),
                            network=network.id,
                            node=host.name,
                            mac=self.mac(network.id, address),
                            addresses=(f"{address}/{whole.prefixlen}",),
                            assumed=True,
                        )


class StaticStore(MemoryStore):
    """The store of one node, which knows of the others what the file says. Networks are kept in a file beside."""

    def __init__(self, partition: Partition, own_file: Path) -> None:
        """`own_file` keeps this node's networks; it need not exist. Raises Unavailable if it cannot be read."""
        super().__init__()
        self._partition = partition
        self._own_file = own_file
        spec = NetworkDriver.SPEC
        for number, host in enumerate(partition.file.nodes):
            if number != partition.own:
                id = hashlib.sha256(host.name.encode()).hexdigest()[:32]
                node = Node(name=host.name, id=id, address=host.address, spec=(spec.major, spec.minor))
                super().commit([], [Put(NODES + host.name, node.encode()), Put(READY + host.name, STATIC)])
        try:
            saved: Mapping[str, Any] = json.loads(own_file.read_text()) if own_file.exists() else {}
        except (OSError, ValueError) as err:
            raise Unavailable(f"{own_file} cannot be read", why=str(err)) from err
        self._follow([Put(key, value.encode()) for key, value in saved.items()])

    def commit(self, conditions: Sequence[Condition], operations: Sequence[Operation]) -> bool:
        """Do all of it if all conditions hold; what follows for other nodes comes with it."""
        with self.turn:
            if not super().commit(conditions, operations):
                return False
            if any(operation.key.startswith(NETWORKS) for operation in operations):
                self._follow(operations)
                self._save()
            return True

    def _follow(self, operations: Sequence[Operation]) -> None:
        for operation in operations:
            id = operation.key.removeprefix(NETWORKS)
            if id == operation.key:
                continue
            if isinstance(operation, Delete):
                super().commit([], [Delete(f"{ENDPOINTS}{id}/", below=True)])
                continue
            network = decode(ClusterNetwork, operation.key, operation.value)
            if network is not None:
                peers = self._partition.assumed(network)
                super().commit([], [operation, *(Put(peer.key, peer.encode()) for peer in peers)])

    def _save(self) -> None:
        text = json.dumps({e.key: e.value.decode() for e in self.list(NETWORKS).entries})
        fresh = self._own_file.with_suffix(".new")
        with fresh.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._own_file)


def _addresses(part: str, whole: IPv4Network | IPv6Network) -> Iterator[str]:
    for address in ip_network(part):
        if address not in (whole.network_address, whole.broadcast_address):
            yield str(address)
