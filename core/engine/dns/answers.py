"""What a container is told about the containers on its networks, and about nobody else."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import dns.exception
import dns.name
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.reversename
import dns.rrset
from dns.rcode import NOERROR, NXDOMAIN, Rcode
from dns.rdtypes.ANY.PTR import PTR
from dns.rdtypes.IN.A import A
from dns.rdtypes.IN.AAAA import AAAA
from dns.rdtypes.IN.SRV import SRV

from engine.dns.directory import Directory
from engine.dns.members import Member

TTL = 1
"""Seconds for which a container's address may be kept: its next start may give it another one. Not 0, for which some
clients ask again at every connection."""
_SERVICE = re.compile(r"_([a-z0-9-]+)\._(tcp|udp|sctp)\.(.+)", re.ASCII)
_ADDRESSES = frozenset({dns.rdatatype.A, dns.rdatatype.AAAA, dns.rdatatype.ANY})
_REVERSE = (".in-addr.arpa", ".ip6.arpa")


@dataclass(frozen=True)
class Answer:
    """An answer of our own: NOERROR without records says that the name exists and has none of this type."""

    rcode: Rcode = NOERROR
    records: tuple[dns.rrset.RRset, ...] = ()
    additional: tuple[dns.rrset.RRset, ...] = ()


class Answers:
    """Answers questions from the directory."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory

    def find(self, container: str, name: dns.name.Name, kind: dns.rdatatype.RdataType) -> Answer | None:
        """Return the answer to a container's question, or None if it is not about what we know: to be forwarded."""
        memberships = self._directory.of(container)
        networks = [m for m in memberships if m.named]
        text = name.to_text(omit_final_dot=True).lower()
        if text.endswith(_REVERSE):
            return self._reverse(networks, name, kind)
        if found := self._known(networks, text):
            return Answer(records=self._addresses(name, found, kind) if kind in _ADDRESSES else ())
        if (service := _SERVICE.fullmatch(text)) and (found := self._known(networks, service[3])):
            return self._service(name, found, service[1], service[2], kind)
        if "." not in text and any(m.ndots for m in memberships):
            return Answer(NXDOMAIN)
        return None

    def _known(self, networks: Sequence[Member], text: str) -> tuple[Member, ...]:
        """Return who has a name (or NAME.NETWORK): on the first of the networks on which somebody has it."""
        for own in networks:
            if found := self._directory.named(own.network, text):
                return found
        for own in networks:
            if text.endswith(f".{own.network_name}"):
                short = text[: -len(own.network_name) - 1]
                if found := self._directory.named(own.network, short):
                    return found
        return ()

    def _addresses(
        self, name: dns.name.Name, members: Iterable[Member], kind: dns.rdatatype.RdataType
    ) -> tuple[dns.rrset.RRset, ...]:
        """Return the members' addresses. On the wire they are in random order (dnspython writes sets so)."""
        found = dict.fromkeys(address for member in members for address in member.addresses)
        result = []
        for family in (dns.rdatatype.A, dns.rdatatype.AAAA):
            own = [a for a in found if (":" in a) == (family is dns.rdatatype.AAAA)]
            if own and kind in (family, dns.rdatatype.ANY):
                make = A if family is dns.rdatatype.A else AAAA
                result.append(_rrset(name, [_record(make, address) for address in own]))
        return tuple(result)

    def _reverse(self, networks: Iterable[Member], name: dns.name.Name, kind: dns.rdatatype.RdataType) -> Answer | None:
        try:
            address = dns.reversename.to_address(name)
        except (dns.exception.DNSException, ValueError):
            return None
        for own in networks:
            if member := self._directory.at(own.network, address):
                if kind not in (dns.rdatatype.PTR, dns.rdatatype.ANY):
                    return Answer()
                target = dns.name.from_text(member.names[0])
                return Answer(records=(_rrset(name, [_record(PTR, target)]),))
        return None

    def _service(
        self,
        name: dns.name.Name,
        members: Iterable[Member],
        service: str,
        protocol: str,
        kind: dns.rdatatype.RdataType,
    ) -> Answer:
        port = service_port(service, protocol)
        offering = [m for m in members if (protocol, port) in m.services]
        if not offering:
            return Answer(NXDOMAIN)
        if kind not in (dns.rdatatype.SRV, dns.rdatatype.ANY):
            return Answer()
        targets = [(dns.name.from_text(m.names[0]), m) for m in offering]
        records = [_record(SRV, 0, 0, port, target) for target, _ in targets]
        extra = tuple(s for target, m in targets for s in self._addresses(target, [m], dns.rdatatype.ANY))
        return Answer(records=(_rrset(name, records),), additional=extra)


def _record(make: Callable[..., dns.rdata.Rdata], *values: Any) -> dns.rdata.Rdata:
    return make(dns.rdataclass.IN, dns.rdatatype.RdataType[make.__name__], *values)


def _rrset(name: dns.name.Name, records: Sequence[dns.rdata.Rdata]) -> dns.rrset.RRset:
    return dns.rrset.from_rdata_list(name, TTL, records)


@lru_cache(maxsize=256)
def service_port(service: str, protocol: str) -> int:
    """Return the port of a service (RFC 2782): the number itself, or one of /etc/services; 0 if there is none."""
    if service.isdecimal():
        return int(service) if len(service) <= 5 else 0
    try:
        return socket.getservbyname(service, protocol)
    except OSError:
        return 0
