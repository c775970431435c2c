from __future__ import annotations

import pytest

from engine.reconcile.hot_elements import DELSETELEM, MOST, NEWSETELEM, Change, are_hot, encode, packed
from engine.reconcile.rtnetlink import attributes, text
from engine.reconcile.ruleset import Element

PORT = Element("port4", "tcp . 8080", "10.0.0.2 . 80")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("tcp . 8080", "06000000 1f900000"), ("10.0.0.2 . 80", "0a000002 00500000"),
        ("192.0.2.1 . udp . 53", "c0000201 11000000 00350000"),
        ("fd00::1 . sctp . 1", "fd000000 00000000 00000000 00000001 84000000 00010000"),
    ],
)  # fmt: skip
def test_each_value_is_padded_to_four_bytes(value, expected) -> None:
    assert packed(value).hex(" ", 4) == expected


def unwrap(body: bytes) -> tuple[str, str, dict[int, bytes]]:
    found = attributes(body, 4)
    return text(found[1]), text(found[2]), attributes(attributes(found[3])[1])


def test_an_element_is_made_exclusively_and_deleted_by_its_key() -> None:
    made = encode("engine_x", Change("create", PORT))
    assert (made.type, made.flags) == (NEWSETELEM, 0x600)
    table, name, parts = unwrap(made.body)
    assert (table, name, made.body[0]) == ("engine_x", "port4", 1)
    assert attributes(parts[1]) == {1: packed(PORT.key)}
    assert attributes(parts[2]) == {1: packed(PORT.data)}
    gone = encode("engine_x", Change("delete", PORT))
    assert (gone.type, gone.flags) == (DELSETELEM, 0)
    assert set(unwrap(gone.body)[2]) == {1}


def test_only_few_elements_of_hash_maps_take_the_short_way() -> None:
    hot = Change("create", PORT)
    assert are_hot([hot] * MOST)
    assert not are_hot([hot] * (MOST + 1))
    assert not are_hot([hot, Change("create", Element("range4", "tcp . 1-2", "10.0.0.2"))])
