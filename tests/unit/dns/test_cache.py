"""How long what others said is kept, and how much of it."""

from __future__ import annotations

import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest

from engine.dns import wire
from engine.dns.cache import Cache


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def response(*answers: str, authority: str = "", code: str = "NOERROR", name: str = "example.org.") -> bytes:
    message = dns.message.make_response(dns.message.make_query(name, "A", use_edns=0, id=1))
    message.set_rcode(dns.rcode.from_text(code))
    for line in answers:
        owner, ttl, _, kind, *rest = line.split()
        message.answer.append(dns.rrset.from_text(owner, int(ttl), "IN", kind, " ".join(rest)))
    if authority:
        owner, ttl, _, kind, *rest = authority.split()
        message.authority.append(dns.rrset.from_text(owner, int(ttl), "IN", kind, " ".join(rest)))
    return message.to_wire(max_size=65535)


def soa(ttl: int, minimum: int) -> str:
    return f"example.org. {ttl} IN SOA ns.example.org. root.example.org. 1 7200 900 86400 {minimum}"


A = "example.org. 60 IN A 192.0.2.1"


@pytest.mark.parametrize(
    ("message", "seconds"),
    [
        (response(A), 60),
        (response(A, "example.org. 30 IN AAAA 2001:db8::1"), 30),
        (response("example.org. 0 IN A 192.0.2.1"), 0),
        (response("example.org. 999999 IN A 192.0.2.1"), 86400),
        (response(code="NXDOMAIN", authority=soa(300, 20)), 20),
        (response(code="NXDOMAIN", authority=soa(10, 600)), 10),
        (response(code="NXDOMAIN"), 0),
        (response(authority=soa(300, 40)), 40),
        (response(), 0),
        (response(authority="example.org. 300 IN NS ns.example.org."), 0),
        (response(code="SERVFAIL"), 1),
        (response(code="REFUSED"), 1),
        (response(code="FORMERR"), 0),
        (response("example.org. 60 IN CNAME www.example.org.", code="NXDOMAIN", authority=soa(300, 20)), 20),
    ],
    ids=lambda value: value if isinstance(value, int) else "",
)
def test_for_how_long(message: bytes, seconds: int, clock: Clock) -> None:
    cache = Cache(clock=clock)
    cache.put("k", message)
    assert (cache.get("k") is not None) == (seconds > 0)
    clock.now += seconds - 0.5
    assert (cache.get("k") is not None) == (seconds > 0)
    clock.now += 0.5
    assert cache.get("k") is None
    assert len(cache) == cache.size == 0


def test_a_huge_number_is_no_time_to_live(clock: Clock) -> None:
    message = bytearray(response(A))
    (record,) = (r for r in wire.records(bytes(message)) if r.section == 0)
    message[record.ttl_at : record.ttl_at + 4] = b"\xff\xff\xff\xff"
    assert wire.lifetime(bytes(message))[0] == 0


def test_truncated_responses_are_not_kept(clock: Clock) -> None:
    cache = Cache(clock=clock)
    cache.put("k", wire.fitted(response(*[f"example.org. 60 IN A 192.0.2.{n}" for n in range(100)]), 512))
    assert cache.get("k") is None


def test_times_to_live_count_down(clock: Clock) -> None:
    cache = Cache(clock=clock)
    cache.put("k", response(A, "example.org. 90 IN AAAA 2001:db8::1"))
    clock.now += 25.9
    found = cache.get("k")
    assert found is not None
    message = dns.message.from_wire(found)
    assert [s.ttl for s in message.answer] == [35, 65]
    assert message.edns == 0  # its field is no time to live
    assert message.payload == dns.message.from_wire(response(A)).payload


def test_it_is_bounded_by_number(clock: Clock) -> None:
    cache = Cache(entries=3, clock=clock)
    for key in "abc":
        cache.put(key, response(A))
    assert cache.get("a")  # used last: stays
    cache.put("d", response(A))
    assert [key for key in "abcd" if cache.get(key)] == ["a", "c", "d"]


def test_it_is_bounded_by_size(clock: Clock) -> None:
    one = response(A)
    cache = Cache(size=3 * len(one), clock=clock)
    for n in range(10):
        cache.put(n, one)
        cache.put(n, one)
    assert len(cache) == 3
    assert cache.size == 3 * len(one)
    cache.put("huge", response(*[f"example.org. 60 IN A 192.0.2.{n}" for n in range(200)]))
    assert cache.get("huge") is None
    assert len(cache) == 3


def test_a_new_response_replaces_the_old_one(clock: Clock) -> None:
    cache = Cache(clock=clock)
    cache.put("k", response(A))
    cache.put("k", response("example.org. 60 IN A 192.0.2.2"))
    assert b"\xc0\x00\x02\x02" in (cache.get("k") or b"")
    cache.put("k", response(code="NXDOMAIN"))
    assert cache.get("k") is None
