"""What the plans of a volume driver must do when the engine applies them, in mount namespaces of one check each."""

from __future__ import annotations

import errno
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine_sdk import Bind, Directory, EngineError, Image, Plan, SyncedTree, Volume, VolumePlan
from engine_sdk.testing import volume_requests as requests
from engine_sdk.testing.bench import collect, engine, fail_at_every_step, kill_at_step
from engine_sdk.testing.checks import Checks, NotDeclared, explain
from engine_sdk.testing.host import PrivateHost
from engine_sdk.testing.snapshot import changes, file_state, mount_state
from engine_sdk.testing.subject import Subject

if TYPE_CHECKING:
    from engine.reconcile.reconciler import Reconciler

_SETTLE_SECONDS = 3.0
"""A loop device is detached a moment after its last mount went."""


_TREE_SECONDS = 20.0
"""For the listing of a store with some files, and their content."""


def add_kernel_checks(checks: Checks) -> None:
    """Register the checks of this module."""
    for body in (
        mounted_as_planned,
        mounting_twice_changes_nothing,
        data_outlive_a_mount,
        creating_again_keeps_the_data,
        unmounting_leaves_nothing,
        unmounting_twice_is_no_error,
        a_busy_volume_stays_mounted,
        can_be_shown_read_only,
        missing_data_are_not_replaced,
        users_at_the_same_time_see_one_volume,
        failure_at_every_step_of_a_mount_leaves_nothing,
        failure_at_every_step_of_a_creation_leaves_nothing,
        leftovers_of_a_killed_engine_are_collected,
        a_restarted_engine_goes_on,
        what_is_written_reaches_the_store,
    ):
        checks.kernel(body)


def await_tree(tree: SyncedTree) -> None:
    """Wait until containers may see a tree."""
    from engine.helper.client import HelperClient
    from engine.helper.place import HelperPlace

    client = HelperClient(HelperPlace(tree.run))
    end = time.monotonic() + _TREE_SECONDS
    while (status := client.status()).state == "loading" and time.monotonic() < end:
        time.sleep(0.02)
    if status.state != "ready":
        raise AssertionError(f"the tree {tree.path} is {status.state}: {status.reason or status.progress}")


class VolumeBench:
    """One volume of the driver under test, on a private host."""

    def __init__(self, subject: Subject, host: PrivateHost, number: int = 1) -> None:
        self.host = host
        self.volume = requests.volume(subject, host.root, number)
        self.planned = _as_applied(subject, self.volume)
        for directory in (self.volume.data, self.volume.run):
            Path(directory).mkdir(parents=True)

    @property
    def owner(self) -> str:
        """How the engine calls the volume as the owner of a plan."""
        return f"vol:{self.volume.id}"

    @property
    def path(self) -> Path:
        """Where containers find the content."""
        return Path(self.planned.path)

    @property
    def mounts_something(self) -> bool:
        """Whether the plan has mounts: they follow the use of the volume."""
        return any(r.LIFE == "session" and hasattr(r, "target") for r in self.planned.plan.resources)

    def data_paths(self) -> list[Path]:
        """Return the paths of what the volume keeps."""
        return [Path(r.path) for r in self.planned.plan.resources if isinstance(r, Directory | Image)]

    def trees(self) -> list[SyncedTree]:
        """Return what the volume keeps in stores."""
        return [r for r in self.planned.plan.resources if isinstance(r, SyncedTree)]

    def create(self, core: Reconciler) -> None:
        """Create the volume as the engine does: everything is made, and what follows the use is released."""
        core.apply(self.owner, self.planned.plan, creating=True)
        self.unmount(core)

    def mount(self, core: Reconciler) -> None:
        """Bring the volume into use; what is kept in a store is waited for."""
        core.apply(self.owner, self.planned.plan)
        for tree in self.trees():
            await_tree(tree)

    def unmount(self, core: Reconciler) -> None:
        """End the volume's use. What could not be removed before is tried again."""
        if core.plan_of(self.owner) is None:
            core.adopt(self.owner, self.planned.plan)
        explain("could not be removed", core.remove(self.owner))

    def state(self) -> dict[str, frozenset[str]]:
        """Return mounts, loop devices and files, but for what helpers bring and keep: content and journals."""
        theirs = tuple(place for tree in self.trees() for place in (f"{tree.path}/", tree.journal))
        files = {line for line in file_state(self.host.root)["files"] if not line.startswith(theirs)}
        return {**mount_state(self.host.root), "files": frozenset(files)}

    def session_state(self) -> dict[str, frozenset[str]]:
        """Return mounts, loop devices and what lies below the directory of mount points."""
        return mount_state(self.host.root) | file_state(Path(self.volume.run))

    def left(self, state: Callable[[], dict[str, frozenset[str]]], before: dict[str, frozenset[str]]) -> list[str]:
        """Return the changes since `before` when they have settled."""
        end = time.monotonic() + _SETTLE_SECONDS
        while (left := changes(before, state())) and time.monotonic() < end:
            time.sleep(0.02)
        return left


