"""The text that goes to libnftables, and what comes back."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.reconcile.ruleset import VERSION, Element, elements, families_of, fingerprint, read_elements, script
from engine.spec.firewall import Masquerade, OpenPort, PortMap, SealedPort, Segment

GOLDEN = Path(__file__).parent / "golden" / "ruleset.nft"


def port(**values: object) -> PortMap:
    common = {"protocol": "tcp", "host_port": 8080, "target": "10.0.0.2", "target_port": 80}
    return PortMap.model_validate({**common, **values})


def test_the_script_is_the_golden_one() -> None:
    assert script("engine_x") + "\n" == GOLDEN.read_text()


def test_the_operators_chain_is_made_and_never_flushed() -> None:
    assert "add chain inet t user" in script("t")
    assert "flush chain inet t user" not in script("t")


CASES = [
    (Segment(link="br0"), ['segments "br0"', 'same "br0" . "br0"']),
    (Segment(link="br0", internal=True, inter_container=False),
     ['segments "br0"', 'same "br0" . "br0"', 'internal "br0"', 'closed "br0"']),
    (Segment(link="br0", unprotected=(4, 6)),
     ['segments "br0"', 'same "br0" . "br0"', 'unprotected4 "br0"', 'unprotected6 "br0"']),
    (Segment(link="br0", routed=(4, 6), trusted=("up0",)),
     ['segments "br0"', 'same "br0" . "br0"', 'routed4 "br0"', 'routed6 "br0"', 'trusted "up0" . "br0"']),
    (OpenPort(address="10.0.0.2", protocol="tcp", port=80), ["open4 10.0.0.2 . tcp . 80"]),
    (OpenPort(address="fd00::2", protocol="udp", port=80, count=3), ["open6 fd00::2 . udp . 80-82"]),
    (SealedPort(port=4790, link="wg0"), ["sealed 4790", 'seals 4790 . "wg0"']),
    (Masquerade(subnet="10.0.0.0/16"), ["masquerade4 10.0.0.0/16"]),
    (Masquerade(subnet="10.0.0.1/32"), ["masquerade4 10.0.0.1"]),
    (Masquerade(subnet="fd00::/64"), ["masquerade6 fd00::/64"]),
    (port(), ["port4 tcp . 8080 : 10.0.0.2 . 80"]),
    (port(host_ip="0.0.0.0"), ["port4 tcp . 8080 : 10.0.0.2 . 80"]),
    (port(host_ip="127.0.0.1"), ["at4 127.0.0.1 . tcp . 8080 : 10.0.0.2 . 80"]),
    (port(protocol="udp", target="fd00::2", host_ip="::"), ["port6 udp . 8080 : fd00::2 . 80"]),
    (port(target="fd00::2", host_ip="fd00::1"), ["at6 fd00::1 . tcp . 8080 : fd00::2 . 80"]),
    (port(count=100, target_port=8080), ["range4 tcp . 8080-8179 : 10.0.0.2"]),
    (port(count=100, target_port=8080, host_ip="192.0.2.1"), ["rangeat4 192.0.2.1 . tcp . 8080-8179 : 10.0.0.2"]),
    (port(count=2), ["port4 tcp . 8080 : 10.0.0.2 . 80", "port4 tcp . 8081 : 10.0.0.2 . 81"]),
]  # fmt: skip


@pytest.mark.parametrize(("item", "expected"), CASES)
def test_elements(item, expected) -> None:
    assert [f"{element.set} {element.text()}" for element in elements(item)] == expected


def test_families() -> None:
    assert families_of(Segment(link="b")) == {4}
    assert families_of(Masquerade(subnet="fd00::/64")) == {6}
    assert families_of(port(target="fd00::2")) == {6}


def test_reading_what_libnftables_lists() -> None:
    listing = [
        {"metainfo": {"version": "1.0.6"}},
        {"set": {"name": "segments", "elem": ["br0"]}},
        {"set": {"name": "masquerade4", "elem": [{"prefix": {"addr": "10.0.0.0", "len": 8}}, "11.0.0.1"]}},
        {"map": {"name": "port4", "elem": [[{"concat": ["tcp", 80]}, {"concat": ["10.0.0.2", 8080]}]]}},
        {"map": {"name": "range4", "elem": [[{"concat": ["tcp", {"range": [80, 90]}]}, "10.0.0.2"]]}},
        {"set": {"name": "strangers", "elem": ["x"]}},
        {"set": {"name": "closed", "elem": [{"elem": {"val": "br9", "comment": "hi"}}]}},
    ]
    seen = read_elements(listing)
    assert seen["segments"] == {"br0": ""}
    assert seen["masquerade4"] == {"10.0.0.0/8": "", "11.0.0.1": ""}
    assert seen["port4"] == {"tcp . 80": "10.0.0.2 . 8080"}
    assert seen["range4"] == {"tcp . 80-90": "10.0.0.2"}
    assert seen["closed"] == {"br9": ""}
    assert "strangers" not in seen


def test_the_fingerprint_sees_rules_and_not_elements_handles_markers_or_the_operators_chain() -> None:
    rule = {"rule": {"chain": "forward", "handle": 3, "expr": [1]}}
    base = fingerprint([rule])
    assert fingerprint([{"metainfo": {}}, {"rule": {"chain": "forward", "handle": 9, "expr": [1]}}]) == base
    assert fingerprint([rule, {"rule": {"chain": "user", "expr": [2]}}]) == base
    assert fingerprint([rule, {"set": {"name": VERSION}}, {"set": {"name": base}}]) == base
    assert fingerprint([rule, {"rule": {"chain": "forward", "handle": 4, "expr": [2]}}]) != base
    with_set = fingerprint([rule, {"set": {"name": "s", "elem": [1]}}])
    assert with_set == fingerprint([rule, {"set": {"name": "s"}}])
    assert with_set != base


def test_an_element_without_data() -> None:
    assert Element("s", "k").text() == "k"
