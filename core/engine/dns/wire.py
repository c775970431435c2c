"""DNS messages on the wire (RFC 1035), as far as they are looked into without being understood.

All functions raise `dns.exception.DNSException` for what is malformed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import dns.exception
import dns.name
import dns.rdatatype
import dns.wire

HEADER = struct.Struct("!HHHHHH")
QR, TC = 0x8000, 0x0200
RCODE = 0x000F
NOERROR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = 0, 2, 3, 4, 5
MINIMUM = 512
"""Bytes that every client takes in one datagram."""
LONGEST_LIFE = 86_400
"""Seconds; a longer time to live is taken for this (RFC 8767 says so of a week)."""
FAILURE_LIFE = 1
"""Seconds for which a failure is remembered (RFC 9520: at least one)."""


class Record(NamedTuple):
    """Where a record lies in a message."""

    section: int
    """0 answer, 1 authority, 2 additional."""
    kind: int
    start: int
    ttl_at: int
    ttl: int
    end: int


def _parse(message: bytes) -> tuple[dns.wire.Parser, Sequence[int]]:
    parser = dns.wire.Parser(message)
    return parser, parser.get_struct("!HHHHHH")


def _skip_questions(parser: dns.wire.Parser, count: int) -> None:
    for _ in range(count):
        dns.name.from_wire_parser(parser)
        parser.get_struct("!HH")


def records(message: bytes) -> Iterator[Record]:
    """Iterate over the records of a message."""
    parser, (_, _, questions, *counts) = _parse(message)
    _skip_questions(parser, questions)
    for section, count in enumerate(counts):
        for _ in range(count):
            start = parser.current
            dns.name.from_wire_parser(parser)
            kind, _, ttl, length = parser.get_struct("!HHIH")
            ttl_at = parser.current - 6
            parser.get_bytes(length)
            yield Record(section, kind, start, ttl_at, ttl, parser.current)


def rcode(message: bytes) -> int:
    """Return the response code (without the bits that EDNS adds)."""
    return _flags(message) & RCODE


def is_truncated(message: bytes) -> bool:
    """Return whether the message says that it is not whole."""
    return bool(_flags(message) & TC)


def _flags(message: bytes) -> int:
    return int(_parse(message)[1][1])


def answers(query: bytes, response: bytes) -> bool:
    """Return whether a response is one to this query: id and question are the same (letters' case aside)."""
    if len(response) < HEADER.size or response[:2] != query[:2] or not response[2] & 0x80:
        return False
    if response[4:6] == bytes(2):  # a failure may leave the question out
        return rcode(response) != NOERROR
    parser, _ = _parse(query)
    _skip_questions(parser, 1)
    question = slice(HEADER.size, parser.current)
    return response[4:6] == query[4:6] and response[question].lower() == query[question].lower()


def lifetime(message: bytes) -> tuple[int, tuple[int, ...]]:
    """Return for how many seconds a response may be kept (0: not at all), and where its times to live are.

    A negative one is kept as its SOA record says (RFC 2308), without one not at all.
    """
    found = [record for record in records(message) if record.kind != dns.rdatatype.OPT]
    places = tuple(record.ttl_at for record in found)
    code = rcode(message)
    if is_truncated(message):
        return 0, places
    if code in (SERVFAIL, REFUSED):
        return FAILURE_LIFE, places
    if code not in (NOERROR, NXDOMAIN):
        return 0, places
    lives = [record.ttl for record in found]
    if code == NXDOMAIN or not any(record.section == 0 for record in found):
        soa = next((r for r in found if r.section == 1 and r.kind == dns.rdatatype.SOA and r.end - r.ttl_at > 24), None)
        if soa is None:
            return 0, places
        lives.append(int.from_bytes(message[soa.end - 4 : soa.end], "big"))
    # A negative number in 32 bits counts as 0 (RFC 2181, section 8).
    return min(min((0 if life >> 31 else life for life in lives), default=0), LONGEST_LIFE), places


def aged(message: bytes, places: Sequence[int], seconds: int) -> bytes:
    """Return a message with its times to live lowered."""
    if seconds <= 0:
        return message
    changed = bytearray(message)
    for place in places:
        ttl = max(int.from_bytes(message[place : place + 4], "big") - seconds, 0)
        changed[place : place + 4] = ttl.to_bytes(4, "big")
    return bytes(changed)


def fitted(message: bytes, size: int) -> bytes:
    """Return a response for a datagram of so many bytes: if it is too long, one that says so, without its records."""
    if len(message) <= size:
        return message
    parser, (id, flags, questions, *_) = _parse(message)
    _skip_questions(parser, questions)
    edns = next((message[r.start : r.end] for r in records(message) if r.kind == dns.rdatatype.OPT), b"")
    header = HEADER.pack(id, flags | TC, questions, 0, 0, 1 if edns else 0)
    return header + message[HEADER.size : parser.current] + edns