def _as_applied(subject: Subject, volume: Volume[Any]) -> VolumePlan:
    """Return the plan as the engine applies it: checked, and with mounts that bring no privileges."""
    from engine.volume.record import hardened
    from engine.volume.vet import vet

    return hardened(vet(volume, requests.volume_plan(subject, volume), subject.given))


def mounted_as_planned(subject: Subject, host: PrivateHost) -> None:
    """After the plan is applied, the host is as it says, and the volume's path takes files."""
    bench, core = VolumeBench(subject, host), engine(host)
    bench.create(core)
    bench.mount(core)
    explain("after apply, the host differs from the plan", core.diff())
    (bench.path / "file").write_text("content")


def mounting_twice_changes_nothing(subject: Subject, host: PrivateHost) -> None:
    """Applying the plan a second time changes nothing."""
    bench, core = VolumeBench(subject, host), engine(host)
    bench.create(core)
    bench.mount(core)
    once = bench.state()
    bench.mount(core)
    explain("the second time changed", changes(once, bench.state()))


def data_outlive_a_mount(subject: Subject, host: PrivateHost) -> None:
    """What a container wrote is there when the volume is mounted again."""
    bench, core = VolumeBench(subject, host), engine(host)
    if not bench.data_paths():
        raise NotDeclared("driver does not declare data of its own with these options")
    bench.create(core)
    bench.mount(core)
    (bench.path / "file").write_text("content")
    bench.unmount(core)
    again = engine(host)
    bench.mount(again)
    if (bench.path / "file").read_text() != "content":
        raise AssertionError("the file has another content after the volume was mounted again")


def creating_again_keeps_the_data(subject: Subject, host: PrivateHost) -> None:
    """Applying the plan as for a creation over existing data never replaces them."""
    bench, core = VolumeBench(subject, host), engine(host)
    if not bench.data_paths():
        raise NotDeclared("driver does not declare data of its own with these options")
    bench.create(core)
    bench.mount(core)
    (bench.path / "file").write_text("content")
    bench.unmount(core)
    try:
        bench.create(core)
    except EngineError:
        pass  # a refusal is as good: what counts are the data
    bench.mount(core)
    if not (bench.path / "file").exists():
        raise AssertionError("creating the volume a second time destroyed its data")


def unmounting_leaves_nothing(subject: Subject, host: PrivateHost) -> None:
    """After the last use, mounts, loop devices and mount points are as before the first."""
    bench, core = VolumeBench(subject, host), engine(host)
    unused = bench.session_state()
    bench.create(core)
    explain("left by the creation", bench.left(bench.session_state, unused))
    bench.mount(core)
    bench.unmount(core)
    explain("left by the use", bench.left(bench.session_state, unused))


def unmounting_twice_is_no_error(subject: Subject, host: PrivateHost) -> None:
    """Unmounting what is not mounted is no error."""
    bench, core = VolumeBench(subject, host), engine(host)
    bench.create(core)
    bench.mount(core)
    bench.unmount(core)
    bench.unmount(core)


def a_busy_volume_stays_mounted(subject: Subject, host: PrivateHost) -> None:
    """While a file is open, unmounting says so and takes nothing away; afterwards it works."""
    bench, core = VolumeBench(subject, host), engine(host)
    if not bench.mounts_something:
        raise NotDeclared("driver does not declare a mount with these options")
    bench.create(core)
    before = bench.session_state()
    bench.mount(core)
    with (bench.path / "file").open("w") as file:
        left = core.remove(bench.owner)
        if not left:
            raise AssertionError("a volume in which a file is open was unmounted, and nobody was told")
        file.write("content")
    bench.unmount(core)
    explain("left after the volume was busy", bench.left(bench.session_state, before))


def can_be_shown_read_only(subject: Subject, host: PrivateHost) -> None:
    """A container that asks for it sees the volume read-only: existing files are read, and none is written."""
    bench, core = VolumeBench(subject, host), engine(host)
    bench.create(core)
    bench.mount(core)
    (bench.path / "file").write_text("content")
    view = host.root / "run" / "view"
    core.apply("view", Plan.of(Bind(source=str(bench.path), target=str(view), options=("ro",))))
    if (view / "file").read_text() != "content":
        raise AssertionError("the read-only view has another content")
    try:
        (view / "other").write_text("")
    except OSError as err:
        if err.errno != errno.EROFS:
            raise
    else:
        raise AssertionError("a file was written through the read-only view")
    explain("the view could not be removed", core.remove("view"))


