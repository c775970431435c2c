"""Addresses of endpoints: an IPAM driver chooses, the core keeps what is taken.

What is taken is a set of claims in the database, mirrored in memory, so that a choice reads no disk. The caller holds
the network's lock.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Collection, Mapping, Sequence, Set
from ipaddress import ip_address, ip_network
from typing import Any

from engine.network.model import ContainerRef, EndpointSettings, NetworkRecord
from engine.plugins import Plugins
from engine.spec.errors import Conflict, DriverFault, InvalidParameter, Unavailable
from engine.spec.ipam import AddressRequest, IpamDriver, Pool
from engine.spec.options import parse_options
from engine.spec.values import family_of, normal_ip, normal_mac, pack
from engine.state import State

GROUP = IpamDriver.GROUP
Chosen = tuple[Pool, str]
Fixed = Callable[[str], Mapping[str, str]]
"""Returns, of a network's id, the addresses that containers must have when they run, with the containers' ids."""
STRANGER_SECONDS = 300.0
"""For so long an address that a stranger on the wire has is not tried again."""


class TakenAddresses:
    """The addresses of a pool that are not free, with the endpoint that has each."""

    def __init__(self, owners: dict[str, str]) -> None:
        self.owners = owners
        self.last: str | None = next(reversed(owners), None)
        self.fixed: Set[str] = frozenset()
        self.elsewhere: Set[str] = frozenset()
        """Those that endpoints on other hosts have."""
        self._strangers: dict[str, float] = {}

    def __contains__(self, address: object) -> bool:
        if address in self.owners or address in self.fixed or address in self.elsewhere:
            return True
        return self._strangers.get(str(address), 0.0) > time.monotonic()

    def seen(self, address: str) -> None:
        """Note that somebody who is not ours has an address."""
        self._strangers[address] = time.monotonic() + STRANGER_SECONDS


class Addresses:
    """What is taken in every pool of every network."""

    def __init__(self, state: State, plugins: Plugins, fixed: Fixed) -> None:
        self._state = state
        self._plugins = plugins
        self._fixed = fixed
        self._spaces: dict[str, TakenAddresses] = {}

    def taken(self, record: NetworkRecord, pool: Pool) -> TakenAddresses:
        """Return the addresses of a pool that are taken."""
        space = record.address_space(pool)
        if space not in self._spaces:
            self._spaces[space] = TakenAddresses(self._state.claimed(space))
        return self._spaces[space]

    def avoid(self, record: NetworkRecord, addresses: Collection[str]) -> None:
        """Do not choose these for a while: somebody who is not ours has them."""
        for pool in record.pools:
            for address in addresses:
                if family_of(address) == family_of(pool.subnet):
                    self.taken(record, pool).seen(address)

    def choose(
        self,
        record: NetworkRecord,
        settings: EndpointSettings,
        container: ContainerRef,
        names: dict[str, str],
        last: Collection[str] = (),
    ) -> list[Chosen]:
        """Return one address for each family that the network has. Nothing is taken yet.

        `names` are containers' names by endpoint, for messages; `last` are the addresses that the container had last,
        which it gets again if they are free. Raises InvalidParameter for an address that no pool
        has, Conflict for one that is taken, Unavailable when all pools of a family are full.
        """
        # What a container that does not run must have is nobody else's: it would not start again.
        fixed = {a for a, holder in self._fixed(record.id).items() if holder != container.id}
        fixed -= {settings.ip, settings.ip6}
        chosen = []
        for family, wanted in ((4, settings.ip), (6, settings.ip6)):
            pools = [p for p in record.pools if family_of(p.subnet) == family]
            previous = [a for a in last if family_of(a) == family and not wanted]
            if wanted:
                wanted = check_address(wanted, family)
                pools = [p for p in pools if ip_address(wanted) in ip_network(p.subnet)]
                if not pools:
                    subnets = ", ".join(p.subnet for p in record.pools) or "none"
                    raise InvalidParameter(
                        f"no subnet of network {record.name} has the address {wanted}", hint=f"Its subnets: {subnets}"
                    )
            if pools:
                for pool in pools:
                    self.taken(record, pool).fixed = fixed
                chosen.append(self._choose(record, pools, wanted, previous, settings, container, names))
        return chosen

    def _choose(
        self,
        record: NetworkRecord,
        pools: Sequence[Pool],
        wanted: str,
        previous: Collection[str],
        settings: EndpointSettings,
        container: ContainerRef,
        names: dict[str, str],
    ) -> Chosen:
        for pool in pools:
            taken = self.taken(record, pool)
            if wanted in taken.owners:
                holder = names.get(taken.owners[wanted], taken.owners[wanted])
                raise Conflict(
                    f"the address {wanted} of network {record.name} is taken by container {holder}",
                    details={"address": wanted, "container": holder},
                )
            request = AddressRequest(
                address=wanted or None,
                previous=next((a for a in previous if _is_free(pool, a, taken)), None),
                mac=settings.mac or None,
                key=f"{record.name}/{container.name}",
            )
            try:
                address = self._call(record, "choose_address", pool=pool, request=request, taken=taken)
            except Unavailable:
                if pool is pools[-1]:
                    raise
                continue
            return pool, self._checked(record, pool, address, wanted, taken)
        raise AssertionError("unreachable: pools is not empty")

    def _call(self, record: NetworkRecord, operation: str, **arguments: Any) -> Any:
        return self._plugins.call(GROUP, record.ipam_driver, operation, **arguments)

    def _checked(self, record: NetworkRecord, pool: Pool, address: Any, wanted: str, taken: TakenAddresses) -> str:
        """Refuse an answer that is no free address of the pool, or not the one that was asked for."""
        try:
            fine = address == normal_ip(address) and _is_free(pool, address, taken)
        except (ValueError, TypeError, AttributeError):
            fine = False
        if not fine or wanted not in ("", address):
            raise DriverFault(
                f"choose_address returned {address!r} for the pool {pool.subnet}",
                why="that is no free address of it, or not the one that was asked for",
                driver=record.ipam_driver,
            )
        return str(address)

    def take(self, record: NetworkRecord, chosen: Sequence[Chosen], owner: str) -> None:
        """Take addresses, in the caller's transaction. Raises Conflict if one was taken meanwhile."""
        for pool, address in chosen:
            self._state.claim(record.address_space(pool), address, owner)
        for pool, address in chosen:
            taken = self.taken(record, pool)
            taken.owners[address], taken.last = owner, address

    def give_back(self, record: NetworkRecord, owner: str) -> None:
        """Free an owner's addresses in memory; the database's claims go with the endpoint."""
        for pool in record.pools:
            owners = self.taken(record, pool).owners
            for address in [a for a, o in owners.items() if o == owner]:
                del owners[address]

    def exchange(
        self,
        record: NetworkRecord,
        chosen: Sequence[Chosen],
        conflicts: Mapping[str, str],
        settings: EndpointSettings,
        container: ContainerRef,
        owner: str,
    ) -> list[Chosen]:
        """Give an owner other addresses for those that others on the wire have, and return all that it has then.

        `conflicts` are MAC addresses by address. Raises Conflict, which names the MAC address, for an address that was
        asked for, and what `choose` raises.
        """
        for wanted in (settings.ip, settings.ip6):
            if wanted and normal_ip(wanted) in conflicts:
                raise Conflict(
                    f"the address {wanted} is in use on the wire of network {record.name}",
                    why=f"{conflicts[normal_ip(wanted)]} answers for it",
                    hint="Choose another one; -o probe=false leaves out the question",
                    details={"address": normal_ip(wanted), "mac": conflicts[normal_ip(wanted)]},
                )
        self.avoid(record, conflicts)
        kept = {family_of(address): address for _, address in chosen if address not in conflicts}
        self.give_back(record, owner)
        wishes = settings.model_copy(update={"ip": kept.get(4, ""), "ip6": kept.get(6, "")})
        fresh = self.choose(record, wishes, container, {})
        with self._state.transaction():
            for pool, _ in chosen:
                self._state.release(owner, record.address_space(pool))
            self.take(record, fresh, owner)
        return fresh

    def forget(self, record: NetworkRecord) -> None:
        """Forget a network that is gone."""
        for pool in record.pools:
            self._spaces.pop(record.address_space(pool), None)


