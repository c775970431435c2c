"""The IPAM driver `range`: what the conformance kit does not know about counting."""

import time

import pytest

from engine.spec.errors import Conflict, InvalidParameter, Unavailable
from engine.spec.ipam import AddressPool, AddressRequest, Pool, PoolRequest
from engine.spec.options import Options
from engine_drivers.ipam.range import RangeDriver

DRIVER = RangeDriver()


class Taken(set):
    last = None


def pool(avoid=(), **request):
    return DRIVER.choose_pool(PoolRequest(**request), Options(), tuple(avoid))


def address(pool, taken=(), last=None, **request):
    taken = Taken(taken)
    taken.last = last
    return DRIVER.choose_address(pool, AddressRequest(**request), taken)


def test_default_pools_are_dockers_and_pass_over_what_is_used():
    assert pool().subnet == "172.17.0.0/16"
    assert pool(avoid=["172.17.5.0/24", "172.18.0.0/15"]).subnet == "172.20.0.0/16"
    assert pool(avoid=["172.16.0.0/12"]).subnet == "192.168.0.0/20"
    assert pool(gateway="172.25.0.9").subnet == "172.25.0.0/16"
    with pytest.raises(Unavailable, match="--subnet"):
        pool(avoid=["172.16.0.0/12", "192.168.0.0/16"])


def test_the_operator_s_pools_come_in_order_and_only_they():
    defaults = (AddressPool(base="10.1.0.0/23", size=24), AddressPool(base="10.9.0.0/30", size=30))
    assert pool(defaults=defaults).subnet == "10.1.0.0/24"
    assert pool(defaults=defaults, avoid=["10.1.0.128/25"]).subnet == "10.1.1.0/24"
    assert pool(defaults=defaults, avoid=["10.0.0.0/13"]).subnet == "10.9.0.0/30"
    assert pool(defaults=defaults, gateway="10.1.1.9").subnet == "10.1.1.0/24"
    with pytest.raises(Unavailable, match="--default-address-pool"):
        pool(defaults=defaults, avoid=["10.0.0.0/8"])
    with pytest.raises(Unavailable):
        pool(defaults=defaults, gateway="10.2.0.1")
    assert pool(family=6, key="a", defaults=defaults) == pool(family=6, key="a")
    six = AddressPool(base="fd00:7::/32", size=64)
    assert pool(family=6, defaults=(*defaults, six)).subnet == "fd00:7::/64"
    assert pool(family=6, defaults=(six,), avoid=["fd00:7::/33"]).subnet == "fd00:7:8000::/64", "at once"
    assert pool(defaults=(six,)).subnet == "172.17.0.0/16"


def test_ipv6_default_pools_are_local_and_stable_and_differ_by_network():
    first, again, other = pool(family=6, key="a"), pool(family=6, key="a"), pool(family=6, key="b")
    assert first == again != other
    assert first.subnet.startswith("fd")
    assert first.subnet.endswith("/64")
    assert pool(family=6, key="a", avoid=[first.subnet]).subnet != first.subnet


def test_the_previous_address_comes_before_the_next_one_but_not_outside_of_the_range():
    whole, part = Pool(subnet="10.0.0.0/24"), Pool(subnet="10.0.0.0/24", ip_range="10.0.0.128/25")
    assert address(whole, last="10.0.0.9", previous="10.0.0.7") == "10.0.0.7"
    assert address(part, last="10.0.0.200", previous="10.0.0.7") == "10.0.0.201"


def test_a_gateway_is_not_an_auxiliary_address():
    assert pool(subnet="10.0.0.0/24", aux={"r": "10.0.0.1"}).gateway == "10.0.0.2"


@pytest.mark.parametrize(
    ("request_", "kind", "text"),
    [
        ({"subnet": "10.0.0.0/24", "avoid": ["10.0.0.0/8"]}, Conflict, "overlaps 10.0.0.0/8"),
        ({"subnet": "10.0.0.0/24", "gateway": "10.0.1.1"}, InvalidParameter, "gateway 10.0.1.1 is not in"),
        ({"subnet": "10.0.0.0/24", "ip_range": "10.0.0.0/23"}, InvalidParameter, "range 10.0.0.0/23"),
        ({"subnet": "10.0.0.0/24", "aux": {"nas": "10.1.0.1"}}, InvalidParameter, "address nas 10.1.0.1"),
        ({"subnet": "10.0.0.0/24", "family": 6}, InvalidParameter, "version 6"),
        ({"ip_range": "10.0.0.0/25"}, InvalidParameter, "needs a subnet"),
    ],
)
def test_impossible_pools_are_refused(request_, kind, text):
    with pytest.raises(kind, match=text):
        pool(**request_)


def test_addresses_come_one_after_another_and_wrap():
    small = Pool(subnet="10.0.0.0/29", gateway="10.0.0.1", aux={"nas": "10.0.0.3"})
    assert address(small) == "10.0.0.2"
    assert address(small, ["10.0.0.2"], last="10.0.0.2") == "10.0.0.4"
    assert address(small, [], last="10.0.0.4") == "10.0.0.5"
    assert address(small, ["10.0.0.6"], last="10.0.0.6") == "10.0.0.2"
    with pytest.raises(Unavailable, match=r"no address is free in 10\.0\.0\.0/29"):
        address(small, [f"10.0.0.{n}" for n in (2, 4, 5, 6)])


def test_the_range_limits_choice_but_not_fixed_addresses():
    part = Pool(subnet="10.0.0.0/24", ip_range="10.0.0.128/30", gateway="10.0.0.1")
    assert address(part) == "10.0.0.128"
    assert address(part, address="10.0.0.7") == "10.0.0.7"
    with pytest.raises(Unavailable, match="128/30"):
        address(part, [f"10.0.0.{n}" for n in range(128, 132)])


@pytest.mark.parametrize(
    ("wanted", "kind"),
    [
        ("10.0.0.0", InvalidParameter),
        ("10.0.0.255", InvalidParameter),
        ("10.0.1.5", InvalidParameter),
        ("fd00::5", InvalidParameter),
        ("10.0.0.1", Conflict),
        ("10.0.0.3", Conflict),
        ("10.0.0.4", Conflict),
    ],
)
def test_fixed_addresses_that_cannot_be(wanted, kind):
    with pytest.raises(kind, match=wanted):
        address(Pool(subnet="10.0.0.0/24", gateway="10.0.0.1", aux={"n": "10.0.0.3"}), ["10.0.0.4"], address=wanted)


def test_links_between_two_hosts_use_both_addresses():
    assert address(Pool(subnet="10.0.0.0/31")) == "10.0.0.0"
    assert address(Pool(subnet="fd00::/127", gateway="fd00::")) == "fd00::1"
    assert address(Pool(subnet="fd00::/127")) == "fd00::"


def test_a_large_pool_costs_no_more_than_a_small_one():
    began = time.monotonic()
    large = Pool(subnet="10.0.0.0/8", gateway="10.255.0.1")
    last, taken = None, Taken()
    for _ in range(500):
        taken.last = last
        last = DRIVER.choose_address(large, AddressRequest(), taken)
        taken.add(last)
    assert last == "10.0.1.244"
    assert time.monotonic() - began < 20


def test_the_first_address_is_left_to_a_router_outside_where_no_gateway_is_known():
    assert address(Pool(subnet="10.0.0.0/24")) == "10.0.0.2"
    assert address(Pool(subnet="10.0.0.0/24"), address="10.0.0.1") == "10.0.0.1"
    assert address(Pool(subnet="10.0.0.0/24", ip_range="10.0.0.0/30")) == "10.0.0.1"
