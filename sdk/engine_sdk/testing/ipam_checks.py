"""What an IPAM driver must do. It only chooses: what is taken, the core knows and hands in."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from functools import partial

from engine_sdk import AddressRequest, Conflict, EngineError, InvalidParameter, Pool, PoolRequest, Unavailable
from engine_sdk.testing.checks import Checks, NotDeclared
from engine_sdk.testing.common_checks import add_common_checks
from engine_sdk.testing.ipam_requests import SUBNETS, TakenAddresses, choose_address, choose_pool
from engine_sdk.testing.subject import Subject

CHECKS = Checks()
add_common_checks(CHECKS)

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_MAC = "02:ec:00:00:00:01"


def _refused(kind: type[EngineError], what: str, ask: Callable[[], object]) -> None:
    """Expect a refusal of one kind."""
    try:
        answer = ask()
    except kind:
        return
    except EngineError as err:
        raise AssertionError(f"{what} is refused with {type(err).__name__}, not {kind.__name__}: {err}") from err
    raise AssertionError(f"{what} was accepted: {answer!r}")


def _host(family: int, number: int) -> str:
    return str(ipaddress.ip_network(SUBNETS[family])[number])


@CHECKS.pure
def keeps_the_pool_that_was_asked_for(subject: Subject) -> None:
    """A subnet, gateway, range and auxiliary addresses that were asked for are the pool's."""
    for family, subnet in SUBNETS.items():
        asked = PoolRequest(
            family=family,
            subnet=subnet,
            ip_range=str(next(ipaddress.ip_network(subnet).subnets(new_prefix=31 if family == 4 else 127))),
            gateway=_host(family, 6),
            aux={"router": _host(family, 5)},
        )
        pool = choose_pool(subject, asked)
        for name in ("subnet", "ip_range", "gateway", "aux"):
            want, got = getattr(asked, name), getattr(pool, name)
            if want != got:
                raise AssertionError(f"IPv{family}: asked for {name} {want!r}, got {got!r}")


@CHECKS.pure
def chooses_a_gateway_if_one_is_wanted(subject: Subject) -> None:
    """The gateway of a pool is an address that its subnet has; where none is wanted, none is chosen."""
    for family, subnet in SUBNETS.items():
        gateway = choose_pool(subject, PoolRequest(family=family, subnet=subnet)).gateway
        network = ipaddress.ip_network(subnet)
        if gateway is None or ipaddress.ip_address(gateway) not in network or gateway == str(network[0]):
            raise AssertionError(f"{gateway!r} is no gateway for {subnet}")
        other = choose_pool(subject, PoolRequest(family=family, subnet=subnet, wants_gateway=False)).gateway
        if other is not None:
            raise AssertionError(f"no gateway is wanted in {subnet}, {other} was chosen")


def _own_pools(subject: Subject, family: int) -> None:
    networks: list[_Network] = []
    for _ in range(3):
        try:
            pool = choose_pool(subject, PoolRequest(family=family), tuple(str(n) for n in networks))
        except (Unavailable, InvalidParameter) as err:
            raise NotDeclared(f"driver has no IPv{family} pools of its own: {err}") from err
        network = ipaddress.ip_network(pool.subnet)
        if network.version != family:
            raise AssertionError(f"asked for an IPv{family} pool, got {network}")
        clash = [str(n) for n in networks if n.version == network.version and n.overlaps(network)]
        if clash:
            raise AssertionError(f"{network} was chosen although {clash[0]} is to be avoided")
        networks.append(network)


@CHECKS.pure
def own_ipv4_pools_do_not_overlap(subject: Subject) -> None:
    """An IPv4 pool of the driver's own choice overlaps none of the prefixes that it must avoid."""
    _own_pools(subject, 4)


@CHECKS.pure
def own_ipv6_pools_do_not_overlap(subject: Subject) -> None:
    """An IPv6 pool of the driver's own choice overlaps none of the prefixes that it must avoid."""
    _own_pools(subject, 6)


