"""Messages that strangers send: looked into without harm, whatever they are."""

from __future__ import annotations

import dns.exception
import dns.flags
import dns.message
import dns.rrset
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine.dns import wire


def query(name: str = "example.org.", kind: str = "A", *, edns: bool = True) -> bytes:
    return dns.message.make_query(name, kind, use_edns=0 if edns else False).to_wire()


def response_to(message: bytes, addresses: int) -> bytes:
    response = dns.message.make_response(dns.message.from_wire(message))
    name = response.question[0].name
    if addresses:
        response.answer.append(dns.rrset.from_text(name, 60, "IN", "A", *[f"192.0.2.{n}" for n in range(addresses)]))
    return response.to_wire(max_size=65535)


WHOLE = response_to(query(), 3)


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.binary(max_size=80), st.builds(
    lambda cut, at, value: WHOLE[:at] + bytes((value,)) + WHOLE[at + 1 : cut],
    st.integers(0, len(WHOLE)), st.integers(0, len(WHOLE) - 1), st.integers(0, 255),
)))  # fmt: skip
@example(b"\0" * 12)
@example(WHOLE[:12] + b"\xc0\x0c" + WHOLE[14:])
def test_nothing_but_one_exception_comes_out(data: bytes) -> None:
    for look in (wire.lifetime, wire.rcode, lambda m: wire.answers(query(), m), lambda m: wire.fitted(m, 40)):
        try:
            look(data)
        except dns.exception.DNSException:
            pass


def test_which_response_belongs_to_a_query() -> None:
    asked = query()
    right = response_to(asked, 1)
    assert wire.answers(asked, right)
    assert wire.answers(asked, right.replace(b"example", b"eXaMpLe"))
    assert not wire.answers(asked, bytes((right[0] ^ 1,)) + right[1:])
    assert not wire.answers(asked, asked)
    assert not wire.answers(asked, right.replace(b"example", b"exampel"))
    assert not wire.answers(asked, response_to(query(kind="AAAA"), 0)[:2] + right[2:3] + right[3:].replace(
        b"\0\x01\0\x01", b"\0\x1c\0\x01", 1))  # fmt: skip
    failure = wire.HEADER.pack(int.from_bytes(asked[:2], "big"), wire.QR | wire.SERVFAIL, 0, 0, 0, 0)
    assert wire.answers(asked, failure)
    assert not wire.answers(asked, failure[:3] + b"\0" + failure[4:])  # "no error", about nothing


def test_what_is_too_long_says_so() -> None:
    long = response_to(query(), 100)
    short = wire.fitted(long, 512)
    message = dns.message.from_wire(short)
    assert len(short) <= 512
    assert message.flags & dns.flags.TC
    assert message.id == dns.message.from_wire(long).id
    assert message.question == dns.message.from_wire(long).question
    assert message.edns == 0
    assert not message.answer
    assert wire.fitted(long, len(long)) is long
    assert dns.message.from_wire(wire.fitted(response_to(query(edns=False), 100), 512)).edns == -1
