"""Two hosts on one prefix, and what somebody else does to objects behind our back."""

from __future__ import annotations

import os

import pytest
from tests.kernel.tree.grounds import Place, keys, picture, store_of

from engine.tree.tree import Tree


@pytest.fixture(params=["file", "memory"])
def store(tmp_path, request):
    if request.param == "memory":
        return store_of(f"memory://{tmp_path.name}{os.getpid()}")
    return store_of(f"file://{tmp_path}/store", {"fsync": "false"})


def test_both_contents_of_a_conflict_are_kept(tmp_path, store):
    with Place(tmp_path, store) as a:
        (a.path / "file").write_bytes(b"first")
        a.sync()
        with Place(tmp_path, store, "b") as b:
            (a.path / "file").write_bytes(b"from a")
            a.sync()
            (b.path / "file").write_bytes(b"from b")
            b.sync()
            (copy,) = b.tree.status().conflicts
            assert copy.startswith("file.conflict-host-b-")
            assert (b.path / "file").read_bytes() == b"from a"
            assert (b.path / copy).read_bytes() == b"from b"
            assert store.get("file") == b"from a"
            assert store.get(copy) == b"from b"
            (b.path / copy).unlink()
            b.sync()
            assert b.tree.status().conflicts == ()
            assert keys(store) == ["file"]


def test_a_program_that_has_the_file_open_goes_on_in_the_copy(tmp_path, store):
    with Place(tmp_path, store) as a:
        (a.path / "file").write_bytes(b"first")
        a.sync()
        store.put("file", b"from elsewhere")
        with (a.path / "file").open("ab", buffering=0) as file:
            file.write(b" and second")
            a.sync()
            file.write(b" and third")
        a.sync()
        (copy,) = a.tree.status().conflicts
        assert store.get(copy) == b"first and second and third"
        assert store.get("file") == b"from elsewhere"


def test_the_same_content_from_both_is_no_conflict(tmp_path, store):
    with Place(tmp_path, store) as a, Place(tmp_path, store, "b") as b:
        for host in (a, b):
            (host.path / "file").write_bytes(b"equal")
            host.sync()
            assert host.tree.status().conflicts == ()


def test_a_new_file_of_both_is_a_conflict(tmp_path, store):
    with Place(tmp_path, store) as a, Place(tmp_path, store, "b") as b:
        (a.path / "new").write_bytes(b"a")
        a.sync()
        (b.path / "new").write_bytes(b"b")
        b.sync()
        assert len(b.tree.status().conflicts) == 1
        assert {store.get(key) for key in keys(store)} == {b"a", b"b"}


def test_objects_changed_while_unmounted_are_fetched_and_removed_ones_go(tmp_path, store):
    with Place(tmp_path, store) as a:
        for name in ("changed", "removed", "edited", "d/removed", "kept"):
            (a.path / name).parent.mkdir(exist_ok=True)
            (a.path / name).write_bytes(name.encode())
        a.sync()
    store.put("changed", b"by somebody else")
    store.put("added/below", b"new")
    for key in ("removed", "edited", "d/removed"):
        store.delete(key)
    (a.path / "edited").write_bytes(b"edited here while it was removed there")
    with a.reopened() as again:
        again.sync()
        files = {str(p.relative_to(a.path)): p.read_bytes() for p in a.path.rglob("*") if p.is_file()}
        assert files == {
            "changed": b"by somebody else",
            "added/below": b"new",
            "edited": b"edited here while it was removed there",
            "kept": b"kept",
        }
        assert store.get("edited") == files["edited"]
        assert again.tree.status().conflicts == ()


def test_a_file_that_is_open_is_left_alone(tmp_path, store):
    with Place(tmp_path, store) as a:
        (a.path / "file").write_bytes(b"first")
        a.sync()
        with (a.path / "file").open("r+b", buffering=0) as file:
            a.tree.close(0)
            store.put("file", b"from elsewhere")
            with a.reopened() as again:  # as when a helper is restarted under a running container
                file.write(b"FIRST")
                assert (a.path / "file").read_bytes() == b"FIRST"
                again.sync()
                (copy,) = again.tree.status().conflicts
                assert (a.path / copy).read_bytes() == b"FIRST"
                assert (a.path / "file").read_bytes() == b"from elsewhere"


def test_a_removal_here_of_what_was_changed_there_keeps_the_object(tmp_path, store):
    with Place(tmp_path, store) as a:
        (a.path / "file").write_bytes(b"first")
        a.sync()
        store.put("file", b"more valuable")
        (a.path / "file").unlink()
        a.sync()
        assert store.get("file") == b"more valuable"
        assert "changed elsewhere" in a.tree.status().reason
    with a.reopened() as again:
        assert (again.path / "file").read_bytes() == b"more valuable"


def test_attributes_and_links_of_others_arrive_and_are_merged(tmp_path, store):
    with Place(tmp_path, store) as a:
        for name in ("one", "two"):
            (a.path / name).write_bytes(name.encode())
        (a.path / "link").symlink_to("one")
        (a.path / "empty").mkdir()
        a.sync()
        with Place(tmp_path, store, "b") as b:
            (b.path / "one").chmod(0o600)
            (b.path / "link").unlink()
            (b.path / "link").symlink_to("two")
            (b.path / "empty").rmdir()
            (a.path / "two").chmod(0o640)
            (a.path / "three").write_bytes(b"three")
            b.sync()
            a.sync()  # the same directory: the two sidecars are merged
            wanted = picture(a.path)
        a.tree.close(10)
        a.tree = Tree(a.resource, store, host="host-a")
        a.tree.open()
        assert (a.path / "one").stat().st_mode & 0o777 == 0o600
        assert (a.path / "two").stat().st_mode & 0o777 == 0o640
        assert (a.path / "link").readlink().name == "two"
        assert not (a.path / "empty").exists()
        with Place(tmp_path, store, "c") as c:
            assert picture(c.path) == picture(a.path) != wanted


def test_keys_that_cannot_be_files_stay_and_are_named(tmp_path):
    store = store_of(f"memory://odd{tmp_path.name}")
    for key in ("both", "both/below", "fine", "x" * 300):
        store.put(key, b"1")
    with Place(tmp_path, store) as a:
        assert sorted(p.name for p in a.path.iterdir()) == ["both", "fine"]
        assert (a.path / "both").is_dir()
        reason = a.tree.status().reason
        assert "both" in reason
        assert "255" in reason
        a.sync()
    assert keys(store) == sorted(["both", "both/below", "fine", "x" * 300])


def test_a_store_that_is_only_read_is_not_written(tmp_path, store):
    store.put("a/b", b"1")
    with Place(tmp_path, store) as a:
        assert (a.path / "a/b").read_bytes() == b"1"
        a.sync()
    assert [s.key for s in store.list()] == ["a/b"]


def test_a_directory_in_place_of_a_file_and_back(tmp_path, store):
    with Place(tmp_path, store) as a:
        (a.path / "x").write_bytes(b"file")
        a.sync()
        (a.path / "x").unlink()
        (a.path / "x").mkdir()
        (a.path / "x/y").write_bytes(b"below")
        a.sync()
        assert keys(store) == ["x/y"]
        (a.path / "x/y").rename(a.path / "z")
        (a.path / "x").rmdir()
        (a.path / "z").rename(a.path / "x")
        a.sync()
        assert keys(store) == ["x"]
        assert store.get("x") == b"below"
