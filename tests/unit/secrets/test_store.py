"""The engine's own secrets: files for root alone, docker's rules."""

from __future__ import annotations

import json

import pytest

from engine.secrets.store import LARGEST, SecretStore
from engine.spec.errors import Conflict, Internal, InvalidParameter, NotFound


def test_kept_listed_and_removed(tmp_path):
    store = SecretStore(tmp_path / "secrets")
    made = store.create("db.password", b"\0secret\n", {"a": "b"})
    assert SecretStore(tmp_path / "secrets").read("db.password") == b"\0secret\n"
    assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o700
    assert [p.stat().st_mode & 0o777 for p in (tmp_path / "secrets").iterdir()] == [0o600]
    assert store.get(made.id[:6]) == store.get("db.password") == made
    assert "secret\\n" not in json.dumps(made.describe())
    assert [s.name for s in store.list({"label": ["a=b"], "name": ["db"]})] == ["db.password"]
    assert store.list({"label": ["a=c"]}) == []
    with pytest.raises(Conflict):
        store.create("db.password", b"x")
    store.remove("db.password")
    assert list((tmp_path / "secrets").iterdir()) == []
    for call in (store.get, store.read, store.remove):
        with pytest.raises(NotFound):
            call("db.password")


@pytest.mark.parametrize("name", ["", "-x", "x-", "a/b", "../x", "x" * 65, "a b", ".x"])
def test_names(tmp_path, name):
    with pytest.raises(InvalidParameter):
        SecretStore(tmp_path).create(name, b"x")
    with pytest.raises(NotFound):
        SecretStore(tmp_path).read(name)


@pytest.mark.parametrize("data", [b"", b"x" * (LARGEST + 1)])
def test_sizes(tmp_path, data):
    with pytest.raises(InvalidParameter):
        SecretStore(tmp_path).create("x", data)


def test_in_use(tmp_path):
    store = SecretStore(tmp_path, lambda name: ["volume v"] if name == "x" else [])
    store.create("x", b"1")
    with pytest.raises(Conflict, match="volume v"):
        store.remove("x")


def test_a_damaged_file_says_so_and_shows_nothing(tmp_path):
    store = SecretStore(tmp_path)
    store.create("x", b"top")
    (tmp_path / "x.json").write_text('{"data": "dG9w", "name"')
    with pytest.raises(Internal, match="damaged") as caught:
        store.read("x")
    assert "dG9w" not in str(caught.value)
    assert caught.value.__cause__ is None
