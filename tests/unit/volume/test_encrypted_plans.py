"""The plans of the driver `encrypted`, as values: no key is in them."""

from __future__ import annotations

import pytest

from engine.spec.encryption import EncryptedDirectory, FscryptKey, GocryptMount, GocryptStore, KeySlots
from engine.spec.errors import InvalidParameter
from engine.spec.mounts import Directory, Image, ImageMount
from engine.spec.options import parse_options
from engine.spec.resource import Plan
from engine.spec.trees import StoreSpec, SyncedTree
from engine.spec.volume import Volume, VolumePlan
from engine.volume.vet import vet
from engine_drivers.volume.encrypted import EncryptedDriver, EncryptedOptions

KEY = {"passphrase-file": "/etc/key"}
DATA, RUN = "/data/v", "/run/v"
SLOTS = f"{DATA}/keyslots.json"


def plan(**given: str) -> VolumePlan:
    driver, given = EncryptedDriver(), {name.replace("_", "-"): value for name, value in given.items()}
    options = driver.settle_volume(parse_options(EncryptedOptions, {**KEY, **given}, driver="encrypted"))
    volume = Volume(id="ab" * 32, name="v", driver="encrypted", options=options, data=DATA, run=RUN)
    return vet(volume, driver.volume_plan(volume), {**KEY, **given})


def slots(**fields) -> KeySlots:
    return KeySlots(path=SLOTS, source="file:/etc/key", **fields)


def test_image():
    assert plan(method="image", size="1g", uid="7") == VolumePlan(
        plan=Plan.of(
            slots(),
            Image(path=f"{DATA}/disk.img", size=1 << 30, features=("encrypt",)),
            ImageMount(target=f"{RUN}/fs", image=f"{DATA}/disk.img"),
            FscryptKey(path=f"{RUN}/fs", slots=SLOTS),
            EncryptedDirectory(path=f"{RUN}/fs/_data", slots=SLOTS, uid=7),
        ),
        path=f"{RUN}/fs/_data",
    )


def test_fscrypt():
    assert plan(method="fscrypt").plan == Plan.of(
        slots(), FscryptKey(path=DATA, slots=SLOTS), EncryptedDirectory(path=f"{DATA}/_data", slots=SLOTS)
    )
    assert plan(method="fscrypt", size="1g") == plan(method="image", size="1g")  # a limit needs an image


def test_gocryptfs():
    assert plan(method="gocryptfs") == VolumePlan(
        plan=Plan.of(
            slots(),
            GocryptStore(path=f"{DATA}/encrypted", slots=SLOTS),
            GocryptMount(target=f"{RUN}/fs", store=f"{DATA}/encrypted", slots=SLOTS),
        ),
        path=f"{RUN}/fs",
    )


def test_store():
    own = {"crypt-password": f"keyslots:{SLOTS}", "manifest": "true", "manifest-mark": f"{DATA}/journal.db.mark"}
    assert plan(url="s3://b/p", mode="on-demand") == VolumePlan(
        plan=Plan.of(
            slots(password=True),
            Directory(path=f"{DATA}/tree"),
            SyncedTree(
                path=f"{DATA}/tree",
                journal=f"{DATA}/journal.db",
                store=StoreSpec(url="crypt::s3://b/p", options=own),
                mode="on-demand",
                run=f"{RUN}/helper",
            ),
        ),
        path=f"{DATA}/tree",
    )


def test_store_with_an_encrypted_copy():
    found = plan(url="s3://b/p", cache="encrypted", method="image")
    assert found.path == f"{RUN}/fs/cache/tree"
    (tree,) = found.plan.by_kind(SyncedTree)
    assert tree.journal == f"{RUN}/fs/cache/journal.db"


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"key_file": "/k"}, "both keys"),
        ({"secret": "x"}, "both keys"),
        ({"passphrase_file": "relative"}, "absolute"),
        ({"command": "relative"}, "command"),
        ({"durability": "async"}, "durability need a url"),
        ({"url": "s3://b", "size": "1g"}, "size"),
        ({"url": "s3://b", "cache": "encrypted", "method": "gocryptfs"}, "cannot be encrypted"),
        ({"method": "gocryptfs", "size": "1g"}, "size"),
        ({"method": "rot13"}, "method"),
    ],
)
def test_what_is_refused(given, why):
    with pytest.raises(InvalidParameter, match=why):
        plan(**given)


def test_no_default_key():
    with pytest.raises(InvalidParameter, match="needs a key"):
        EncryptedDriver().settle_volume(EncryptedOptions())
