"""What a driver's plan may not do."""

from __future__ import annotations

from typing import Any

import pytest

from engine.spec.errors import DriverFault
from engine.spec.links import Dummy
from engine.spec.mounts import Bind, Directory, Image, ImageMount, Mount, OverlayMount, Tmpfs
from engine.spec.resource import Plan, Resource
from engine.spec.volume import Volume, VolumePlan
from engine.volume.record import VolumeRecord, hardened, masked, needed_to_create, subpath_bind
from engine.volume.vet import vet

VOLUME: Volume[Any] = Volume[Any](id="0" * 64, name="v", driver="d", options={}, data="/data/v", run="/run/v")
GIVEN = {"device": "/srv//x/", "share": "//nas/share"}


def check(*resources: Resource, path: str = "") -> VolumePlan:
    if not path and resources:
        path = str(getattr(resources[0], "target", getattr(resources[0], "path", "/data/v/x")))
    return vet(VOLUME, VolumePlan(plan=Plan.of(*resources), path=path), GIVEN)


def test_good_plans() -> None:
    check(Directory(path="/data/v/x"))
    check(Image(path="/data/v/i", size=1 << 24), ImageMount(target="/run/v/fs", image="/data/v/i"), path="/run/v/fs")
    check(Bind(target="/run/v/fs", source="/srv/x"), path="/run/v/fs")
    check(Mount(target="/run/v/fs", fstype="cifs", source="//nas/share"), path="/run/v/fs/sub")
    check(OverlayMount(target="/run/v/o", lower=("/srv/x",), upper="/data/v/u", work="/data/v/w"), path="/run/v/o")


@pytest.mark.parametrize(
    ("resource", "says"),
    [
        (Directory(path="/data/v"), "data has to be below"),
        (Directory(path="/data/vv/x"), "data has to be below"),
        (Directory(path="/etc"), "data has to be below"),
        (Directory(path="/data/v/volume.json"), "the engine's"),
        (Image(path="/var/x.img", size=1 << 24), "data has to be below"),
        (Tmpfs(target="/etc"), "mount points have to be below"),
        (Tmpfs(target="/run/v"), "mount points have to be below"),
        (Bind(target="/run/v/fs", source="/"), "outside of the volume"),
        (Bind(target="/run/v/fs", source="/srv"), "outside of the volume"),
        (Bind(target="/run/v/fs", source="/data/v/x", subpath="../.."), "leads out"),
        (ImageMount(target="/run/v/fs", image="/dev/sda"), "outside of the volume"),
        (Mount(target="/run/v/fs", fstype="proc", source="//nas/share"), "'proc' are not allowed"),
        (Mount(target="/run/v/fs", fstype="nfs", source="other:/x"), "not what the operator gave"),
        (OverlayMount(target="/run/v/o", lower=("/srv/x", "/etc")), "outside of the volume"),
        (OverlayMount(target="/run/v/o", lower=("/srv/x",), upper="/etc", work="/data/v/w"), "outside of the volume"),
        (Dummy(name="eth0"), "not for volumes"),
    ],
)
def test_refused(resource: Resource, says: str) -> None:
    with pytest.raises(DriverFault, match=says):
        check(resource)


def test_refused_as_a_whole() -> None:
    with pytest.raises(DriverFault, match="instead of VolumePlan"):
        vet(VOLUME, None, GIVEN)
    with pytest.raises(DriverFault, match="containers would see /etc"):
        check(path="/etc")
    with pytest.raises(DriverFault, match="which nothing in the plan makes"):
        check(Directory(path="/data/v/x"), path="/data/v/xy")
    with pytest.raises(DriverFault, match="256 are allowed"):
        check(*(Directory(path=f"/data/v/{n}") for n in range(257)))
    with pytest.raises(DriverFault, match="same key"):
        check(Tmpfs(target="/run/v/a"), Tmpfs(target="/run/v/a", size=5))
    wrong_type = Tmpfs(target="/run/v/a").model_copy(update={"size": "5"})
    with pytest.warns(UserWarning, match="Expected `int`"), pytest.raises(DriverFault, match="does not survive"):
        check(wrong_type)
    not_json = Tmpfs(target="/run/v/a").model_copy(update={"size": object()})
    with pytest.raises(DriverFault, match="cannot be written to JSON"):
        check(not_json)
    with pytest.raises(DriverFault, match="is not the resource of kind 'bind'"):
        check(Tmpfs(target="/run/v/a").model_copy(update={"kind": "bind"}))


def test_mounts_are_hardened() -> None:
    plan = Plan.of(Tmpfs(target="/run/v/a", options=("ro",)), Directory(path="/data/v/x"))
    answer = VolumePlan(plan=plan, path="/run/v/a")
    mount, directory = hardened(answer).plan.resources
    assert mount == Tmpfs(target="/run/v/a", options=("ro", "nosuid", "nodev"))
    assert directory == Directory(path="/data/v/x")


def test_what_creation_needs() -> None:
    directory, tmpfs = Directory(path="/data/v/x"), Tmpfs(target="/run/v/fs")
    inside = Directory(path="/run/v/fs/x")
    assert needed_to_create(Plan.of(directory, tmpfs)) == Plan.of(directory)
    assert needed_to_create(Plan.of(tmpfs, inside)) == Plan.of(tmpfs, inside)


def test_record_survives_json() -> None:
    plan = Plan.of(Directory(path="/data/v/x"), subpath_bind("/run/v/sub/1", "/data/v/x", "a"))
    record = VolumeRecord(
        id="0" * 64, name="vv", driver="d", created="2026-01-01T00:00:00Z", mounts={"u": ("", "a")},
        applied=VolumePlan(plan=plan, path="/data/v/x"),
    )  # fmt: skip
    assert VolumeRecord.model_validate(record.doc()) == record
    assert VolumeRecord.model_validate_json(record.model_dump_json()) == record
    assert record.with_(references=("b", "u")).users == ("b", "u")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("username=u,password=p,vers=3", "username=u,password=****,vers=3"),
        ("pass=a=b", "pass=****"),
        ("PASSWORD2=x,passwd=y", "PASSWORD2=****,passwd=****"),
        ("client_secret=x", "client_secret=****"),
        ("passthru=1,addr=1.2.3.4", "passthru=1,addr=1.2.3.4"),
    ],
)
def test_passwords_are_hidden(text: str, shown: str) -> None:
    assert masked(text) == shown