def _is_free(pool: Pool, address: str, taken: TakenAddresses) -> bool:
    reserved = address in (pool.gateway, *pool.aux.values())
    return ip_address(address) in ip_network(pool.subnet) and address not in taken and not reserved


def with_lengths(chosen: Sequence[Chosen]) -> tuple[str, ...]:
    """Return chosen addresses with the lengths of their subnets."""
    return tuple(f"{address}/{pool.subnet.partition('/')[2]}" for pool, address in chosen)


def check_address(value: str, family: int) -> str:
    """Return an address in normal form. Raises InvalidParameter."""
    try:
        address = normal_ip(value)
    except ValueError as err:
        raise InvalidParameter(f"{value!r} is not an IP address") from err
    if family_of(address) != family:
        raise InvalidParameter(f"{value!r} is not an IPv{family} address")
    return address


def check_mac(value: str) -> str:
    """Return a MAC address in normal form. Raises InvalidParameter for one that a station cannot have."""
    try:
        mac = normal_mac(value)
    except ValueError as err:
        raise InvalidParameter(str(err)) from err
    if int(mac[:2], 16) & 1 or mac == "00:00:00:00:00:00":
        raise InvalidParameter(f"{mac} is a group address or zero", hint="The first byte of a station's is even")
    return mac


def derived_mac(seed: str) -> str:
    """Return a MAC address that follows from a text: locally administered, unicast (IEEE 802, 02:42 is Docker's)."""
    return "02:42:" + hashlib.sha256(seed.encode()).digest()[:4].hex(":")


def mac_of_address(address: str) -> str:
    """Return the MAC address that Docker gives to an IPv4 address on a network of its own: 02:42 and its four bytes."""
    return "02:42:" + pack(address).hex(":")


def ipam_options(plugins: Plugins, driver: str, given: dict[str, str]) -> Any:
    """Return the options of an IPAM driver. Raises InvalidParameter."""
    return parse_options(plugins.get(GROUP, driver).options_model, given, driver=driver)
