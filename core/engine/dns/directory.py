"""All containers on all networks, found by name and by address."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Hashable

from engine.dns.members import Member

_Index = defaultdict[Hashable, dict[str, Member]]


class Directory:
    """Members, by endpoint, container, name and address. A change is seen by the next look-up. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._members: dict[str, Member] = {}
        self._by_container: _Index = defaultdict(dict)
        self._by_name: _Index = defaultdict(dict)
        self._by_address: _Index = defaultdict(dict)

    def put(self, member: Member) -> None:
        """Take in a member, or what has become of it."""
        with self._lock:
            if old := self._members.get(member.endpoint):
                self._leave(old)
            self._members[member.endpoint] = member
            self._by_container[member.container][member.endpoint] = member
            for name in member.names if member.named else ():
                self._by_name[member.network, name][member.endpoint] = member
            for address in member.addresses if member.named else ():
                self._by_address[member.network, address][member.endpoint] = member

    def remove(self, endpoint: str) -> None:
        """Forget a member. One that is not there is no error."""
        with self._lock:
            member = self._members.pop(endpoint, None)
            if member is not None:
                self._leave(member)
                _drop(self._by_container, member.container, endpoint)

    def of(self, container: str) -> tuple[Member, ...]:
        """Return a container's memberships, in the order of its attachments."""
        return self._look(self._by_container, container)

    def named(self, network: str, name: str) -> tuple[Member, ...]:
        """Return who has a (canonical) name on a network."""
        return self._look(self._by_name, (network, name))

    def at(self, network: str, address: str) -> Member | None:
        """Return who has an address on a network."""
        return next(iter(self._look(self._by_address, (network, address))), None)

    def _look(self, index: _Index, key: Hashable) -> tuple[Member, ...]:
        with self._lock:
            return tuple(index[key].values()) if key in index else ()

    def _leave(self, member: Member) -> None:
        for name in member.names:
            _drop(self._by_name, (member.network, name), member.endpoint)
        for address in member.addresses:
            _drop(self._by_address, (member.network, address), member.endpoint)


def _drop(index: _Index, key: Hashable, endpoint: str) -> None:
    if key in index:
        index[key].pop(endpoint, None)
        if not index[key]:
            del index[key]
