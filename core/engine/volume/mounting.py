"""Asks drivers for plans, and makes the host follow them while a volume is used."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, cast

from engine.durable import sync_file_system
from engine.reconcile import fscrypt
from engine.reconcile.applier import Difference
from engine.reconcile.convergence import Report
from engine.spec.driver import Driver
from engine.spec.errors import ApplyFailed, Conflict, DriverFault, InvalidParameter, NotFound, Unavailable
from engine.spec.options import Options, encryption_fields, parse_options
from engine.spec.resource import Plan
from engine.spec.volume import Volume, VolumeDriver, VolumePlan
from engine.volume import populate
from engine.volume.record import VolumeRecord, hardened, subpath_bind
from engine.volume.store import VolumeStore
from engine.volume.tending import Tending
from engine.volume.trees import DRAIN_SECONDS, StoreConfigs, Trees, trees_in_use
from engine.volume.vet import vet

GROUP = VolumeDriver.GROUP
_NO_PART = {
    "ENOENT": ("it does not exist", "Make it first, with a container that mounts the whole volume"),
    "ENOTDIR": ("a part of the path is no directory", ""),
    "EXDEV": ("a symbolic link leads out of the volume", ""),
    "ELOOP": ("a symbolic link is in the way", ""),
}
"""By errno: why a part of a volume cannot be shown, and what to do."""


class DriverRegistry(Protocol):
    """What volumes need of engine.plugins.Plugins."""

    def get(self, group: str, name: str) -> Driver:
        """Return a driver."""

    def call(self, group: str, name: str, operation: str, /, **arguments: Any) -> Any:
        """Call one operation of one driver."""


class PlanReconciler(Protocol):
    """What volumes need of engine.reconcile.reconciler.Reconciler."""

    def apply(self, owner: str, plan: Plan, *, creating: bool = False) -> None:
        """Make what a plan says."""

    def remove(self, owner: str) -> list[Difference]:
        """Remove what only this owner wants; return what is left."""

    def adopt(self, owner: str, plan: Plan) -> None:
        """Want a plan that was applied before."""

    def plan_of(self, owner: str) -> Plan | None:
        """Return what is wanted for an owner."""

    def repair(self, owner: str | None = None) -> Report:
        """Correct every difference that can be corrected."""


class Events(Protocol):
    """What volumes need of engine.events.EventBus."""

    def emit(self, type: str, action: str, id: str, attributes: Mapping[str, str] | None = None) -> Any:
        """Tell that something happened."""


class Mounting:
    """The part of volumes that reaches drivers and the host."""

    def __init__(
        self,
        store: VolumeStore,
        plugins: DriverRegistry,
        reconciler: PlanReconciler,
        events: Events,
        configs: StoreConfigs,
    ) -> None:
        self._store = store
        self._plugins = plugins
        self._reconciler = reconciler
        self._events = events
        self.trees = Trees(configs, reconciler)
        self.tending = Tending(self.trees, self.let_go)
        self._begun: dict[str, int] = {}
        """By volume: how many mounts of it have begun in this process."""
        self._leaving: set[str] = set()
        """Volumes that a thread waits for to let go of them."""

    def settle(self, driver: str, given: Mapping[str, str]) -> Options:
        """Return a driver's options, checked, with the choices that are made once.

        Raises NotFound for the driver, InvalidParameter, DriverFault.
        """
        model = self._plugins.get(GROUP, driver).options_model
        parsed = self._with_encryption(parse_options(model, given, driver=driver))
        settled = self._plugins.call(GROUP, driver, "settle_volume", options=parsed)
        if settled is None:
            return parsed
        if not isinstance(settled, model):
            why = f"settle_volume returned {type(settled).__name__} instead of {model.__name__}"
            raise DriverFault("a volume cannot be made", why=why, driver=driver)
        return settled

    def _with_encryption(self, options: Options) -> Options:
        """Return options with what this host can do in the place of `auto`, where a driver leaves that to the host."""
        open_ = [name for name in encryption_fields(type(options)) if getattr(options, name) == "auto"]
        if not open_:
            return options
        return options.model_copy(update=dict.fromkeys(open_, fscrypt.best_method(self._store.root)))

    def ask(self, record: VolumeRecord) -> VolumePlan:
        """Return what has to exist while the volume is mounted, as its driver says and as it may be applied.

        Raises Unavailable if the driver is gone, DriverFault.
        """
        try:
            model = self._plugins.get(GROUP, record.driver).options_model
        except (NotFound, DriverFault) as err:
            raise Unavailable(
                f"volume {record.name} cannot be mounted", why=str(err), driver=record.driver,
                hint="Its data is untouched. Install or repair the driver's package",
            ) from err  # fmt: skip
        try:
            options = model.model_validate(record.options)
        except ValueError as err:
            what = f"the driver does not take the stored options of volume {record.name}"
            raise DriverFault(what, driver=record.driver, why=str(err)) from err
        volume = Volume[Any](
            id=record.id, name=record.name, driver=record.driver, options=options, labels=record.labels,
            data=str(self._store.data(record)), run=str(self._store.run(record)),
        )  # fmt: skip
        answer = self._plugins.call(GROUP, record.driver, "volume_plan", volume=volume)
        return hardened(vet(volume, answer, record.given))

    def mount(self, name: str, user: str, *, subpath: str = "") -> Path:
        """Mount the volume for a user, and return the path that its container is to see. Idempotent.

        With `subpath` the path is a mount of that part alone, which nobody inside can lead elsewhere; it has to exist.
        Raises NotFound, Unavailable (data or driver missing), DriverFault, ApplyFailed.
        """
        if subpath.startswith("/") or ".." in subpath.split("/"):
            raise InvalidParameter(f"subpath {subpath!r} is not a relative path inside the volume")
        with _naming_the_part(name, subpath):
            with self._store.locked(name) as before:
                if before.held not in ("", user):
                    raise Conflict(
                        f"volume {name} cannot be mounted now", why=f"{before.held} works on it",
                        hint=f"Wait for it, see: engine volume jobs {name}", details={"held": before.held},
                    )  # fmt: skip
                record = self._begin(before, user, subpath)
            if trees_in_use(record):
                record = self._show(record, user)
        if not before.mounts.get(user):
            self._events.emit("volume", "mount", record.name, {"driver": record.driver, "container": user})
        assert record.applied is not None
        return Path(self._subpath_target(record, subpath) if subpath else record.applied.path)

    def _begin(self, before: VolumeRecord, user: str, subpath: str) -> VolumeRecord:
        """Note the user, and make the host follow. Parts of a tree are shown later: they may not be there yet."""
        self._begun[before.id] = self._begun.get(before.id, 0) + 1
        parts = before.mounts.get(user, ())
        base = before.applied if before.mounts and before.applied else self.ask(before)
        wanted = parts if subpath in parts else (*parts, subpath)
        record = before.with_(applied=base, mounts={**before.mounts, user: wanted})
        if record != before:
            self._store.write(record)
        self._store.run(record).mkdir(mode=0o711, exist_ok=True)
        try:
            shown = before.with_(applied=base) if trees_in_use(record) else record
            self._reconciler.apply(record.owner, self.whole_plan(shown))
        except BaseException:
            self._store.write(before)
            if before.applied is None:
                self._store.forget_run(before)
            raise
        self.tending.watch(record)
        return record

    def _show(self, record: VolumeRecord, user: str) -> VolumeRecord:
        """Wait until the content of a volume that is kept in a store is there; then show what is asked for."""
        try:
            self.trees.wait_ready(record)
            with self._store.locked(record.name) as now:
                now = now.with_(exposed=True)  # before a container can write
                self._store.write(now)
                self._reconciler.apply(now.owner, self.whole_plan(now))
                self.tending.watch(now)
                return now
        except BaseException:
            self.unmount(record.name, user)
            raise

    def unmount(self, name: str, user: str) -> None:
        """End a user's mount; the last one's end unmounts it, by the plan that was stored, also if the driver is gone.

        What a store has not got yet is waited for; after `DRAIN_SECONDS` the volume stays mounted without a user, and
        its upload goes on. Raises NotFound, and Conflict if something on the host keeps it busy: the user is forgotten
        nevertheless, and the next mount, restart or removal goes on from there.
        """
        with self._store.locked(name) as before:
            if user not in before.mounts:
                return
            record = before.with_(mounts={u: parts for u, parts in before.mounts.items() if u != user})
            waits = not record.mounts and trees_in_use(record)
            try:
                if record.mounts or waits:
                    self._reconciler.apply(record.owner, self.whole_plan(record))
                else:
                    self.release(before)
                    record = record.with_(applied=None)
            finally:
                self._store.write(record)
                self.tending.watch(record)
        if waits:
            self.let_go(record, DRAIN_SECONDS)
        self._events.emit("volume", "unmount", record.name, {"driver": record.driver, "container": user})

    def let_go(self, record: VolumeRecord, seconds: float) -> bool:
        """Release a volume that nobody uses when all of it is in its store, and tell whether it is so.

        That is waited for so many seconds; not by a second thread, whose helper would go under it. Raises Conflict if
        something on the host keeps it busy.
        """
        with self._store.lock(record.id):
            if record.id in self._leaving:
                return False
            self._leaving.add(record.id)
        try:
            return self._release_drained(record, seconds)
        finally:
            self._leaving.discard(record.id)

    def _release_drained(self, record: VolumeRecord, seconds: float) -> bool:
        begun = self._begun.get(record.id, 0)
        if not self.trees.drained(record, seconds):
            return False
        with self._store.lock(record.id):
            now = self._store.read(record.id)
            if now is None or now.mounts or now.applied is None or self._begun.get(record.id, 0) != begun:
                return False  # somebody has mounted it again, and may have written since
            self.release(now)
            self._store.write(now.with_(applied=None, exposed=False))
            return True

    def whole_plan(self, record: VolumeRecord) -> Plan:
        """Return the plan that was applied: the driver's, and a mount for each subpath that somebody uses."""
        if record.applied is None:
            return Plan()
        subpaths = sorted({part for parts in record.mounts.values() for part in parts if part})
        return record.applied.plan + Plan.of(
            subpath_bind(self._subpath_target(record, part), record.applied.path, part) for part in subpaths
        )

    def _subpath_target(self, record: VolumeRecord, subpath: str) -> str:
        return f"{self._store.run(record)}{_place_of(subpath)}"

    def release(self, record: VolumeRecord) -> None:
        """Unmount by the stored plan. Raises Conflict if something is left."""
        if record.applied is not None and self._reconciler.plan_of(record.owner) is None:
            self._reconciler.adopt(record.owner, self.whole_plan(record))
        left = self._reconciler.remove(record.owner)
        if left:
            raise Conflict(
                f"volume {record.name} cannot be unmounted", why="; ".join(map(_why_left, left)), driver=record.driver,
                hint="End what uses it; it is tried again",
            )  # fmt: skip
        self.tending.forget(record)
        self._store.forget_run(record)

    def populate(self, name: str, source: Path) -> bool:
        """Fill a mounted volume that is empty with what the image has at the mount point; tell whether it did.

        An interrupted copy is completed by the next call. Raises NotFound, Conflict if it is not mounted, and
        ApplyFailed.
        """
        with self._store.locked(name) as record:
            if record.applied is None:
                raise Conflict(f"volume {name} is not mounted")
            target = Path(record.applied.path)
            driver = cast(VolumeDriver[Any], self._plugins.get(GROUP, record.driver))
            try:
                wanted = record.populating or (driver.caps.prepopulate and populate.is_empty(target))
                if not wanted or not source.is_dir():
                    return False
                if not record.populating:
                    self._store.write(record.with_(populating=True))
                populate.copy_tree(source, target)
                _sync(target)
            except OSError as err:
                raise ApplyFailed(
                    f"volume {name} cannot be filled with what the image has", why=str(err), driver=record.driver,
                    hint="It is tried again at the next start; nocopy turns it off",
                ) from err  # fmt: skip
            self._store.write(record.with_(populating=False))
            return True


def _why_left(difference: Difference) -> str:
    error = difference.fields.get("error", (None, difference.state))[1]
    return f"{difference.key[-1]}: {error}"


def _place_of(subpath: str) -> str:
    """Return where a part of a volume is mounted, below the volume's run directory."""
    return f"/sub/{hashlib.sha256(subpath.encode()).hexdigest()[:16]}"


@contextmanager
def _naming_the_part(name: str, subpath: str) -> Iterator[None]:
    """Say of a part of a volume that cannot be shown what its user knows it by, not where we would have mounted it."""
    try:
        yield
    except ApplyFailed as err:
        resource = err.details.get("resource")
        if not subpath or not isinstance(resource, list) or not str(resource[-1]).endswith(_place_of(subpath)):
            raise
        code = err.details.get("errno")
        why, hint = _NO_PART.get(str(code), (err.why, err.hint))
        raise ApplyFailed(
            f"{subpath!r} of volume {name} cannot be mounted", why=why, hint=hint, details=err.details
        ) from err


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sync_file_system(descriptor)
    finally:
        os.close(descriptor)