def missing_data_are_not_replaced(subject: Subject, host: PrivateHost) -> None:
    """When the volume's data are gone (a disk that is not mounted), mounting fails; nothing empty takes their place."""
    bench, core = VolumeBench(subject, host), engine(host)
    paths = bench.data_paths()
    if not paths:
        raise NotDeclared("driver does not declare data of its own with these options")
    bench.create(core)
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    try:
        bench.mount(engine(host))
    except EngineError:
        pass
    else:
        raise AssertionError("a volume without its data was mounted")
    explain("made in place of the missing data", [path for path in paths if path.exists()])


def users_at_the_same_time_see_one_volume(subject: Subject, host: PrivateHost) -> None:
    """Containers that start at the same time mount the volume once."""
    bench, core = VolumeBench(subject, host), engine(host)
    bench.create(core)
    before = bench.session_state()
    bench.mount(core)
    single = bench.session_state()
    bench.unmount(core)
    errors: list[BaseException] = []

    def user() -> None:
        try:
            bench.mount(core)
        except BaseException as err:  # noqa: BLE001  # shown below, in the check's thread
            errors.append(err)

    threads = [threading.Thread(target=user) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    explain("users at the same time got", errors)
    if len(bench.session_state()["mounts"]) != len(single["mounts"]):
        explain("users at the same time made other mounts", changes(single, bench.session_state()))
    bench.unmount(core)
    explain("left by users at the same time", bench.left(bench.session_state, before))


def failure_at_every_step_of_a_mount_leaves_nothing(subject: Subject, host: PrivateHost) -> None:
    """When any one resource is refused while the volume is mounted, what was new is gone, and the data stay."""
    bench = VolumeBench(subject, host)
    bench.create(engine(host))
    fail_at_every_step(host, bench.state, lambda core: None, bench.mount)


def failure_at_every_step_of_a_creation_leaves_nothing(subject: Subject, host: PrivateHost) -> None:
    """When any one resource is refused while the volume is created, no mount is left; data go with the volume."""
    bench = VolumeBench(subject, host)

    def create(core: Reconciler) -> None:
        core.apply(bench.owner, bench.planned.plan, creating=True)

    fail_at_every_step(host, bench.session_state, lambda core: None, create)


def leftovers_of_a_killed_engine_are_collected(subject: Subject, host: PrivateHost) -> None:
    """Whenever the engine is killed while it mounts, the next one finds what is left, and removes it; the data stay."""
    bench = VolumeBench(subject, host)
    bench.create(engine(host))
    before = bench.state()
    for passes in range(len(bench.planned.plan) + 1):
        kill_at_step(host, passes, bench.mount)
        collect(engine(host))
        explain(f"left after the engine was killed at step {passes + 1}", bench.left(bench.state, before))


def a_restarted_engine_goes_on(subject: Subject, host: PrivateHost) -> None:
    """A new engine adopts the stored plan without touching the mounts, sees no difference, and can unmount."""
    bench = VolumeBench(subject, host)
    old = engine(host)
    bench.create(old)
    before = bench.session_state()
    bench.mount(old)
    mounted = bench.state()
    new = engine(host)
    new.adopt(bench.owner, bench.planned.plan)
    explain("a new engine sees differences", new.diff())
    collect(new)
    new.repair()
    explain("a new engine changed what was right", changes(mounted, bench.state()))
    bench.unmount(new)
    explain("left by the new engine", bench.left(bench.session_state, before))


def what_is_written_reaches_the_store(subject: Subject, host: PrivateHost) -> None:
    """What a container wrote is in the store after a barrier: another volume on the same store has it."""
    from engine.helper.client import HelperClient
    from engine.helper.place import HelperPlace

    bench, core = VolumeBench(subject, host), engine(host)
    trees = bench.trees()
    if not trees:
        raise NotDeclared("driver does not declare a store with these options")
    bench.create(core)
    bench.mount(core)
    (bench.path / "directory").mkdir(exist_ok=True)
    (bench.path / "directory" / "written").write_text(content := f"content {time.time_ns()}")
    left = sum(HelperClient(HelperPlace(tree.run)).barrier(_TREE_SECONDS) for tree in trees)
    explain("not in the store after a barrier", [f"{left} changes"] if left else [])
    bench.unmount(core)
    other = VolumeBench(subject, host, number=2)
    other.create(core)
    other.mount(core)
    if (other.path / "directory" / "written").read_text() != content:
        raise AssertionError("another volume on the same store has another content")
