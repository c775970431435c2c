"""A container's changes are read while the container goes on: it can exchange whatever it wants meanwhile."""

from __future__ import annotations

import os
import stat
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.deep import nest

from engine.container import layer
from engine.container.layer import ADDED, CHANGED, DELETED
from engine.spec.errors import InvalidParameter
from engine.treewalk import remove_tree

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture
def upper(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "upper"
    path.mkdir()
    yield path
    remove_tree(path)


def contents(upper: Path) -> dict[str, bytes | None]:
    with layer.layer_tar(upper) as file, tarfile.open(fileobj=file) as tar:
        members = tar.getmembers()
        return {m.name: (tar.extractfile(m) or file).read() if m.isreg() else None for m in members}


@contextmanager
def exchanging(path: Path, one: Path, other: Path) -> Iterator[None]:
    """One of two things at a path, as fast as it goes."""
    stop = threading.Event()

    def run() -> None:
        kept = path.with_name("kept")
        while not stop.is_set():
            path.rename(one)
            other.rename(path)
            path.rename(other)
            one.rename(path)
        assert not kept.exists()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_a_link_that_is_swapped_in_leads_nowhere(upper: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    (secret / "inner").mkdir(parents=True)
    (secret / "inner/file").write_text("secret" * 100)
    (upper / "x/d/inner").mkdir(parents=True)
    (upper / "x/d/inner/file").write_text("public")
    (tmp_path / "link").symlink_to(secret)
    with exchanging(upper / "x/d", tmp_path / "directory", tmp_path / "link"):
        for _ in range(300):
            assert all(b"secret" not in (data or b"") for data in contents(upper).values())
            assert layer.size(upper) <= len("public")
            assert {c["Path"] for c in layer.changes(upper, ())} <= {"/x", "/x/d", "/x/d/inner", "/x/d/inner/file"}


def test_a_layer_says_what_overlayfs_keeps(upper: Path) -> None:
    (upper / "dev/pts").mkdir(parents=True)
    (upper / "etc").mkdir()
    (upper / "etc/hosts").touch()
    (upper / "new/inner").mkdir(parents=True)
    (upper / "new/a").write_text("data")
    (upper / "new/b").hardlink_to(upper / "new/a")
    os.setxattr(upper / "new/inner", "trusted.overlay.opaque", b"y")
    os.mknod(upper / "new/gone", stat.S_IFCHR, os.makedev(0, 0))
    assert contents(upper) == {
        "etc": None, "new": None, "new/a": b"data", "new/b": None, "new/.wh.gone": b"",
        "new/inner": None, "new/inner/.wh..wh..opq": b"",
    }  # fmt: skip
    assert layer.size(upper) == 8


def test_changes_against_the_layers_below(upper: Path, tmp_path: Path) -> None:
    top, bottom = tmp_path / "top", tmp_path / "bottom"
    for path in (top / "kept", bottom / "kept", bottom / "opaque", top / "opaque", bottom / "replaced"):
        path.mkdir(parents=True)
    (bottom / "kept/file").touch()
    (bottom / "opaque/file").touch()
    (bottom / "replaced/passwd").touch()
    (top / "replaced").symlink_to("/etc")
    os.setxattr(top / "opaque", "trusted.overlay.opaque", b"y")
    for name in ("kept/file", "opaque/file", "replaced/passwd", "fresh"):
        (upper / name).parent.mkdir(exist_ok=True)
        (upper / name).touch()
    os.mknod(upper / "gone", stat.S_IFCHR, os.makedev(0, 0))
    found = {change["Path"]: change["Kind"] for change in layer.changes(upper, [top, bottom])}
    assert found == {
        "/fresh": ADDED, "/gone": DELETED, "/kept": CHANGED, "/kept/file": CHANGED, "/opaque": CHANGED,
        "/opaque/file": ADDED, "/replaced": CHANGED, "/replaced/passwd": ADDED,
    }  # fmt: skip


def test_two_thousand_directories_within_each_other(upper: Path) -> None:
    nest(upper, 2000)
    assert len(contents(upper)) == 2001
    assert len(layer.changes(upper, ())) == 2001
    assert layer.size(upper) == 0
    nest(upper, 2000, "longer")
    assert layer.size(upper) == 0
    for read in (contents, lambda path: layer.changes(path, ())):
        with pytest.raises(InvalidParameter, match="longer than 4096 bytes"):
            read(upper)
