"""What containers are told about each other: one table of questions, and the rules that it stands on."""

from __future__ import annotations

import dns.flags
import dns.name
import dns.rcode
import dns.rdatatype
import dns.reversename
import pytest

from engine.dns.answers import TTL, Answers, service_port
from engine.dns.directory import Directory
from engine.dns.members import Member, canonical, member_of
from engine.lease import Lease
from engine.network.model import Attachment, ContainerRef, EndpointSettings, NetworkRecord, PublishedPort


def member(container: str, network: str, *addresses: str, **fields: object) -> Member:
    values: dict[str, object] = {"names": (container,), **fields}
    title = "dotted.net" if network == "dotted" else network
    return Member(
        endpoint=f"{container}@{network}", network=network, network_name=title, container=container,
        addresses=addresses, **values,
    )  # type: ignore[arg-type]  # fmt: skip


@pytest.fixture
def directory() -> Directory:
    directory = Directory()
    for item in (
        member("web", "front", "10.1.0.2", "fd01::2", names=("web", "www", "host1", "0123456789ab"),
               services=frozenset({("tcp", 80), ("tcp", 8080), ("udp", 53)})),
        member("asker", "front", "10.1.0.3"),
        member("asker", "back", "10.2.0.3"),
        member("db", "back", "10.2.0.2", names=("db", "store")),
        member("db2", "back", "10.2.0.4", names=("db2", "store"), services=frozenset({("tcp", 5432)})),
        member("six", "back", "fd02::6"),
        member("bare", "back"),
        member("hidden", "secret", "10.3.0.2", names=("hidden", "web", "only-there")),
        member("old", "bridge", "172.17.0.2", named=False),
        member("asker", "bridge", "172.17.0.3", named=False),
        member("both", "front", "10.1.0.9", names=("both", "same")),
        member("other", "back", "10.2.0.9", names=("other", "same")),
        member("loner", "dotted", "10.4.0.2"),
        member("asker", "dotted", "10.4.0.3"),
    ):  # fmt: skip
        directory.put(item)
    return directory


FORWARDED, NXDOMAIN, NODATA = "forwarded", "NXDOMAIN", "NODATA"
QUESTIONS = [
    ("web", "A", ["10.1.0.2"]),
    ("WeB", "A", ["10.1.0.2"]),
    ("web", "AAAA", ["fd01::2"]),
    ("web", "ANY", ["10.1.0.2", "fd01::2"]),
    ("www", "A", ["10.1.0.2"]),
    ("host1", "A", ["10.1.0.2"]),
    ("0123456789ab", "A", ["10.1.0.2"]),
    ("web.front", "A", ["10.1.0.2"]),
    ("web.FRONT", "AAAA", ["fd01::2"]),
    ("loner.dotted.net", "A", ["10.4.0.2"]),
    ("asker", "A", ["10.1.0.3"]),
    ("asker.back", "A", ["10.2.0.3"]),
    ("db", "AAAA", NODATA),
    ("six", "A", NODATA),
    ("six", "AAAA", ["fd02::6"]),
    ("bare", "A", NODATA),
    ("web", "MX", NODATA),
    ("web", "HTTPS", NODATA),
    ("web", "TXT", NODATA),
    ("store", "A", ["10.2.0.2", "10.2.0.4"]),
    ("same", "A", ["10.1.0.9"]),  # the first network on which somebody has the name
    ("same.back", "A", ["10.2.0.9"]),
    ("hidden", "A", FORWARDED),
    ("only-there", "A", FORWARDED),
    ("web.secret", "A", FORWARDED),
    ("hidden.secret", "A", FORWARDED),
    ("web.back", "A", FORWARDED),
    ("old", "A", FORWARDED),
    ("old.bridge", "A", FORWARDED),
    ("example.com", "A", FORWARDED),
    ("web.front.example.com", "A", FORWARDED),
    ("front", "A", FORWARDED),
    ("", "NS", FORWARDED),
    (r"web\.front", "A", FORWARDED),  # one label that contains a dot
    (r"we\000b", "A", FORWARDED),
    ("2.0.1.10.in-addr.arpa", "PTR", ["web."]),
    ("2.0.1.10.IN-ADDR.ARPA", "PTR", ["web."]),
    ("2.0.1.10.in-addr.arpa", "A", NODATA),
    ("2.0.3.10.in-addr.arpa", "PTR", FORWARDED),
    ("2.0.17.172.in-addr.arpa", "PTR", FORWARDED),
    ("8.8.8.8.in-addr.arpa", "PTR", FORWARDED),
    ("x.0.1.10.in-addr.arpa", "PTR", FORWARDED),
    ("1.10.in-addr.arpa", "PTR", FORWARDED),
    (dns.reversename.from_address("fd01::2").to_text(omit_final_dot=True), "PTR", ["web."]),
    ("_http._tcp.web", "SRV", ["0 0 80 web."]),
    ("_8080._tcp.www", "SRV", ["0 0 8080 web."]),
    ("_domain._udp.web.front", "SRV", ["0 0 53 web."]),
    ("_postgresql._tcp.store", "SRV", ["0 0 5432 db2."]),
    ("_http._udp.web", "SRV", NXDOMAIN),
    ("_nothing._tcp.web", "SRV", NXDOMAIN),
    ("_443._tcp.web", "SRV", NXDOMAIN),
    ("_http._tcp.web", "A", NODATA),
    ("_http._tcp.hidden", "SRV", FORWARDED),
    ("_http._tcp.example.com", "SRV", FORWARDED),
]


