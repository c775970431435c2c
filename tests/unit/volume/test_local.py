"""The local driver: options in, plans out."""

from __future__ import annotations

from typing import Any

import pytest

from engine.spec.options import parse_options
from engine_drivers.volume.local import LocalDriver, LocalOptions, parse_size
from engine_sdk import Bind, Directory, Image, ImageMount, InvalidParameter, Mount, Plan, Tmpfs, Volume, VolumePlan

DATA, RUN = "/d", "/r"


def plan(**given: str) -> VolumePlan:
    driver = LocalDriver()
    options = driver.settle_volume(parse_options(LocalOptions, given, driver="local"))
    volume = Volume[LocalOptions](
        id="0" * 64, name="v", driver="local", options=options, data=DATA, run=RUN
    )  # fmt: skip
    answer = driver.volume_plan(volume)
    stored = LocalOptions.model_validate(options.model_dump(mode="json"))
    assert driver.volume_plan(volume.model_copy(update={"options": stored})) == answer
    return answer


def only(resource: Any) -> VolumePlan:
    return VolumePlan(plan=Plan.of(resource), path="/r/fs")


def test_directory() -> None:
    path = "/d/_data"
    assert plan() == VolumePlan(plan=Plan.of(Directory(path=path)), path=path)
    own = VolumePlan(plan=Plan.of(Directory(path=path, uid=5, gid=6, mode=0o2770)), path=path)
    assert plan(uid="5", gid="6", mode="2770") == own
    assert plan(o="uid=5,gid=6,mode=2770") == own


def test_image() -> None:
    image = Image(path="/d/disk.img", size=100 << 20, uid=7)
    expected = Plan.of(image, ImageMount(target="/r/fs", image="/d/disk.img", options=("noatime",)))
    assert plan(size="100m", uid="7", o="noatime") == VolumePlan(plan=expected, path="/r/fs")
    assert plan(o="size=100m,uid=7,noatime").plan == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (
            {"type": "none", "o": "bind", "device": "/srv/x/"},
            Bind(target="/r/fs", source="/srv/x", recursive=False),
        ),
        (
            {"type": "none", "o": "rbind,ro", "device": "/srv/x"},
            Bind(target="/r/fs", source="/srv/x", options=("ro",)),
        ),
        ({"type": "tmpfs", "device": "tmpfs"}, Tmpfs(target="/r/fs")),
        (
            {"type": "tmpfs", "device": "tmpfs", "o": "size=100m,uid=1000,gid=5,mode=0700,noexec,nr_inodes=9"},
            Tmpfs(
                target="/r/fs", size=100 << 20, uid=1000, gid=5, mode=0o700, options=("noexec",), data="nr_inodes=9"
            ),
        ),
        ({"type": "tmpfs", "o": "size=50%"}, Tmpfs(target="/r/fs", data="size=50%")),
        (
            {"type": "nfs", "o": "addr=host,rw,nfsvers=4,async", "device": ":/export"},
            Mount(target="/r/fs", fstype="nfs", source=":/export", data="addr=host,nfsvers=4"),
        ),
        (
            {"type": "nfs4", "o": "ro,soft", "device": "10.0.0.1:/export"},
            Mount(target="/r/fs", fstype="nfs4", source="10.0.0.1:/export", data="addr=10.0.0.1,soft", options=("ro",)),
        ),
        (
            {"type": "cifs", "o": "username=u,password=p=q,vers=3.0", "device": "//nas/share/sub"},
            Mount(
                target="/r/fs", fstype="cifs", source="//nas/share/sub", data="username=u,password=p=q,vers=3.0"
            ),
        ),
        (
            {"type": "ext4", "o": "noatime", "device": "/dev/sdx1"},
            Mount(target="/r/fs", fstype="ext4", source="/dev/sdx1", options=("noatime",)),
        ),
    ],
)  # fmt: skip
def test_mounts(given: dict[str, str], expected: Any) -> None:
    assert plan(**given) == only(expected)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"device": "/x"}, 'missing required option: "type"'),
        ({"type": "nfs"}, 'missing required option: "device"'),
        ({"type": "none", "device": "/x"}, "needs o=bind"),
        ({"type": "none", "o": "bind", "device": "x"}, "not an absolute path"),
        ({"type": "none", "o": "bind", "device": "/x/../etc"}, "not an absolute path"),
        ({"type": "none", "o": "bind,noexce", "device": "/x"}, "Did you mean 'noexec'"),
        ({"type": "tmpfs", "o": "sise=1m"}, "Did you mean 'size'"),
        ({"type": "tmpfs", "o": "size=much"}, "is not a size"),
        ({"type": "tmpfs", "o": "uid=bob"}, "is not a number"),
        ({"type": "tmpfs", "o": "mode=999"}, "is not a number"),
        ({"type": "tmpfs", "size": "32m"}, "do not go with type=tmpfs"),
        ({"type": "nfs", "device": "/x"}, "is no NFS export"),
        ({"type": "nfs", "device": ":/x"}, "needs its server"),
        ({"type": "cifs", "device": "/x"}, "is no share"),
        ({"type": "ext4", "device": "sda1"}, "not an absolute path"),
        ({"type": "ext4", "device": "/dev/sda1", "o": "suid"}, "nosuid"),
        ({"o": "udi=5"}, "Did you mean 'uid'"),
        ({"o": "uid=x"}, "is not a number"),
        ({"o": "ro"}, "needs something to mount"),
        ({"size": "1m"}, "needs 16m at least"),
        ({"size": "big"}, "is not a size"),
        ({"mode": "rwx"}, "mode"),
        ({"sise": "1g"}, "Did you mean 'size'"),
    ],
)
def test_refused(given: dict[str, str], says: str) -> None:
    with pytest.raises(InvalidParameter, match=says):
        plan(**given)


def test_sizes() -> None:
    assert [parse_size(t) for t in ("7", "1k", "2M", "3GiB", "1tb")] == [7, 1024, 2 << 20, 3 << 30, 1 << 40]
    for bad in ("", "m", "1.5g", "-1", "1 m", "1x"):
        with pytest.raises(ValueError, match="is not a size"):
            parse_size(bad)
