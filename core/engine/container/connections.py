"""The networks of a container that exists: connect and disconnect, while it runs or before."""

from __future__ import annotations

from contextlib import suppress

from engine.container.creation import check_endpoint
from engine.container.environment import Environment, endpoint_settings
from engine.container.ports import requested_ports
from engine.container.record import Container, Endpoint
from engine.container.store import ContainerStore
from engine.network.manager import NetworkManager
from engine.network.model import NetworkRecord, PortRequest
from engine.reconcile.applier import Sandbox
from engine.spec.errors import Conflict, Forbidden, NotFound


class Connections:
    """Changes what networks containers are in: their records and, if they run, their endpoints."""

    def __init__(self, store: ContainerStore, environment: Environment, networks: NetworkManager) -> None:
        self._store = store
        self._environment = environment
        self._networks = networks

    def connect(self, network: str, container: Container, endpoint: Endpoint) -> None:
        """Attach a container to a network: at once, or when it starts. Raises Conflict, Forbidden, InvalidParameter."""
        record = self._networks.get(network)
        endpoint = Endpoint(network=record.id, settings=endpoint.settings)
        with self._store.lock(container):
            if container.sandbox != "private" or self._networks.caps(record).sandbox == "host":
                raise Forbidden(
                    f"container {container.name} cannot be connected to network {record.name}",
                    why="one of them shares the network of the host or of another container",
                )
            check_endpoint(endpoint, record)
            if any(e.network == record.id for e in container.endpoints):
                raise Conflict(f"container {container.name} is already connected to network {record.name}")
            former, joined = container.endpoints, [*container.endpoints, endpoint]
            if not container.state.running:
                self._save_endpoints(container, joined)
                return
            sandbox = Sandbox(self._networks.sandbox_path(container.id))
            try:
                made = self._networks.attach(
                    record.id, self._environment.ref(container), sandbox, endpoint_settings(endpoint),
                    self._unpublished(container, record), lambda: self._save_endpoints(container, joined),
                )  # fmt: skip
            except BaseException:
                container.endpoints = former
                raise
            self._environment.connected(container, made)

    def _save_endpoints(self, container: Container, endpoints: list[Endpoint]) -> None:
        former, container.endpoints = container.endpoints, endpoints
        try:
            self._store.save(container)
        except BaseException:
            container.endpoints = former
            raise

    def _unpublished(self, container: Container, record: NetworkRecord) -> list[PortRequest]:
        """Return the ports that a new network of a running container is to publish: all, if no other one does."""
        if self._networks.port_bindings(container.id) or not self._networks.publishes(record):
            return []
        return requested_ports(container.config, container.host_config)

    def disconnect(self, network: str, ref: str, *, force: bool = False) -> None:
        """Detach a container from a network; `force` also one that is being removed or was left behind."""
        record = self._networks.get(network)
        try:
            container = self._store.get(ref)
        except NotFound:
            if not force:
                raise
            self._networks.detach(ref, record.id, namespace_gone=True)
            return
        with self._store.lock(container):
            remaining = [e for e in container.endpoints if e.network != record.id]
            if len(remaining) == len(container.endpoints):
                raise Conflict(f"container {container.name} is not connected to network {record.name}")
            gone = [a for a in self._networks.attachments(container.id) if a.network == record.id]
            if container.state.running:
                self._detach(container, record, remaining)
            else:
                self._save_endpoints(container, remaining)
            for attachment in gone:
                self._environment.disconnected(container, attachment)

    def _detach(self, container: Container, record: NetworkRecord, remaining: list[Endpoint]) -> None:
        former = container.endpoints
        try:
            self._networks.detach(container.id, record.id, also=lambda: self._save_endpoints(container, remaining))
        except BaseException:
            if any(a.network == record.id for a in self._networks.attachments(container.id)):
                container.endpoints = former
            raise

    def find_again(self, container: Container) -> None:
        """Put a container whose first network the database lost on the one that has the same name now."""
        if not container.endpoints:
            return
        first, *others = container.endpoints
        try:
            self._networks.get(first.network)
        except NotFound:
            with suppress(NotFound):
                record = self._networks.get(container.host_config.network_mode)
                self._save_endpoints(container, [first.model_copy(update={"network": record.id}), *others])

    def finish(self, container: Container) -> None:
        """Undo a connect and complete a disconnect that were interrupted between the network and the container."""
        attached = {a.network for a in self._networks.attachments(container.id)}
        wanted = {e.network for e in container.endpoints}
        for network in attached - wanted:
            self._networks.detach(container.id, network)
        if wanted - attached:
            container.endpoints = [e for e in container.endpoints if e.network in attached]
            self._store.save(container)
