"""What the network manager tells a name server."""

from __future__ import annotations

from typing import Protocol

from engine.cluster.model import ClusterEndpoint
from engine.network.model import Attachment, NetworkRecord
from engine.reconcile.applier import Sandbox


class Names(Protocol):
    """A name server for containers: `engine.dns.service.NameService`. All methods may be called from any thread."""

    def put(self, endpoint: Attachment, network: NetworkRecord) -> None:
        """An endpoint is there, or has changed."""

    def remove(self, endpoint: Attachment) -> None:
        """An endpoint is gone. One that was never there is no error."""

    def put_remote(self, endpoint: ClusterEndpoint, network: NetworkRecord) -> None:
        """An endpoint on another host is there, or has changed."""

    def remove_remote(self, id: str) -> None:
        """An endpoint on another host is gone. One that was never there is no error."""

    def serves(self, container: str) -> bool:
        """Return whether the container of that id is to ask this server."""

    def attached(self, container: str, sandbox: Sandbox) -> None:
        """A container is on one more network: serve it if it needs that. Raises ApplyFailed."""

    def serve(self, container: str, sandbox: Sandbox) -> None:
        """Serve a container. Raises ApplyFailed."""

    def stop(self, container: str) -> None:
        """Serve a container no longer: its network namespace goes. One that is not served is no error."""


class NoNames:
    """No name server."""

    def put(self, endpoint: Attachment, network: NetworkRecord) -> None:
        """Do nothing."""

    def remove(self, endpoint: Attachment) -> None:
        """Do nothing."""

    def put_remote(self, endpoint: ClusterEndpoint, network: NetworkRecord) -> None:
        """Do nothing."""

    def remove_remote(self, id: str) -> None:
        """Do nothing."""

    def serves(self, container: str) -> bool:
        """Return that it is not."""
        return False

    def attached(self, container: str, sandbox: Sandbox) -> None:
        """Do nothing."""

    def serve(self, container: str, sandbox: Sandbox) -> None:
        """Do nothing."""

    def stop(self, container: str) -> None:
        """Do nothing."""
