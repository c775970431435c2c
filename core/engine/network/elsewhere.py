"""Addresses of a network that endpoints on other hosts have, as far as this host knows."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection
from ipaddress import ip_address, ip_network

from engine.network.addresses import Addresses
from engine.network.model import NetworkRecord


class Elsewhere:
    """What the cluster told by itself, and what it said when it was asked."""

    def __init__(self, heard: Callable[[], frozenset[str]]) -> None:
        """`heard` returns what the cluster has told so far; it goes on telling while an address is chosen."""
        self._heard = heard
        self._learnt: frozenset[str] = frozenset()

    def learn(self, addresses: Collection[str]) -> None:
        """Take in what the cluster answered: all that is taken."""
        self._learnt = frozenset(addresses)

    def watch_over(self, addresses: Addresses, record: NetworkRecord, *, at_random: bool) -> None:
        """Have the next choice of an address pass these over.

        `at_random`: it begins anywhere, since hosts that all choose the next one would run into each other again.
        """
        elsewhere = self._learnt | self._heard()
        for pool in record.pools:
            taken = addresses.taken(record, pool)
            taken.elsewhere = elsewhere
            if at_random:
                part = ip_network(pool.ip_range or pool.subnet)
                span = min(part.num_addresses, 1 << 32)
                taken.last = str(ip_address(int(part.network_address) + secrets.randbelow(span)))
