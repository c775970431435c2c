"""Somebody else writes an object while it is removed here: what was written stays, there and here."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
from tests.kernel.storage.servers import seaweed
from tests.kernel.tree.fault_store import FaultStore
from tests.kernel.tree.grounds import Place, keys, store_of

from engine.spec.errors import Unsupported
from engine.spec.storage import Store

SIDECAR = "d/.engine-attributes.json"


class Unconditional(FaultStore):
    """A store of a package that was written before removals had a condition."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self.caps = inner.caps.model_copy(update={"delete_if": False})

    def delete(self, key: str) -> None:
        super().delete(key)


class Disappointed(FaultStore):
    """A store that finds out, at the first removal, that its server heeds no condition."""

    def delete(self, key: str, *, if_match: str | None = None) -> None:
        if if_match is not None:
            raise Unsupported("this server removes without looking")
        super().delete(key)


@pytest.fixture(params=["file", "memory"])
def inner(tmp_path, request):
    if request.param == "memory":
        return store_of(f"memory://{tmp_path.name}{os.getpid()}")
    return store_of(f"file://{tmp_path}/store", {"fsync": "false"})


@pytest.fixture(params=[Unconditional, Disappointed])
def unconditional(inner, request):
    return request.param(inner)


def write_once(store: FaultStore, operation: str, key: str, data: bytes, *, after: bool = False) -> list[str]:
    """Have another host write `key` at the next such request, before or after it is done. Returns when it has."""
    written: list[str] = []

    def fault(seen: str, asked: str, call: Callable[[], Any]) -> Any:
        now = (seen, asked) == (operation, key) and not written
        answer = call() if after or not now else None
        if now:
            written.append(key)
            store.inner.put(key, data)
        return call() if now and not after else answer

    store.fault = fault
    return written


def kept_by_all(tmp_path, store: FaultStore, place: Place, data: bytes) -> None:
    """What the other host wrote is in the store, on a third host, and here after the next mount."""
    store.fault = None
    assert store.get("file") == data
    assert "changed elsewhere" in place.tree.status().reason
    with Place(tmp_path, store, "third") as third:
        assert (third.path / "file").read_bytes() == data


def test_an_upload_just_before_the_removal_is_kept(tmp_path, inner):
    removed_and_written(tmp_path, FaultStore(inner))


@pytest.mark.parametrize("wrapper", ["", "crypt::"])
def test_an_upload_just_before_the_removal_is_kept_by_s3(tmp_path, monkeypatch, wrapper):
    monkeypatch.setenv("ENGINE_TEST_PASSWORD", "correct horse battery staple")
    with seaweed(tmp_path) as bucket:
        options = bucket.options | ({"crypt-password": "env:ENGINE_TEST_PASSWORD"} if wrapper else {})
        store = store_of(wrapper + bucket.url, options)
        removed_and_written(tmp_path, FaultStore(store))
        assert keys(store) == ["file"]
        store.close()


def removed_and_written(tmp_path, store: FaultStore) -> None:
    """Remove a file here while another host writes its object."""
    with Place(tmp_path, store) as place:
        (place.path / "file").write_bytes(b"first")
        place.sync()
        written = write_once(store, "delete", "file", b"more valuable")
        (place.path / "file").unlink()
        place.sync()
        assert written
        kept_by_all(tmp_path, store, place, b"more valuable")
    with place.reopened() as again:
        assert (again.path / "file").read_bytes() == b"more valuable"


def test_a_removal_without_a_condition_looks_again_last(tmp_path, unconditional):
    with Place(tmp_path, unconditional) as place:
        (place.path / "file").write_bytes(b"first")
        (place.path / "also").hardlink_to(place.path / "file")  # whether that needs the object is seen to in between
        place.sync()
        written = write_once(unconditional, "head", "file", b"more valuable", after=True)
        (place.path / "file").unlink()
        place.sync()
        assert written
        kept_by_all(tmp_path, unconditional, place, b"more valuable")


def test_files_and_directories_are_removed_as_ever(tmp_path, inner, unconditional):
    for store, name in ((FaultStore(inner), "a"), (unconditional, "b")):
        with Place(tmp_path, store, name) as place:
            (place.path / "d").mkdir()
            (place.path / "d/file").write_bytes(b"first")
            place.sync()
            (place.path / "d/file").unlink()
            (place.path / "d").rmdir()
            place.sync()
            assert keys(store) == []
            assert store.head(SIDECAR) is None


def test_an_object_that_somebody_removed_just_before_is_no_error(tmp_path, inner):
    store = FaultStore(inner)
    with Place(tmp_path, store) as place:
        (place.path / "file").write_bytes(b"first")
        place.sync()
        store.fault = lambda operation, key, call: (operation == "delete" and inner.delete(key), call())[1]
        (place.path / "file").unlink()
        place.sync()
        assert place.tree.status().reason == ""
        assert keys(store) == []


def test_a_sidecar_that_is_written_just_before_its_removal_is_kept(tmp_path, inner):
    store = FaultStore(inner)
    with Place(tmp_path, store) as place:
        (place.path / "d").mkdir()
        place.sync()
        theirs = inner.get(SIDECAR).replace(b'"mode": "0755"', b'"mode": "0700"')
        written = write_once(store, "delete", SIDECAR, theirs)
        (place.path / "d").rmdir()
        place.sync()
        assert written
        assert inner.get(SIDECAR) == theirs


def test_a_sidecar_is_looked_at_before_where_there_is_no_condition(tmp_path, unconditional):
    with Place(tmp_path, unconditional) as place:
        (place.path / "d").mkdir()
        place.sync()
        theirs = unconditional.inner.get(SIDECAR).replace(b'"mode": "0755"', b'"mode": "0700"')
        written = write_once(unconditional, "head", SIDECAR, theirs)
        (place.path / "d").rmdir()
        place.sync()
        assert written
        assert unconditional.inner.get(SIDECAR) == theirs