@pytest.mark.parametrize(("name", "kind", "expected"), QUESTIONS)
def test_questions(directory: Directory, name: str, kind: str, expected: object) -> None:
    answer = Answers(directory).find("asker", dns.name.from_text(name), dns.rdatatype.from_text(kind))
    if answer is None:
        assert expected == FORWARDED
    elif answer.rcode == dns.rcode.NXDOMAIN:
        assert expected == NXDOMAIN
    else:
        assert answer.rcode == dns.rcode.NOERROR
        found = sorted(record.to_text() for rrset in answer.records for record in rrset)
        assert found == (sorted(expected) if isinstance(expected, list) else [])  # type: ignore[type-var]
        assert expected == NODATA or found
        for rrset in answer.records:
            assert rrset.name == dns.name.from_text(name)
            assert rrset.ttl == TTL <= 5
            assert {r.rdtype for r in rrset} == {rrset.rdtype}
            if kind != "ANY":
                assert rrset.rdtype == dns.rdatatype.from_text(kind)


def ask(directory: Directory, asker: str, name: str, kind: str = "A") -> list[str] | None:
    answer = Answers(directory).find(asker, dns.name.from_text(name), dns.rdatatype.from_text(kind))
    return None if answer is None else [r.to_text() for rrset in answer.records for r in rrset]


def test_a_service_comes_with_the_addresses_of_its_target(directory: Directory) -> None:
    answer = Answers(directory).find("asker", dns.name.from_text("_http._tcp.web"), dns.rdatatype.SRV)
    assert answer is not None
    assert [(str(s.name), s[0].to_text()) for s in answer.additional] == [("web.", "10.1.0.2"), ("web.", "fd01::2")]


def test_a_stranger_knows_nobody(directory: Directory) -> None:
    assert ask(directory, "nobody", "web") is None
    assert ask(directory, "old", "web") is None


def test_names_without_dots_stay_here_when_a_person_said_so(directory: Directory) -> None:
    directory.put(member("picky", "front", "10.1.0.7", ndots=2))
    answers = Answers(directory)
    answer = answers.find("picky", dns.name.from_text("unknown"), dns.rdatatype.A)
    assert answer is not None
    assert answer.rcode == dns.rcode.NXDOMAIN
    assert answers.find("picky", dns.name.from_text("unknown.org"), dns.rdatatype.A) is None
    assert ask(directory, "picky", "web") == ["10.1.0.2"]


