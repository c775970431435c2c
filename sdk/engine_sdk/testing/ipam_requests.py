"""Requests for IPAM drivers, and the addresses that are taken as the core would show them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from engine_sdk import AddressRequest, EngineError, Pool, PoolRequest
from engine_sdk.testing.checks import NotDeclared
from engine_sdk.testing.subject import Subject

SUBNETS = {4: "10.211.7.0/29", 6: "fd00:ec:7::/125"}
"""Small subnets, so that they can be filled: eight addresses."""


class TakenAddresses:
    """What the core knows to be taken in one pool, in the order in which it was given out."""

    def __init__(self, addresses: Iterable[str] = ()) -> None:
        self._addresses = list(addresses)

    def __contains__(self, address: object) -> bool:
        return address in self._addresses

    def add(self, address: str) -> None:
        """Note an address that was given out."""
        self._addresses.append(address)

    @property
    def last(self) -> str | None:
        """The address that was given out last."""
        return self._addresses[-1] if self._addresses else None


def choose_pool(subject: Subject, request: PoolRequest, avoid: tuple[str, ...] = ()) -> Pool:
    """Ask for a pool. A driver that has none of its own for that family does not declare it."""
    if getattr(subject.caps, "leases", False):
        raise NotDeclared("driver declares leases: the core asks it for nothing")
    pool = subject.ask("choose_pool", request=request, options=subject.options(), avoid=avoid)
    if pool is None:
        raise NotDeclared("driver chooses no pools")
    if not isinstance(pool, Pool):
        raise AssertionError(f"choose_pool returned {type(pool).__name__}: {pool!r}; a Pool is expected")
    return pool


def choose_address(subject: Subject, pool: Pool, request: AddressRequest, taken: TakenAddresses) -> str:
    """Ask for an address of a pool."""
    if getattr(subject.caps, "leases", False):
        raise NotDeclared("driver declares leases: the core asks it for nothing")
    address = subject.ask("choose_address", pool=pool, request=request, taken=taken)
    if not isinstance(address, str):
        raise AssertionError(f"choose_address returned {address!r}; an address is expected")
    return address


def answers(subject: Subject) -> dict[str, str]:
    """Return answers to a variety of requests as text; a refusal is an answer, too."""
    texts: dict[str, str] = {}
    for family, subnet in SUBNETS.items():
        for name, request in {
            "free choice": PoolRequest(family=family),
            "subnet": PoolRequest(family=family, subnet=subnet),
            "no gateway": PoolRequest(family=family, subnet=subnet, wants_gateway=False),
        }.items():
            texts[f"IPv{family} pool, {name}"] = _text(partial(choose_pool, subject, request))
        pool = Pool(subnet=subnet)
        for name, taken in {"empty": (), "one taken": (subnet.replace("0/", "2/").partition("/")[0],)}.items():
            request_of = AddressRequest(mac="02:ec:00:00:00:01", key="net/box")
            texts[f"IPv{family} address, {name}"] = _text(
                partial(choose_address, subject, pool, request_of, TakenAddresses(taken))
            )
    return texts


def _text(ask: Callable[[], Pool | str]) -> str:
    try:
        return repr(ask())
    except (NotDeclared, EngineError) as err:
        return f"{type(err).__name__}: {err}"
