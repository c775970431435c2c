"""Removes the default networks that were made for a set of options, when no container has them any more.

Each of them takes an address pool, of which there are few. The default network of a driver without options stays, as
does the daemon's own, and what a person made.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from engine.container.creation import NetworkDefault
from engine.container.store import ContainerStore
from engine.network.manager import NetworkManager
from engine.network.model import NetworkRecord
from engine.spec.errors import EngineError, NotFound

log = logging.getLogger(__name__)


class DefaultNetworks:
    """Knows when containers choose networks, and what was left meanwhile."""

    def __init__(self, store: ContainerStore, networks: NetworkManager, own: NetworkDefault) -> None:
        """`own` is the daemon's default."""
        self._store = store
        self._networks = networks
        self._own = own
        self._lock = threading.Lock()
        self._choosing = 0
        self._left: set[str] = set()

    @contextmanager
    def choosing(self) -> Iterator[None]:
        """Remove none while the block runs: a container may have chosen it, and is not written down yet."""
        with self._lock:
            self._choosing += 1
        try:
            yield
        except BaseException:  # nobody knows what was made for it
            self._left |= self._passing()
            raise
        finally:
            with self._lock:
                self._choosing -= 1
                self._sweep()

    def left(self, networks: Collection[str]) -> None:
        """Note that a container no longer has networks (ids), and remove those that nobody else has."""
        if left := self._passing().intersection(networks):
            with self._lock:
                self._left |= left
                self._sweep()

    def restore(self) -> None:
        """After a start of the daemon: remove those that lost their last container when it was killed."""
        self.left(self._passing())

    def _sweep(self) -> None:
        if self._choosing or not self._left:
            return
        containers = self._store.all()
        used = {endpoint.network for container in containers for endpoint in container.endpoints}
        for id in self._left - used:
            try:
                name = self._networks.get(id).name
                self._networks.remove(id)
            except NotFound:
                continue
            except EngineError as err:
                log.warning("the default network %s is not removed: %s", id[:12], err)
            else:
                log.info("removed network %s, which no container has any more", name)
        self._left.clear()

    def _passing(self) -> set[str]:
        """Return the networks that go when they are unused; none while it is not known what all containers have."""
        if any(self._store.fault(container) for container in self._store.all()):
            return set()
        return {record.id for record in self._networks.list() if self._is_passing(record)}

    def _is_passing(self, record: NetworkRecord) -> bool:
        own = record.driver == self._own.driver and record.given == dict(self._own.options)
        made_for_options = bool(record.default_for and record.given) and not record.is_gateway
        return made_for_options and not own and not record.predefined and record.scope == "local"
