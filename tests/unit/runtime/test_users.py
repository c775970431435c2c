"""User resolution, also against hostile root file systems."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from engine.runtime.rootfs import open_in_root, read_in_root
from engine.runtime.users import resolve_user
from engine.spec.errors import InvalidParameter


@pytest.fixture
def rootfs(tmp_path: Path) -> Path:
    root = tmp_path / "rootfs"
    (root / "etc").mkdir(parents=True)
    (root / "etc/passwd").write_text(
        "root:x:0:0:root:/root:/bin/sh\n# comment\nbroken:line\napp:x:1000:1001::/home/app:\n1234:x:77:77::/:\n"
    )
    (root / "etc/group").write_text(
        "root:x:0:\napp:x:1001:\naudio:x:29:app,other\nvideo:x:44:other,app\nwheel:x:10:root\n"
    )
    return root


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("", (0, 0, (10,))),
        ("0", (0, 0, (10,))),
        ("app", (1000, 1001, (29, 44))),
        ("1000", (1000, 1001, (29, 44))),
        ("app:audio", (1000, 29, ())),
        ("app:5", (1000, 5, ())),
        ("4242", (4242, 0, ())),
        ("4242:4343", (4242, 4343, ())),
        (":audio", (0, 29, ())),
        ("1234", (77, 77, ())),
    ],
)
def test_resolution(rootfs: Path, user: str, expected: tuple[int, int, tuple[int, ...]]) -> None:
    resolved = resolve_user(rootfs, user)
    assert (resolved.uid, resolved.gid, resolved.groups) == expected


def test_extra_groups(rootfs: Path) -> None:
    assert resolve_user(rootfs, "app", ("video", "99", "root")).groups == (29, 44, 99, 0)


@pytest.mark.parametrize("user", ["nobody", "app:nogroup", "4294967296", "0:99999999999", "-1"])
def test_refused(rootfs: Path, user: str) -> None:
    with pytest.raises(InvalidParameter):
        resolve_user(rootfs, user)


def test_unknown_extra_group(rootfs: Path) -> None:
    with pytest.raises(InvalidParameter):
        resolve_user(rootfs, "", ("nogroup",))


def test_without_user_database(tmp_path: Path) -> None:
    resolved = resolve_user(tmp_path, "5:6")
    assert (resolved.uid, resolved.gid, resolved.groups) == (5, 6, ())


@pytest.mark.parametrize("link", ["absolute", "climbing"])
def test_symlink_does_not_lead_out(rootfs: Path, tmp_path: Path, link: str) -> None:
    outside = tmp_path / "outside"
    outside.write_text("evil:x:666:666::/:\n")
    (rootfs / "etc/passwd").unlink()
    target = str(outside) if link == "absolute" else "../" * 20 + str(outside).lstrip("/")
    (rootfs / "etc/passwd").symlink_to(target)
    with pytest.raises(InvalidParameter):
        resolve_user(rootfs, "evil")


def test_symlinked_directory_does_not_lead_out(rootfs: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "passwd").write_text("evil:x:666:666::/:\n")
    for file in (rootfs / "etc").iterdir():
        file.unlink()
    (rootfs / "etc").rmdir()
    (rootfs / "etc").symlink_to(outside)
    with pytest.raises(InvalidParameter):
        resolve_user(rootfs, "evil")


def test_symlink_within_the_root_is_followed(rootfs: Path) -> None:
    (rootfs / "etc/passwd").rename(rootfs / "passwd.real")
    (rootfs / "etc/passwd").symlink_to("/passwd.real")
    assert resolve_user(rootfs, "app").uid == 1000


def test_fifo_does_not_block(rootfs: Path) -> None:
    (rootfs / "etc/passwd").unlink()
    os.mkfifo(rootfs / "etc/passwd")
    assert read_in_root(rootfs, "/etc/passwd") == ""


def test_symlink_loop(rootfs: Path) -> None:
    (rootfs / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="symbolic links"):
        open_in_root(rootfs, "/loop")
