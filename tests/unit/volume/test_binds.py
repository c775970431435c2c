"""Docker's Binds, Mounts and Tmpfs."""

from __future__ import annotations

from typing import Any

import pytest

from engine.spec.errors import InvalidParameter
from engine.volume.binds import MountRequest, check_name, parse_all, parse_bind, parse_mount, parse_tmpfs


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/data", {"type": "volume", "target": "/data"}),
        ("name:/data", {"type": "volume", "target": "/data", "source": "name"}),
        ("name:/data:ro", {"type": "volume", "target": "/data", "source": "name", "read_only": True}),
        ("name:/data/:nocopy", {"type": "volume", "target": "/data", "source": "name", "no_copy": True}),
        ("name:/d:z,rw", {"type": "volume", "target": "/d", "source": "name", "relabel": "z"}),
        ("/h:/c", {"type": "bind", "target": "/c", "source": "/h", "create_host_path": True}),
        ("/h/../x//y/:/c/./d", {"type": "bind", "target": "/c/d", "source": "/x/y", "create_host_path": True}),
        (
            "/h:/c:ro,rslave,Z,cached",
            {
                "type": "bind", "target": "/c", "source": "/h", "create_host_path": True, "read_only": True,
                "propagation": "rslave", "relabel": "Z",
            },
        ),
    ],
)  # fmt: skip
def test_bind(text: str, expected: dict[str, Any]) -> None:
    assert parse_bind(text) == MountRequest(**expected)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "invalid volume specification"),
        (":/c", "invalid volume specification"),
        ("a:b:c:d", "invalid volume specification"),
        ("/h:c", "must be absolute"),
        ("name", "must be absolute"),
        ("/h:/", "destination can't be '/'"),
        ("x:/c", "too short"),
        ("./rel:/c", "invalid characters"),
        ("/h:/c:", "invalid mode"),
        ("/h:/c:rx", "'rx' is not one of"),
        ("/h:/c:ro,rw", "say the same thing"),
        ("/h:/c:shared,private", "say the same thing"),
        ("/h:/c:nocopy", "'nocopy' is not one of"),
        ("name:/c:rshared", "'rshared' is not one of"),
    ],
)
def test_bind_that_is_wrong(text: str, says: str) -> None:
    with pytest.raises(InvalidParameter, match=says):
        parse_bind(text)


def test_mount_objects() -> None:
    bind = parse_mount(
        {
            "Type": "bind", "Source": "/h", "Target": "/c", "ReadOnly": True,
            "BindOptions": {"Propagation": "rshared", "NonRecursive": True, "CreateMountpoint": True},
        }
    )  # fmt: skip
    assert bind == MountRequest(
        type="bind", source="/h", target="/c", read_only=True, propagation="rshared", recursive=False,
        create_host_path=True,
    )  # fmt: skip
    assert not parse_mount({"Type": "bind", "Source": "/h", "Target": "/c"}).create_host_path
    volume = parse_mount(
        {
            "Type": "volume", "Source": "name", "Target": "/c",
            "VolumeOptions": {
                "NoCopy": True, "Subpath": "a/./b", "Labels": {"x": "y"},
                "DriverConfig": {"Name": "local", "Options": {"o": "uid=1"}},
            },
        }
    )  # fmt: skip
    assert volume == MountRequest(
        type="volume", source="name", target="/c", no_copy=True, subpath="a/b", labels={"x": "y"}, driver="local",
        driver_options={"o": "uid=1"},
    )  # fmt: skip
    assert parse_mount({"Type": "volume", "Target": "/c"}).anonymous
    tmpfs = parse_mount({"Type": "tmpfs", "Target": "/c", "TmpfsOptions": {"SizeBytes": 1024, "Mode": 0o700}})
    assert tmpfs.options == "mode=700,size=1024"
    assert parse_mount({"Type": "tmpfs", "Target": "/c"}).options == "mode=1777"


@pytest.mark.parametrize(
    ("mount", "says"),
    [
        ({}, "mount type unknown"),
        ({"Type": "npipe", "Target": "/c"}, "mount type unknown"),
        ({"Type": "bind", "Source": "/h"}, "Target must not be empty"),
        ({"Type": "bind", "Target": "/c"}, "Source must not be empty"),
        ({"Type": "bind", "Target": "/c", "Source": "rel"}, "must be absolute"),
        ({"Type": "bind", "Target": "c", "Source": "/h"}, "must be absolute"),
        ({"Type": "bind", "Target": "/c", "Source": "/h", "Foo": 1}, "Foo is not a field"),
        ({"Type": "bind", "Target": "/c", "Source": "/h", "VolumeOptions": {"NoCopy": True}}, "must not be given"),
        ({"Type": "bind", "Target": "/c", "Source": "/h", "BindOptions": {"Propagation": "x"}}, "propagation mode: x"),
        ({"Type": "volume", "Target": "/c", "Source": "/h"}, "invalid characters"),
        ({"Type": "volume", "Target": "/c", "Source": "ab", "VolumeOptions": {"Subpath": "../x"}}, "relative path"),
        ({"Type": "volume", "Target": "/c", "Source": "ab", "VolumeOptions": {"Subpath": "/x"}}, "relative path"),
        ({"Type": "tmpfs", "Target": "/c", "Source": "/h"}, "must not be given for type tmpfs"),
        ({"Type": "tmpfs", "Target": "/c", "TmpfsOptions": {"SizeBytes": -1}}, "must not be negative"),
    ],
)
def test_mount_that_is_wrong(mount: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidParameter, match=says):
        parse_mount(mount)


def test_tmpfs() -> None:
    assert parse_tmpfs("/t", "rw,size=64m,mode=1777,uid=5").options == "rw,size=64m,mode=1777,uid=5"
    for bad in ("sise=1", "nonsense", "uid=bob", "ro=1"):
        with pytest.raises(InvalidParameter, match="invalid tmpfs option"):
            parse_tmpfs("/t", bad)


def test_one_target_is_mounted_once() -> None:
    found = parse_all(["ab:/a"], [{"Type": "tmpfs", "Target": "/b"}], {"/c": ""}, ["/a/", "/d"])
    assert [(m.type, m.target) for m in found] == [
        ("volume", "/a"), ("tmpfs", "/b"), ("tmpfs", "/c"), ("volume", "/d"),
    ]  # fmt: skip
    assert [m.anonymous for m in found] == [False, False, False, True]
    with pytest.raises(InvalidParameter, match="Duplicate mount point: /a"):
        parse_all(["ab:/a", "/h:/a/"])


def test_names() -> None:
    assert check_name("a.b_c-1") == "a.b_c-1"
    for bad in ("", "a", "-ab", "a/b", "a b", "a\n", "ä" * 3, "x" * 256):
        with pytest.raises(InvalidParameter):
            check_name(bad)
