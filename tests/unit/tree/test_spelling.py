"""How names are spelled in keys: every name comes back, and rclone spells it the same."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.spec.storage import StorageCaps, check_key
from engine.tree.names import NAME_MAX, conflict_name, is_conflict_copy, unnameable
from engine.tree.spelling import FILES, OBJECTS, Spelling

ODD = [
    "␀",
    "␊",
    "␡",
    "‛",
    "‛‛",
    "‛0A",
    "‛FF",
    "＼",
    "／",
    "．",
    "．．",
    ".engine-",
    "．engine-",
    "é",
    "\x01",
    "\x7f",
    "\n",
    "\\",
]
NAMES = st.one_of(
    st.binary(min_size=1, max_size=24),
    st.lists(st.sampled_from(ODD) | st.text(max_size=2), min_size=1).map(
        lambda parts: "".join(parts).encode(errors="surrogatepass")
    ),
).map(lambda found: os.fsdecode(found.replace(b"/", b"_").replace(b"\0", b"_") or b"_")).filter(
    lambda name: name not in (".", "..", "")
)  # fmt: skip
BOTH = pytest.mark.parametrize("spelling", [OBJECTS, FILES], ids=["objects", "files"])


@BOTH
@given(names=st.lists(NAMES, min_size=1, max_size=3))
def test_every_path_comes_back(spelling: Spelling, names: list[str]) -> None:
    path = "/".join(names)
    key = spelling.stored(path)
    check_key(key, StorageCaps())
    assert spelling.local(key) == path
    assert spelling.is_spelled(key)
    assert "/".join(map(spelling.stored, names)) == key
    if all(len(os.fsencode(name)) <= NAME_MAX for name in names):
        assert unnameable(key, spelling) == ""
    if spelling is OBJECTS:
        assert not any(ord(c) < 0x20 or c in "\x7f\\" for c in key)


@BOTH
@given(key=st.lists(st.sampled_from(ODD) | st.text(max_size=2), min_size=1).map("".join))
def test_a_key_is_of_one_path_or_none(spelling: Spelling, key: str) -> None:
    try:
        key.encode()
    except UnicodeEncodeError:
        return
    assert spelling.is_spelled(key) == (spelling.stored(os.fsdecode(os.fsencode(spelling.local(key)))) == key)
    if not unnameable(key, spelling):
        assert spelling.stored(os.fsdecode(os.fsencode(spelling.local(key)))) == key


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("a\nb", "a␊b"), ("tab\t", "tab␉"), ("back\\slash", "back＼slash"), ("\x7f", "␡"), ("\udcff\udc80", "‛FF‛80"),
        ("␊", "‛␊"), ("‛", "‛‛"), ("．", "‛．"), ("a．", "a．"), ("／", "‛／"), ("plain é", "plain é"),
        (".engine-attributes.json", "．engine-attributes.json"), ("．engine-x", "‛．engine-x"), (".e", ".e"),
    ],
)  # fmt: skip
def test_it_is_spelled_as_documented(name: str, key: str) -> None:
    assert OBJECTS.stored(name) == key
    assert OBJECTS.local(key) == name


@pytest.mark.parametrize("key", ["a\nb", "a\\b", "‛", "a‛b", "‛41", "‛C3‛A9", "␀", "．", "．．", ".engine-x", "a\0"])
def test_keys_that_no_file_gets(key: str) -> None:
    assert unnameable(key, OBJECTS)


def test_a_store_of_files_keeps_what_a_file_may_be_called() -> None:
    assert FILES.stored("a\nb\\c␊") == "a\nb\\c␊"


@given(name=NAMES)
def test_a_conflict_copy_has_a_name_that_can_be_stored(name: str) -> None:
    copy = conflict_name(name * 20, "host", "20261204T000000Z", 1)
    assert len(os.fsencode(copy)) <= NAME_MAX
    assert OBJECTS.local(OBJECTS.stored(copy)) == copy
    assert is_conflict_copy(OBJECTS.stored(copy))


@pytest.mark.skipif(shutil.which("rclone") is None, reason="rclone is not here")
def test_rclone_finds_the_names_again(tmp_path) -> None:
    """rclone copies from a directory that it is told to take for a store of objects."""
    keys, files = tmp_path / "keys", tmp_path / "files"
    keys.mkdir()
    odd = {
        *map(str.encode, ODD),
        *(f"a{o}b".encode() for o in ODD),
        b"\xff\xfea",
        b"\xe2\x82",
        b"a\xc3",
        b"\xed\xa0\x80",
    }
    names = {os.fsdecode(name) for name in odd if b"engine-" not in name}
    for name in names:
        (keys / OBJECTS.stored(name)).touch()
    source = f":local,encoding='Slash,BackSlash,Del,Ctl,InvalidUtf8,Dot':{keys}"
    subprocess.run(
        ["rclone", "copy", source, f":local,encoding='None':{files}"], check=True, capture_output=True, timeout=60
    )
    # These two it always quotes, also in a directory of its own.
    expected = {name.replace("‛", "‛‛").replace("␀", "‛␀") for name in names}
    assert {path.name for path in files.iterdir()} == expected
