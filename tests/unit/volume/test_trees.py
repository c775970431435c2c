"""What can be said of volumes on stores without any: options, plans, and what is shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from engine.spec.errors import DriverFault, InvalidParameter
from engine.spec.mounts import Directory
from engine.spec.options import parse_options
from engine.spec.resource import Plan
from engine.spec.trees import StoreSpec, SyncedTree, TreeProgress, TreeStatus
from engine.spec.volume import Volume, VolumePlan
from engine.volume.record import VolumeRecord
from engine.volume.trees import Trees, status_json, trees_of
from engine.volume.vet import vet
from engine_drivers.volume.remote import RemoteDriver, RemoteOptions

URL = "s3://bucket/prefix"
GIVEN = {"url": URL, "endpoint-url": "http://127.0.0.1:8333", "cache-size": "2g", "mode": "on-demand"}


def volume(given: dict[str, str]) -> Volume[Any]:
    options = parse_options(RemoteOptions, given, driver="remote")
    return Volume[Any](id="0" * 64, name="vol", driver="remote", options=options, data="/data/v", run="/run/v")


def test_what_the_driver_does_not_know_is_the_stores() -> None:
    options = parse_options(RemoteOptions, GIVEN, driver="remote")
    assert (options.mode, options.cache_size) == ("on-demand", 2 << 30)
    assert options.store_options == {"endpoint-url": "http://127.0.0.1:8333"}
    assert RemoteOptions.model_validate(options.model_dump(mode="json")) == options
    with pytest.raises(InvalidParameter, match="patience"):
        parse_options(RemoteOptions, {**GIVEN, "patience": "0"}, driver="remote")


def test_the_field_of_the_stores_options_is_no_option() -> None:
    options = parse_options(RemoteOptions, {"url": URL, "store-options": "x"}, driver="remote")
    assert options.store_options == {"store-options": "x"}  # which no store knows


def test_plan_of_a_remote_volume() -> None:
    wanted = volume(GIVEN)
    answer = RemoteDriver().volume_plan(wanted)
    assert vet(wanted, answer, GIVEN) == answer
    assert Plan.from_json(answer.plan.to_json()) == answer.plan
    (tree,) = trees_of(answer.plan)
    assert tree.store == StoreSpec(url=URL, options={"endpoint-url": "http://127.0.0.1:8333"})
    assert tree.path == answer.path
    assert ("path", "host", tree.path) in tuple(tree.requires())


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"path": "/etc"}, "the directory has to be below"),
        ({"journal": "/var/journal"}, "data has to be below"),
        ({"journal": "/data/v/tree/journal"}, "is inside of"),
        ({"run": "/run"}, "has to be in /run/v"),
        ({"run": "/run/v/deep/helper"}, "has to be in /run/v"),
        ({"path": "/run/v/helper/tree"}, "is inside of"),
        ({"store": StoreSpec(url="file:///etc")}, "not what the operator gave"),
        ({"store": StoreSpec(url=f"{URL}/other")}, "not what the operator gave"),
    ],
)
def test_refused(changes: dict[str, Any], says: str) -> None:
    wanted = volume(GIVEN)
    good = RemoteDriver().volume_plan(wanted)
    (tree,) = trees_of(good.plan)
    bad = tree.model_copy(update=changes)
    directory = Directory(path="/data/v/tree")
    with pytest.raises(DriverFault, match=says):
        vet(wanted, VolumePlan(plan=Plan.of(directory, bad), path=directory.path), GIVEN)


def test_wrappers_may_stand_before_the_operators_url() -> None:
    wanted = volume(GIVEN)
    good = RemoteDriver().volume_plan(wanted)
    (tree,) = trees_of(good.plan)
    wrapped = tree.model_copy(update={"store": StoreSpec(url=f"crypt::{URL}")})
    vet(wanted, VolumePlan(plan=Plan.of(Directory(path=tree.path), wrapped), path=tree.path), GIVEN)


def test_a_tree_is_made_after_what_it_lies_in() -> None:
    tree = SyncedTree(path="/run/v/fs/tree", journal="/run/v/fs/j", store=StoreSpec(url=URL), run="/run/v/helper")
    assert ("mount", "host", "/run/v/fs") in tuple(tree.requires())


def test_the_worst_state_is_shown() -> None:
    progress = TreeProgress(step="uploading", done=1, total=2)
    shown = status_json([
        TreeStatus(state="ready", files=1, pending_files=2, conflicts=("a",), progress=progress),
        TreeStatus(state="degraded", reason="no route", files=3, pending_files=4, conflicts=("b",)),
    ])  # fmt: skip
    assert (shown["State"], shown["Reason"], shown["Files"], shown["PendingFiles"]) == ("degraded", "no route", 4, 6)
    assert shown["Conflicts"] == ["a", "b"]
    assert shown["Progress"] == progress.model_dump()


def test_a_barrier_of_a_volume_that_was_released_meanwhile_is_done(tmp_path: Path) -> None:
    class Released:
        def plan_of(self, owner: str) -> None:
            return None

    tree = SyncedTree(path="/data/v/tree", journal="/data/v/j", store=StoreSpec(url=URL), run=str(tmp_path))
    plan = VolumePlan(plan=Plan.of(Directory(path=tree.path), tree), path=tree.path)
    record = VolumeRecord(id="0" * 64, name="vol", driver="remote", created="", applied=plan)
    assert Trees(cast(Any, None), cast(Any, Released())).barrier(record, 5.0) == 0
