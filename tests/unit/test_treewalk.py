from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.deep import nest

from engine import treewalk

DEPTH = 3000


@contextmanager
def opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


def open_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def paths(root: Path) -> list[str]:
    with opened(root) as fd:
        return [entry.path for entry in treewalk.walk(fd)]


def test_a_directory_comes_before_what_is_in_it_and_names_in_their_order(tmp_path: Path) -> None:
    (tmp_path / "b/x").mkdir(parents=True)
    (tmp_path / "b/x/file").touch()
    (tmp_path / "a").touch()
    (tmp_path / "c").symlink_to("b")
    assert paths(tmp_path) == ["a", "b", "b/x", "b/x/file", "c"]


def test_any_depth_with_few_descriptors(tmp_path: Path) -> None:
    nest(tmp_path, DEPTH, "directory")
    before = open_descriptors()
    with opened(tmp_path) as fd:
        seen = [(len(entry.above), open_descriptors()) for entry in treewalk.walk(fd)]
    assert len(seen) == DEPTH + 1
    assert seen[-1][0] == DEPTH
    assert max(count for _, count in seen) <= before + 3
    treewalk.remove_tree(tmp_path)
    assert not tmp_path.exists()


def test_a_directory_with_more_names_than_are_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(treewalk, "_BATCH", 3)
    monkeypatch.setattr(treewalk, "_HELD", 4)
    for one in range(10):
        for other in range(7):
            (tmp_path / f"d{one}/e{other}/deep").mkdir(parents=True)
    expected = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*"))
    assert paths(tmp_path) == expected
    treewalk.empty(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_becomes_a_link_leads_nowhere(tmp_path: Path) -> None:
    tree, secret = tmp_path / "tree", tmp_path / "secret"
    for path in (tree / "a", tree / "b", secret):
        path.mkdir(parents=True)
    (secret / "key").touch()
    seen = []
    with opened(tree) as fd:
        for entry in treewalk.walk(fd):
            seen.append(entry.path)
            if entry.path == "a":
                (tree / "a").rmdir()
                (tree / "a").symlink_to(secret)
    assert seen == ["a", "b"]


def test_a_directory_that_is_moved_away_while_the_walk_is_in_it(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "a/b/c").mkdir(parents=True)
    (tree / "z").touch()
    outside = tmp_path / "outside"
    (outside / "zzz").mkdir(parents=True)
    seen = []
    with opened(tree) as fd:
        for entry in treewalk.walk(fd):
            seen.append(entry.path)
            if entry.path == "a/b/c":
                (tree / "a/b").rename(outside / "b")  # ".." is outside of the tree now
    assert seen == ["a", "a/b", "a/b/c", "z"]


def test_removing_follows_no_link_and_takes_missing_for_done(tmp_path: Path) -> None:
    tree, kept = tmp_path / "tree", tmp_path / "kept"
    tree.mkdir()
    kept.mkdir()
    (kept / "file").touch()
    (tree / "link").symlink_to(kept)
    os.mkfifo(tree / "fifo")
    treewalk.remove_tree(tree)
    treewalk.remove_tree(tree)
    treewalk.remove_tree(tmp_path / "absent/at all")
    link = tmp_path / "link"
    link.symlink_to(kept)
    treewalk.remove_tree(link)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept"]
    assert (kept / "file").exists()


def test_removing_goes_on_after_a_failure_and_tells_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / "tree" / name).mkdir(parents=True)
        (tmp_path / "tree" / name / "file").touch()
    unlink = os.unlink

    def refuse(name: str, *, dir_fd: int) -> None:
        if Path(f"/proc/self/fd/{dir_fd}").readlink().name == "b":
            raise PermissionError(1, "not permitted", name)
        unlink(name, dir_fd=dir_fd)

    monkeypatch.setattr(os, "unlink", refuse)
    with pytest.raises(PermissionError, match="file"):
        treewalk.remove_tree(tmp_path / "tree")
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")) == ["tree", "tree/b", "tree/b/file"]


def test_what_is_kept_stays(tmp_path: Path) -> None:
    (tmp_path / "lost+found/inner").mkdir(parents=True)
    (tmp_path / "other/inner").mkdir(parents=True)
    (tmp_path / "file").touch()
    treewalk.empty(tmp_path, keep={"lost+found"})
    assert [str(p.relative_to(tmp_path)) for p in sorted(tmp_path.rglob("*"))] == ["lost+found", "lost+found/inner"]
