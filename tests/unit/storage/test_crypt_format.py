"""The rclone crypt format: golden vectors (read back by rclone 1.60.1), properties, and what it must notice."""

from __future__ import annotations

import hashlib
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine_drivers.storage.crypt.content import (
    BLOCK,
    HEADER,
    SEALED,
    Content,
    Damaged,
    nonce_at,
    nonce_of,
    plain_size,
    sealed_size,
)
from engine_drivers.storage.crypt.eme import Eme
from engine_drivers.storage.crypt.keys import Keys, derive, obscure, reveal
from engine_drivers.storage.crypt.names import Names

KEYS = derive(b"secret", b"pepper")
UNSALTED = derive(b"secret")
NONCE = bytes.fromhex("ff0102030405060708090a0b0c0d0e0f1011121314151617")
CONTENT = Content(KEYS.data)
few = settings(max_examples=40, deadline=None)


def opened(sealed: bytes, content: Content = CONTENT) -> bytes:
    return content.open(memoryview(sealed)[HEADER:], nonce_of(sealed[:HEADER]), 0)


def test_keys():
    assert KEYS.data.hex() == "d942605fda08cd65b92d11bfff0d4c5359d86aa6485f69dfc1d458be8b98ceb2"
    assert KEYS.name.hex() == "889b1c1b14d82399cfcd4f1cc22d593ed31911e7ef2f0c8cef6427fb4472afff"
    assert KEYS.tweak.hex() == "414c870c6f77abcefaec59cd14a2a004"


def test_keys_do_not_show_themselves():
    assert KEYS.data.hex() not in repr(KEYS)
    assert repr(KEYS.data) not in f"{KEYS}"


def test_an_empty_password_is_refused():
    with pytest.raises(ValueError, match="protects nothing"):
        derive(b"")


@pytest.mark.parametrize(
    ("name", "stored"),
    [
        ("1", "9sjs24r77qg58njs372179endk"),
        ("dir one", "vstv2una10qo4554l4om0sq154"),
        ("héllo file.txt", "qsc6clesn3tfs4opuuio7upb3s"),
        (
            "a-name-longer-than-one-block.txt",
            "eoi74fd3j5qjggbtr7blgecfdj6i4e47pdgl6i3mrkkpgoj1qk4tf8phaa9f8fsvr8i8276rh93f8",
        ),
        ("dir one/1", "vstv2una10qo4554l4om0sq154/9sjs24r77qg58njs372179endk"),
    ],
)
def test_names(name, stored):
    assert Names(KEYS).hide(name) == stored
    assert Names(KEYS).show(stored) == name


@pytest.mark.parametrize(
    ("options", "stored"),
    [
        ({}, "id565chbl918pu2u7pdmgmb8vs"),
        ({"encoding": "base64"}, "k0pisiuqQoz4Xj5baFlo_w"),
        ({"encryption": "obfuscate"}, "120.D"),
        ({"encryption": "off"}, "x.bin"),
        ({"encryption": "off", "suffix": ".enc"}, "x.enc"),
    ],
)
def test_forms_of_a_name(options, stored):
    assert Names(UNSALTED, **options).hide("x") == stored
    assert Names(UNSALTED, **options).show(stored) == "x"


def test_content():
    sealed = b"".join(CONTENT.seal([b"hello\n"], NONCE))
    assert sealed.hex() == (
        "52434c4f4e450000ff0102030405060708090a0b0c0d0e0f1011121314151617801e82ffe689d7afa6a16cbe034a0a2b709736776da2"
    )
    assert opened(sealed) == b"hello\n"


def test_content_of_two_blocks():
    data = bytes(n % 251 for n in range(65537))
    sealed = b"".join(CONTENT.seal([data], NONCE))
    assert len(sealed) == 65601 == sealed_size(65537)
    assert hashlib.sha256(sealed).hexdigest() == "8f279c7a167ea5a224498cdee2a14980ee5657e66079885b879acb85858bc89a"
    assert opened(sealed) == data


