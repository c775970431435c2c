"""The containers that exist: in memory for every look-up, in the database for the next daemon."""

from __future__ import annotations

import logging
import threading
from collections import defaultdict

from engine.container.copies import Copies
from engine.container.record import Container
from engine.container.salvage import stand_in
from engine.spec.errors import Conflict, NotFound
from engine.state import State

log = logging.getLogger(__name__)
KIND = "container"


class ContainerStore:
    """All containers, found by id, unique prefix of one, or name; a lock for each of them."""

    def __init__(self, state: State, copies: Copies) -> None:
        """Read all containers from the database; take back those that it lost."""
        self._state = state
        self._copies = copies
        self._guard = threading.Lock()
        self._locks: defaultdict[str, threading.RLock] = defaultdict(threading.RLock)
        self._containers = {c.id: c for c in state.read(KIND, Container.model_validate)}
        self._faulty = {row.id: row for row in state.unreadable(KIND)}
        self._containers |= {id: stand_in(row) for id, row in self._faulty.items()}
        self._names = {c.name: c.id for c in self._containers.values()}
        self._take_back()

    def _take_back(self) -> None:
        for container in self._copies.lost(self._containers):
            if container.name in self._names:
                container.name = f"{container.name}-{container.short_id}"
            self.add(container)
            log.warning("container %s was not in the database; found again in its directory", container.name)

    def lock(self, container: Container) -> threading.RLock:
        """Return the lock under which a container is changed."""
        with self._guard:
            return self._locks[container.id]

    def all(self) -> list[Container]:
        """Return all containers, newest first."""
        with self._guard:
            containers = list(self._containers.values())
        return sorted(containers, key=lambda c: c.created, reverse=True)

    def fixed_addresses(self, network: str) -> dict[str, str]:
        """Return the addresses that containers must have on a network, running or not, with the container's id."""
        with self._guard:
            wishes = [
                (endpoint.settings.ipam_config, container.id)
                for container in self._containers.values()
                for endpoint in container.endpoints
                if endpoint.network == network
            ]
        return {a: id for wish, id in wishes for a in (wish.ipv4_address, wish.ipv6_address) if a}

    def get(self, ref: str) -> Container:
        """Return a container by id, name or unique prefix of its id.

        Raises NotFound; Conflict when a prefix fits several.
        """
        ref = ref.removeprefix("/")
        with self._guard:
            if found := self._containers.get(ref):
                return found
            if found := self._containers.get(self._names.get(ref, "")):
                return found
            matches = [c for c in self._containers.values() if ref and c.id.startswith(ref)]
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise Conflict(f"multiple containers found with the prefix {ref}", hint="Use more digits of the id.")
        raise NotFound(f"No such container: {ref}")

    def exists(self, container: Container) -> bool:
        """Return whether a container has not been removed meanwhile."""
        return self.has(container.id)

    def has(self, id: str) -> bool:
        """Return whether a container has that id."""
        with self._guard:
            return id in self._containers

    def has_name(self, name: str) -> bool:
        """Return whether a container has that name."""
        with self._guard:
            return name in self._names

    def add(self, container: Container) -> None:
        """Take in a new container. Raises Conflict when its name is taken."""
        self._refuse_name(container.name)
        self.save(container)
        with self._guard:
            self._containers[container.id] = container
            self._names[container.name] = container.id

    def save(self, container: Container) -> None:
        """Write a container's present state to the database; of a faulty one, nothing but that."""
        doc = container.doc()
        if faulty := self._faulty.get(container.id):
            doc = faulty.doc | {key: doc[key] for key in ("id", "name", "state")}
        self._state.put(KIND, container.id, doc, name=container.name)
        if not faulty:
            self._copies.keep(container)

    def fault(self, container: Container) -> str:
        """Return why a container's record could not be read, or an empty text."""
        row = self._faulty.get(container.id)
        return row.why if row else ""

    def rename(self, container: Container, name: str) -> None:
        """Give a container another name. Raises Conflict when it is taken."""
        self._refuse_name(name)
        old = container.name
        container.name = name
        try:
            self.save(container)
        except Conflict:
            container.name = old
            raise
        with self._guard:
            self._names.pop(old, None)
            self._names[name] = container.id

    def delete(self, container: Container) -> None:
        """Forget a container."""
        self._state.delete(KIND, container.id)
        with self._guard:
            self._faulty.pop(container.id, None)
            self._containers.pop(container.id, None)
            self._names.pop(container.name, None)
            self._locks.pop(container.id, None)

    def _refuse_name(self, name: str) -> None:
        with self._guard:
            holder = self._names.get(name)
        if holder is not None:
            raise Conflict(
                f'Conflict. The container name "/{name}" is already in use by container "{holder}"',
                hint="You have to remove (or rename) that container to be able to reuse that name.",
            )