@CHECKS.pure
def refuses_pools_that_cannot_be(subject: Subject) -> None:
    """A gateway or range outside of the subnet is an invalid parameter, a subnet that is in use a conflict."""
    for family, subnet in SUBNETS.items():
        other = {4: "192.0.2.0/30", 6: "2001:db8::/126"}[family]
        outside = str(ipaddress.ip_network(other)[1])
        wrong = {
            f"the gateway {outside} of {subnet}": PoolRequest(family=family, subnet=subnet, gateway=outside),
            f"the range {other} of {subnet}": PoolRequest(family=family, subnet=subnet, ip_range=other),
        }
        for what, request in wrong.items():
            _refused(InvalidParameter, what, partial(choose_pool, subject, request))
        request = PoolRequest(family=family, subnet=subnet)
        _refused(Conflict, f"the subnet {subnet} that is in use", partial(choose_pool, subject, request, (subnet,)))


@CHECKS.pure
def gives_each_address_once(subject: Subject) -> None:
    """Addresses are in the subnet, free, and neither gateway, auxiliary nor (IPv4) network or broadcast address."""
    for family, subnet in SUBNETS.items():
        network = ipaddress.ip_network(subnet)
        pool = Pool(subnet=subnet, gateway=_host(family, 1), aux={"router": _host(family, 4)})
        taken = TakenAddresses([_host(family, 2)])
        reserved = {_host(family, n) for n in (0, 1, 2, 4)} | ({_host(4, 7)} if family == 4 else set())
        given: set[str] = set()
        while True:
            try:
                address = choose_address(subject, pool, AddressRequest(mac=_MAC, key=f"box{len(given)}"), taken)
            except Unavailable:
                break
            if ipaddress.ip_address(address) not in network or address in reserved or address in given:
                raise AssertionError(f"{address} was given out; {sorted(reserved | given)} may not be, in {subnet}")
            given.add(address)
            taken.add(address)
        if len(given) != 8 - len(reserved):
            raise AssertionError(f"{subnet} has {8 - len(reserved)} free addresses, {sorted(given)} were given out")


@CHECKS.pure
def stays_in_the_range(subject: Subject) -> None:
    """Addresses of its own choice are in the pool's range, addresses that are asked for may lie outside."""
    pool = Pool(subnet="10.211.8.0/24", ip_range="10.211.8.64/28", gateway="10.211.8.1")
    taken = TakenAddresses()
    for number in range(8):
        address = choose_address(subject, pool, AddressRequest(mac=_MAC, key=f"box{number}"), taken)
        if ipaddress.ip_address(address) not in ipaddress.ip_network("10.211.8.64/28"):
            raise AssertionError(f"{address} is outside of the range 10.211.8.64/28")
        taken.add(address)
    asked = choose_address(subject, pool, AddressRequest(address="10.211.8.9"), taken)
    if asked != "10.211.8.9":
        raise AssertionError(f"10.211.8.9 was asked for, {asked} was given")


@CHECKS.pure
def gives_the_address_that_was_asked_for(subject: Subject) -> None:
    """An address that is asked for is given, or refused: outside as an invalid parameter, taken as a conflict."""
    for family, subnet in SUBNETS.items():
        pool = Pool(subnet=subnet, gateway=_host(family, 1))
        taken = TakenAddresses([_host(family, 2)])
        want = _host(family, 3)
        got = choose_address(subject, pool, AddressRequest(address=want), taken)
        if got != want:
            raise AssertionError(f"{want} was asked for, {got} was given")
        outside = {4: "192.0.2.1", 6: "2001:db8::1"}[family]
        for kind, address in ((InvalidParameter, outside), (Conflict, _host(family, 2)), (Conflict, _host(family, 1))):
            request = AddressRequest(address=address)
            _refused(kind, f"{address} in {subnet}", partial(choose_address, subject, pool, request, taken))
