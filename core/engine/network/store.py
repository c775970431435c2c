"""The networks and their endpoints: in memory for every look-up, in the database for the next daemon."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Collection

from engine.network.model import Attachment, NetworkRecord
from engine.network.names import Names, NoNames
from engine.network.recalling import LastAddresses
from engine.spec.errors import Conflict, InvalidParameter, NotFound
from engine.state import State

NETWORK, ENDPOINT = "network", "endpoint"
"""Kinds of objects in the database."""
Write = Callable[[], None]
"""Writes what others keep about an endpoint, in the transaction in which it comes or goes."""


class NetworkStore:
    """All networks and endpoints, which a name server hears of. Safe to use from any thread."""

    def __init__(self, state: State, names: Names | None = None) -> None:
        """Read everything from the database."""
        self._state = state
        self._names = names or NoNames()
        self.last_addresses = LastAddresses(state)
        self._guard = threading.Lock()
        self._locks: defaultdict[str, threading.RLock] = defaultdict(threading.RLock)
        self._networks = {n.id: n for n in state.read(NETWORK, NetworkRecord.model_validate)}
        self._endpoints: dict[str, Attachment] = {}
        self._by_network: defaultdict[str, dict[str, Attachment]] = defaultdict(dict)
        self._by_container: defaultdict[str, dict[str, Attachment]] = defaultdict(dict)
        for endpoint in state.read(ENDPOINT, Attachment.model_validate):
            self._index(endpoint)

    def lock(self, network_id: str) -> threading.RLock:
        """Return the lock under which endpoints of a network come and go."""
        with self._guard:
            return self._locks[network_id]

    # Networks

    def networks(self) -> list[NetworkRecord]:
        """Return all networks, by name."""
        with self._guard:
            return sorted(self._networks.values(), key=lambda n: n.name)

    def by_name(self, name: str) -> NetworkRecord | None:
        """Return the network of that name."""
        return next((n for n in self.networks() if n.name == name), None)

    def get(self, ref: str) -> NetworkRecord:
        """Return a network by id, name or unique prefix of its id.

        Raises NotFound; InvalidParameter when a prefix fits several.
        """
        with self._guard:
            if found := self._networks.get(ref):
                return found
        if named := self.by_name(ref):
            return named
        matches = [n for n in self.networks() if ref and n.id.startswith(ref)]
        if len(matches) > 1:
            raise InvalidParameter(f"{len(matches)} networks have ids that begin with {ref}", hint="Use more digits")
        if not matches:
            raise NotFound(f"network {ref} not found", hint="See: engine network ls")
        return matches[0]

    def put_network(self, record: NetworkRecord) -> None:
        """Write a network. Raises Conflict when another one has its name."""
        self._state.put(NETWORK, record.id, record.doc(), name=record.name)
        with self._guard:
            self._networks[record.id] = record

    def delete_network(self, record: NetworkRecord) -> None:
        """Forget a network. Raises as `check_unused` does."""
        self.check_unused(record)
        with self._state.transaction():
            self._state.delete(NETWORK, record.id)
            self.last_addresses.forget(record.id)
            for pool in record.pools:
                for owner in set(self._state.claimed(record.address_space(pool)).values()):
                    self._state.release(owner, record.address_space(pool))
        with self._guard:
            self._networks.pop(record.id, None)
            self._locks.pop(record.id, None)

    def drop_unreadable(self, ref: str) -> bool:
        """Forget a network whose record cannot be read, by id or name; False if there is none."""
        return self._state.drop_unreadable(NETWORK, ref)

    def drop_unreadable_endpoints(self, live: Collection[str]) -> None:
        """Forget endpoints whose record cannot be read, but for those of containers that live (by id)."""
        for row in self._state.unreadable(ENDPOINT):
            container = row.doc.get("container")
            if not (isinstance(container, dict) and container.get("id") in live):
                self._state.drop_unreadable(ENDPOINT, row.id)

    def check_unused(self, record: NetworkRecord) -> None:
        """Raise Conflict, which names the containers, if a network has endpoints."""
        if used := self.endpoints_of(record.id):
            names = ", ".join(sorted(e.container.name for e in used))
            raise Conflict(
                f"network {record.name} is in use by {names}",
                hint="Stop the containers, or: engine network disconnect",
                details={"containers": [e.container.id for e in used]},
            )

    # Endpoints

    def endpoints(self) -> list[Attachment]:
        """Return all endpoints."""
        with self._guard:
            return list(self._endpoints.values())

    def endpoint(self, id: str) -> Attachment | None:
        """Return an endpoint as it is now."""
        return self._endpoints.get(id)

    def endpoints_of(self, network_id: str) -> list[Attachment]:
        """Return the endpoints of a network."""
        with self._guard:
            return list(self._by_network[network_id].values()) if network_id in self._by_network else []

    def of_container(self, container_id: str) -> list[Attachment]:
        """Return the endpoints of a container, in the order of their attachment."""
        with self._guard:
            return list(self._by_container[container_id].values()) if container_id in self._by_container else []

    def put_endpoint(self, endpoint: Attachment, also: Write | None = None) -> None:
        """Write an endpoint."""
        with self._state.transaction():
            self._state.put(ENDPOINT, endpoint.id, endpoint.doc())
            if also is not None:
                also()
        with self._guard:
            self._index(endpoint)

    def delete_endpoint(self, endpoint: Attachment, also: Write | None = None, *, recall: bool = True) -> None:
        """Forget an endpoint, and give back what it had claimed. One that is gone already is no error.

        To `recall` is to remember its addresses for when its container comes back.
        """
        with self._state.transaction():
            network = self._networks.get(endpoint.network)
            # A DHCP server, where there are no pools, remembers by itself.
            if recall and endpoint.addresses and network is not None and network.pools:
                self.last_addresses.note(endpoint.network, endpoint.container.name, endpoint.addresses)
            self._state.delete(ENDPOINT, endpoint.id)
            self._state.release(endpoint.id)
            if also is not None:
                also()
        self.forget_endpoint(endpoint)

    def forget_endpoint(self, endpoint: Attachment) -> None:
        """Take an endpoint out of memory alone: its transaction was undone."""
        with self._guard:
            self._endpoints.pop(endpoint.id, None)
            for index, key in ((self._by_network, endpoint.network), (self._by_container, endpoint.container.id)):
                if key in index:
                    index[key].pop(endpoint.id, None)
                    if not index[key]:
                        del index[key]
            self._names.remove(endpoint)

    def _index(self, endpoint: Attachment) -> None:
        self._endpoints[endpoint.id] = endpoint
        self._by_network[endpoint.network][endpoint.id] = endpoint
        self._by_container[endpoint.container.id][endpoint.id] = endpoint
        if network := self._networks.get(endpoint.network):
            self._names.put(endpoint, network)