def test_changes_are_seen_at_once(directory: Directory) -> None:
    directory.put(member("web", "front", "10.1.0.2", names=("renamed",)))
    assert ask(directory, "asker", "web") is None
    assert ask(directory, "asker", "renamed") == ["10.1.0.2"]
    directory.put(member("web", "front", "10.1.0.77", names=("renamed",)))
    assert ask(directory, "asker", "renamed") == ["10.1.0.77"]
    assert ask(directory, "asker", "2.0.1.10.in-addr.arpa", "PTR") is None
    assert ask(directory, "asker", "77.0.1.10.in-addr.arpa", "PTR") == ["renamed."]
    directory.remove("web@front")
    directory.remove("web@front")
    assert ask(directory, "asker", "renamed") is None
    directory.remove("asker@back")
    assert ask(directory, "asker", "db") is None


def test_a_change_keeps_the_order_of_networks(directory: Directory) -> None:
    directory.put(member("asker", "front", "10.1.0.33"))
    assert [m.network for m in directory.of("asker")] == ["front", "back", "bridge", "dotted"]


def test_nothing_is_left_in_the_directory(directory: Directory) -> None:
    for container in ("web", "asker", "db", "db2", "six", "bare", "hidden", "old", "both", "other", "loner"):
        for m in directory.of(container):
            directory.remove(m.endpoint)
    assert not directory._members
    assert not directory._by_name
    assert not directory._by_address
    assert not directory._by_container


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("Web_1", "web_1"), ("a.b.C.", "a.b.c"), ("müsli", "xn--msli-0ra"), ("a b", ""), ("", ""), ("a..b", ""),
        ("x" * 64, ""), (".".join(["x" * 60] * 5), ""), ("*", ""), ("a\\.b", ""), ("\u0000", ""), ("ü" * 80, ""),
    ],
)  # fmt: skip
def test_canonical(given: str, expected: str) -> None:
    assert canonical(given) == expected


def test_member_of_an_endpoint() -> None:
    network = NetworkRecord(
        id="n" * 64, name="Front", driver="any", created="", ipam_driver="range", ifname="br", mac="", internal=True
    )
    endpoint = Attachment(
        id="e", network=network.id, network_name="Front", driver="any", sandbox="/x", ifname="eth0", host_ifname="v",
        mac="", addresses=("10.1.0.2/16", "fd01::2/64"), settings=EndpointSettings(aliases=("www", "bad name", "web")),
        container=ContainerRef(id="0123456789ab" + "c" * 52, name="web", hostname="Host1", ndots=1, dns=("9.9.9.9",),
                               exposed=("80/tcp", "90", "7000-7002/udp", "junk/tcp")),
        ports=(PublishedPort(protocol="tcp", host_ip="", family=4, host_port=9000, target_port=500, count=2),),
    )  # fmt: skip
    member = member_of(endpoint, network)
    assert member.names == ("web", "www", "host1", "0123456789ab")
    assert member.addresses == ("10.1.0.2", "fd01::2")
    assert member.services == {
        ("tcp", 80), ("tcp", 90), ("udp", 7000), ("udp", 7001), ("udp", 7002), ("tcp", 500), ("tcp", 501)
    }  # fmt: skip
    assert (member.named, member.internal, member.servers, member.ndots) == (True, True, ("9.9.9.9",), 1)
    assert not member_of(endpoint, network.model_copy(update={"predefined": True})).named
    lease = Lease("10.1.0.2/16", "10.1.0.1", "", 60, 30, 50, 0.0, dns=("10.1.0.53",))
    leased = endpoint.model_copy(update={"lease": lease})
    assert member_of(leased, network).servers == ("9.9.9.9",)  # what a person says comes first
    asked = leased.model_copy(update={"container": leased.container.model_copy(update={"dns": ()})})
    assert member_of(asked, network).servers == ("10.1.0.53",)


@pytest.mark.parametrize(
    ("service", "port"), [("80", 80), ("65535", 65535), ("123456", 0), ("no-such-service", 0), ("http", 80)]
)
def test_services(service: str, port: int) -> None:
    assert service_port(service, "tcp") == port
