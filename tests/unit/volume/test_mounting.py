"""What can be said of mounts without any."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from engine.reconcile import filesystems, mountapi, mountinfo
from engine.reconcile.mountdiff import identity_difference, option_difference
from engine.spec.mounts import Mount, OverlayMount, Tmpfs

LINE = r"36 35 98:0 /mnt1 /mnt2\040with\011space ro,noatime shared:1 master:2 - ext3 /dev/root\134x rw,errors=continue"
OVERLAY = "40 30 0:33 / /run/o rw - overlay overlay rw,lowerdir+=/a,lowerdir+=/b,upperdir=/u,workdir=/w,index=off"


def test_mountinfo() -> None:
    mounted = mountinfo.parse_line(LINE)
    assert (mounted.id, mounted.parent, mounted.device) == (36, 35, os.makedev(98, 0))
    assert (mounted.root, mounted.target) == ("/mnt1", "/mnt2 with\tspace")
    assert mounted.options == {"ro", "noatime"}
    assert mounted.shared
    assert (mounted.fstype, mounted.source) == ("ext3", "/dev/root\\x")
    assert mounted.super_options == ("rw", "errors=continue")
    assert not mountinfo.parse_line(OVERLAY).shared
    assert mountinfo.is_below("/a/b", "/a")
    assert not mountinfo.is_below("/ab", "/a")
    assert not mountinfo.is_below("/a", "/a")


def test_own_mountinfo_can_be_read() -> None:
    assert any(m.target == "/" for m in mountinfo.read())


@pytest.mark.parametrize(
    ("change", "fields"),
    [
        ({}, set()),
        ({"lower": ("/b", "/a")}, {"lower"}),
        ({"lower": ("/a",)}, {"lower"}),
        ({"upper": "/other"}, {"upper"}),
        ({"work": "/other"}, {"work"}),
    ],
)
def test_overlay_difference(change: dict[str, Any], fields: set[str]) -> None:
    wanted = OverlayMount(target="/run/o", lower=("/a", "/b"), upper="/u", work="/w").model_copy(update=change)
    assert identity_difference(wanted, mountinfo.parse_line(OVERLAY)).keys() == fields


@pytest.mark.parametrize(
    ("fstype", "source", "differs"),
    [("nfs", "h:/x", ""), ("nfs4", "h:/x", ""), ("nfs", "h:/y", "source"), ("cifs", "h:/x", "fstype")],
)
def test_network_difference(fstype: str, source: str, differs: str) -> None:
    mounted = mountinfo.parse_line("40 30 0:33 / /run/n rw,nosuid - nfs4 h:/x rw,vers=4.2,addr=10.0.0.1")
    wanted = Mount(target="/run/n", fstype=fstype, source=source)
    assert set(identity_difference(wanted, mounted)) == ({differs} if differs else set())
    assert option_difference(wanted, mounted) == {}
    assert option_difference(wanted.model_copy(update={"options": ("nosuid", "noexec")}), mounted) == {
        "options": (("noexec", "nosuid"), ("nosuid",))
    }


def test_read_only_that_nobody_asked_for() -> None:
    mounted = mountinfo.parse_line("40 30 0:33 / /run/t ro - tmpfs tmpfs rw")
    assert option_difference(Tmpfs(target="/run/t"), mounted)
    assert not option_difference(Tmpfs(target="/run/t", options=("ro",)), mounted)


@pytest.mark.parametrize(
    ("fstype", "source", "data", "expected"),
    [
        ("nfs", ":/x", "addr=host,vers=4", "addr=<host>,vers=4"),
        ("nfs4", ":/x", "soft,addr=host", "soft,addr=<host>"),
        ("cifs", "//nas/share/a", "username=u", "ip=<nas>,username=u"),
        ("cifs", "//nas/share", "username=u,addr=other", "username=u,ip=<other>"),
        ("ceph", "mon:/x", "name=admin", "name=admin"),
    ],
)
def test_servers_are_resolved(fstype: str, source: str, data: str, expected: str) -> None:
    assert filesystems.resolved(fstype, source, data, lambda host: f"<{host}>") == expected


def test_server_that_cannot_be_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(OSError, match="'nas' cannot be resolved") as caught:
        filesystems._lookup("nas")
    assert caught.value.errno == errno.EHOSTUNREACH


def test_mount_child_asks_the_kernel(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import io
    import json

    request = {"source": ":/x", "target": 7, "fstype": "nfs", "flags": 6, "data": "addr=127.0.0.1,soft"}
    calls: list[tuple[object, ...]] = []
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(request)))
    monkeypatch.setattr(mountapi, "mount", lambda *args: calls.append(args))
    assert filesystems.main() == 0
    assert calls == [(":/x", 7, "nfs", 6, "addr=127.0.0.1,soft")]

    def refuse(*args: object) -> None:
        raise OSError(errno.ECONNREFUSED, "Connection refused")

    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(request)))
    monkeypatch.setattr(mountapi, "mount", refuse)
    assert filesystems.main() == 1
    assert json.loads(capsys.readouterr().out) == [errno.ECONNREFUSED, "Connection refused"]


def test_flags() -> None:
    assert mountapi.attributes_of(("ro", "nosuid", "noatime", "sync")) == 0x13
    assert mountapi.flags_of(("ro", "nodev", "sync")) == 1 | 4 | 16


def test_open_below_follows_no_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    root = tmp_path / "root"
    os.close(mountapi.open_below(str(root), "a/b/c", make="directory"))
    os.close(mountapi.open_below(str(root), "a/file", make="file"))
    assert (root / "a/b/c").is_dir()
    assert (root / "a/file").is_file()
    (root / "link").symlink_to(outside)
    for path in ("link/x", "link"):
        with pytest.raises(OSError) as caught:
            mountapi.open_below(str(root), path, make="directory")
        assert caught.value.errno == errno.ELOOP
    with pytest.raises(OSError) as caught:
        mountapi.open_below(str(root), "../outside")
    assert caught.value.errno == errno.EXDEV
    with pytest.raises(FileNotFoundError):
        mountapi.open_below(str(root), "a/none")
    assert list(outside.iterdir()) == []


def test_identity_is_that_of_stat(tmp_path: Path) -> None:
    info, found = tmp_path.stat(), mountapi.identify(str(tmp_path))
    assert (found.device, found.inode, found.mount_root) == (info.st_dev, info.st_ino, False)
    assert mountapi.identify("/proc").mount_root
    with pytest.raises(FileNotFoundError):
        mountapi.identify(str(tmp_path / "none"))