def test_nonces_carry_and_wrap():
    assert nonce_at(b"\xff" + bytes(23), 1) == b"\0\x01" + bytes(22)
    assert nonce_at(b"\xff" * 24, 2) == b"\x01" + bytes(23)


@few
@given(st.binary(max_size=3 * BLOCK), st.lists(st.integers(0, 3 * BLOCK), max_size=4))
def test_content_comes_back_whatever_its_pieces(data, cuts):
    edges = [0, *sorted(min(c, len(data)) for c in cuts), len(data)]
    pieces = [data[a:b] for a, b in itertools.pairwise(edges)]
    sealed = b"".join(CONTENT.seal(pieces, NONCE))
    assert len(sealed) == sealed_size(len(data))
    assert plain_size(len(sealed)) == len(data)
    assert opened(sealed) == data


part = st.text(st.characters(exclude_characters="/\0", codec="utf-8"), min_size=1, max_size=40).filter(
    lambda t: t not in (".", "..")
)


@few
@given(
    st.lists(part, min_size=1, max_size=4),
    st.sampled_from(["standard", "obfuscate", "off"]),
    st.sampled_from(["base32", "base64"]),
    st.booleans(),
)
def test_names_come_back(parts, encryption, encoding, directories):
    names = Names(KEYS, encryption=encryption, encoding=encoding, directories=directories)
    key = "/".join(parts)
    assert names.show(names.hide(key)) == key
    assert names.hide(key).count("/") == key.count("/")


@few
@given(st.integers(1, 128).flatmap(lambda n: st.binary(min_size=16 * n, max_size=16 * n)))
def test_eme_is_a_permutation(data):
    eme = Eme(KEYS.name, KEYS.tweak)
    assert eme.decrypt(eme.encrypt(data)) == data
    assert eme.encrypt(data) != data


@pytest.mark.parametrize("length", [0, 15, 17, 129 * 16])
def test_eme_refuses_other_lengths(length):
    with pytest.raises(ValueError, match="blocks"):
        Eme(KEYS.name, KEYS.tweak).encrypt(bytes(length))


@pytest.mark.parametrize("position", [0, 8, HEADER, HEADER + 20, -1])
def test_a_changed_byte_is_noticed(position):
    sealed = bytearray(b"".join(CONTENT.seal([b"content" * 10], NONCE)))
    sealed[position] ^= 1
    with pytest.raises(Damaged):
        opened(bytes(sealed))


@pytest.mark.parametrize("size", [0, HEADER - 1, HEADER + 1, HEADER + 16, HEADER + SEALED + 16])
def test_sizes_that_no_content_gives(size):
    with pytest.raises(Damaged):
        plain_size(size)


def test_another_key_opens_nothing():
    sealed = b"".join(CONTENT.seal([b"content"], NONCE))
    with pytest.raises(Damaged):
        opened(sealed, Content(UNSALTED.data))


@pytest.mark.parametrize(
    "stored", ["README", "9sjs24r77qg58njs372179endl", "9SJS24R77QG58NJS372179ENDK", "a", "=", "é"]
)
def test_foreign_names_are_noticed(stored):
    with pytest.raises(Damaged):
        Names(KEYS).show(stored)


@pytest.mark.parametrize(("limit", "longest"), [(255, 143), (0, 2047)])
def test_longest_names(limit, longest):
    names = Names(KEYS)
    assert names.longest(limit) == longest
    if limit:
        assert len(names.hide("x" * longest)) <= limit < len(names.hide("x" * (longest + 1)))


def test_obscured_passwords():
    assert reveal(obscure(b"secret")) == b"secret"
    assert obscure(b"secret") != obscure(b"secret")
    with pytest.raises(ValueError, match="too short"):
        reveal("abc")


def test_zero_keys_are_for_sizes_only():
    assert Names(Keys(bytes(32), bytes(32), bytes(16))).longest(255) == 143
