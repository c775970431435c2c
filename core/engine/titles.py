"""What a person calls the owners of resources, which are identifiers to the reconciler."""

from __future__ import annotations

from contextlib import suppress

from engine.container.store import ContainerStore
from engine.network.manager import NetworkManager
from engine.spec.errors import EngineError


def title_of(owner: str, networks: NetworkManager, containers: ContainerStore) -> str:
    """Return the name of an owner: `network N`, `container C on network N`; the owner itself if it has none."""
    kind, _, rest = owner.partition(":")
    with suppress(EngineError):
        if kind == "net":
            return f"network {networks.get(rest).name}"
        if kind == "ep":
            network, endpoint, _ = rest.split(":")
            record = networks.get(network)
            members = networks.inspect(record)["Containers"].values()
            names = [member["Name"] for member in members if member["EndpointID"] == endpoint]
            return f"container {names[0]} on network {record.name}" if names else owner
        if kind == "peer":
            network, endpoint = rest.split(":")
            return f"endpoint {endpoint[:12]} of network {networks.get(network).name} on another host"
        if kind == "wireguard":
            return "encryption between hosts"
        if kind in ("rootfs", "container"):
            return f"container {containers.get(rest).name}"
    return owner
