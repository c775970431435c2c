"""Volumes: made, found, mounted as long as somebody uses them, and removed.

A volume is used by a set of ids, not by a number of times: a caller that repeats itself after a crash changes nothing.
Every step is written down before it is made, so that a restart (`restore`) completes or undoes what was begun.
"""

from __future__ import annotations

import builtins
import logging
import secrets
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from engine.filters import Filters
from engine.reconcile import data
from engine.secrets.keys import VolumeKeys
from engine.spec.errors import ApplyFailed, Conflict, EngineError, Locked
from engine.spec.options import Options
from engine.spec.volume import VolumeDriver, VolumePlan
from engine.state import State
from engine.storage.secrets import Secrets
from engine.volume import views
from engine.volume.binds import check_name
from engine.volume.encryption import Encryption
from engine.volume.mounting import GROUP, DriverRegistry, Events, Mounting, PlanReconciler
from engine.volume.record import ANONYMOUS_LABEL, VolumeRecord, masked, needed_to_create
from engine.volume.removal import Removal
from engine.volume.restart import Restart
from engine.volume.store import VolumeStore
from engine.volume.trees import Progress, StoreConfigs, status_json, trees_in_use
from engine.volume.vet import RECORD

log = logging.getLogger(__name__)

DEFAULT_DRIVER = "local"


class VolumeManager:
    """The volumes of one engine. All methods may be called from any thread; they block.

    `root` (`<data-root>/volumes`) holds one directory for each volume, named by its id; `run_root` (`<exec-root>/vol`)
    the mount points. `configs` plans stores, and reads their secrets.
    """

    def __init__(
        self,
        state: State,
        plugins: DriverRegistry,
        reconciler: PlanReconciler,
        root: Path,
        run_root: Path,
        events: Events,
        configs: StoreConfigs,
        keys: VolumeKeys | None = None,
    ) -> None:
        self._store = VolumeStore(state, root, run_root)
        self._plugins = plugins
        self._reconciler = reconciler
        self._events = events
        self._mounting = Mounting(self._store, plugins, reconciler, events, configs)
        self._trees = self._mounting.trees
        self.encryption = Encryption(self._store, keys or VolumeKeys(Secrets().read), reconciler)
        self._removal = Removal(self._store, self._mounting, self.encryption, events)
        self._restart = Restart(self._store, self._mounting, reconciler, self._removal)

    def close(self) -> None:
        """Look after volumes no longer. What is mounted stays, and helpers go on."""
        self._mounting.tending.stop()

    # Making

    def create(
        self,
        name: str | None = None,
        driver: str = "",
        options: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
        user: str = "",
        key: bytes | None = None,
    ) -> VolumeRecord:
        """Make a volume, or return the one of that name if it was made with the same driver and options.

        Without a name it is anonymous: 64 hex digits. Without a driver or options an existing one may have any, and a
        new one is local. With `user` it is referred to (see `reference`) from the start: no prune comes between.
        `key` is the passphrase of an encrypted one whose key a person gives. Raises Conflict where the existing one
        differs, InvalidParameter, NotFound for the driver, DriverFault, Locked without a key, ApplyFailed.
        """
        id = secrets.token_hex(32)
        given = {str(k): str(v) for k, v in (options or {}).items()}
        labels = {**(labels or {}), **({} if name else {ANONYMOUS_LABEL: ""})}
        name = check_name(name) if name else id
        chosen = driver or DEFAULT_DRIVER
        while True:
            existing = self._store.find(name)
            if existing is not None:
                with self._store.lock(existing.id):
                    found = self._finished(existing.id)
                    if found is not None:
                        return self._refer(_same(found, driver, given), user)
                continue
            settled = self._mounting.settle(chosen, given)
            created = datetime.now(UTC).isoformat().replace("+00:00", "Z")
            record = VolumeRecord(
                id=id, name=name, driver=chosen, state="creating", created=created,
                given=given, options=settled.model_dump(mode="json"), labels=labels,
                references=(user,) if user else (),
            )  # fmt: skip
            with self._store.lock(id):
                try:
                    self._store.write(record)
                except Conflict:
                    continue  # somebody else was faster with this name
                with self.encryption.offered(record, key):
                    return self._make(record, settled)

    def _finished(self, id: str) -> VolumeRecord | None:
        """Return a volume, whose lock is held; finish off one that was left half made or half removed."""
        found = self._store.read(id)
        if found is not None and found.state != "ready":
            self._removal.erase(found)
            return None
        return found

    def _make(self, record: VolumeRecord, settled: Options) -> VolumeRecord:
        """Make the data of a volume whose record says "creating"; on failure nothing is left of it."""
        try:
            self._store.data(record).mkdir(mode=0o711)
            self._store.run(record).mkdir(mode=0o711, exist_ok=True)
            answer = self._mounting.ask(record)
            record = record.with_(applied=answer, path=answer.path)
            self._store.write(record)
            self._reconciler.apply(record.owner, needed_to_create(answer.plan), creating=True)
            self._trees.check(record, settled, answer)  # with the keys that were just made
            self._mounting.release(record)
            ready = record.with_(state="ready", applied=None)
            data.write_file(self._store.data(record) / RECORD, ready.model_dump_json())
            self._store.write(ready)
        except BaseException as err:
            try:
                self._removal.erase(record)
            except EngineError as left:
                log.error("volume %s is half made, and removed at the next try or start: %s", record.name, left)
            if isinstance(err, OSError):
                raise ApplyFailed(f"volume {record.name} cannot be made", why=str(err), driver=record.driver) from err
            raise
        self._events.emit("volume", "create", record.name, {"driver": record.driver})
        return ready

    # Finding

    def get(self, name: str) -> VolumeRecord:
        """Return the volume of that name. Raises NotFound."""
        return self._store.get(name)

    def list(self, filters: Filters | None = None) -> builtins.list[VolumeRecord]:
        """Return all volumes that pass docker's filters: `name`, `driver`, `label`, `dangling`.

        Raises InvalidParameter.
        """
        passes = views.volume_filter(filters or {})
        return sorted((r for r in self._store.all() if r.state != "creating" and passes(r)), key=lambda r: r.name)

    def inspect(self, name: str) -> dict[str, Any]:
        """Return docker's JSON of a volume, with the state of its store. Raises NotFound."""
        record = self.get(name)
        described = self.describe(record)
        if trees_in_use(record):
            described["Status"] |= status_json(self._trees.status(record))
        described["Status"] |= self.encryption.status(record)
        return described

    def describe(self, record: VolumeRecord) -> dict[str, Any]:
        """Return docker's JSON of a volume that `get`, `list` or `create` returned, also if its driver is gone."""
        try:
            scope = cast(VolumeDriver[Any], self._plugins.get(GROUP, record.driver)).caps.scope
        except EngineError as err:
            log.warning("volume %s: %s", record.name, err)
            scope = "local"
        return views.volume_json(record, scope)

    def usage(self, name: str) -> tuple[int, int]:
        """Return (bytes on this host's disk, number of users).

        Walks the data; an image counts with its blocks. -1 bytes: the volume keeps nothing here. Raises NotFound.
        """
        record = self.get(name)
        return views.bytes_of(self._store.data(record)), len(record.users)

    def orphans(self) -> builtins.list[Path]:
        """Return directories of volumes that no record knows. They may be somebody's data: nothing removes them."""
        return self._store.orphans()

    # Using

    def reference(self, name: str, user: str) -> None:
        """Note that somebody will mount the volume again, so that it is not removed: a container that is stopped."""
        with self._store.locked(name) as record:
            self._refer(record, user)

    def _refer(self, record: VolumeRecord, user: str) -> VolumeRecord:
        if user and user not in record.references:
            record = record.with_(references=(*record.references, user))
            self._store.write(record)
        return record

    def dereference(self, name: str, user: str) -> None:
        """Forget what `reference` noted; no error if there is nothing, not even a volume."""
        found = self._store.find(name)
        if found is None:
            return
        with self._store.lock(found.id):
            record = self._store.read(found.id)
            if record is not None and user in record.references:
                self._store.write(record.with_(references=tuple(r for r in record.references if r != user)))

    def users(self, name: str) -> tuple[str, ...]:
        """Return who has the volume mounted or refers to it. Raises NotFound."""
        return self.get(name).users

    def mount(self, name: str, user: str, *, subpath: str = "") -> Path:
        """Mount a volume for a user, and return the path that its container is to see. See `Mounting.mount`.

        Raises also Locked for an encrypted one whose key cannot be had.
        """
        try:
            return self._mounting.mount(name, user, subpath=subpath)
        except Locked as err:
            raise self.encryption.named(self.get(name), err) from err

    def descriptors(self, name: str) -> builtins.list[int]:
        """Return what the monitor of a container on a mounted volume holds open as long as the container lives.

        So reads of files that are not local yet wait, whatever else is killed. The caller closes them. Raises NotFound,
        and Unavailable if a helper of the volume has ended just now.
        """
        return self._trees.descriptors(self._store.get(name))

    def unmount(self, name: str, user: str) -> None:
        """End a user's mount. See `Mounting.unmount`."""
        self._mounting.unmount(name, user)

    def populate(self, name: str, source: Path) -> bool:
        """Fill an empty volume from what the image has; tell whether it did. See `Mounting.populate`."""
        return self._mounting.populate(name, source)

    def sync(self, name: str, seconds: float, progress: Progress | None = None) -> int:
        """Wait until what is changed now is in the volume's store; return how many changes are left at the end.

        A volume without a store has nothing to wait for. `progress` is called about once a second. Raises NotFound,
        and Unavailable with the reason when the store cannot be used.
        """
        return self._trees.barrier(self.get(name), seconds, progress)

    def unstorable(self, name: str) -> tuple[int, str]:
        """Return how many files of a volume its store cannot have, and which and why. Raises NotFound."""
        found = self._trees.status(self.get(name))
        return sum(s.unstorable_files for s in found), "; ".join(s.reason for s in found if s.unstorable_files)

    # Working on it

    def layout(self, name: str) -> tuple[VolumeRecord, VolumePlan, Path]:
        """Return a volume, its plan (as it is mounted, else as it would be) and its own directory.

        Raises NotFound, Unavailable, DriverFault.
        """
        record = self.get(name)
        return record, record.applied or self._mounting.ask(record), self._store.data(record)

    def hold(self, name: str, user: str, *, alone: bool = False) -> None:
        """Let nobody else mount the volume until `let_go`. With `alone` nobody may have it mounted already.

        Raises NotFound, Conflict that names who has it.
        """
        with self._store.locked(name) as record:
            others = sorted({record.held, *(record.mounts if alone else ())} - {"", user})
            if others:
                raise Conflict(f"volume {name} is in use by {', '.join(others)}", hint="Stop or wait for them first")
            self._store.write(record.with_(held=user))

    def let_go(self, id: str, user: str) -> None:
        """End a hold; no error if there is none, not even the volume."""
        with self._store.lock(id):
            record = self._store.read(id)
            if record is not None and record.held == user:
                self._store.write(record.with_(held=""))

    def rename(self, name: str, new: str) -> VolumeRecord:
        """Give a volume another name. Its data stays where it is.

        Raises NotFound, InvalidParameter, and Conflict if the name is taken or something refers to the volume:
        containers know it by its name.
        """
        check_name(new)
        with self._store.locked(name) as record:
            if record.users:
                raise Conflict(
                    f"rename {name}: volume is in use - [{', '.join(record.users)}]",
                    why="they know it by its name", hint="Remove these containers first",
                )  # fmt: skip
            renamed = self._rewrite(record.with_(name=new))
        self._events.emit("volume", "rename", new, {"driver": record.driver, "oldName": name})
        return renamed

    def relabel(self, name: str, add: Mapping[str, str], remove: Collection[str] = ()) -> VolumeRecord:
        """Change a volume's labels. Raises NotFound."""
        with self._store.locked(name) as record:
            labels = {key: value for key, value in record.labels.items() if key not in remove}
            changed = self._rewrite(record.with_(labels={**labels, **add}))
        self._events.emit("volume", "update", name, {"driver": record.driver})
        return changed

    def _rewrite(self, record: VolumeRecord) -> VolumeRecord:
        """Write a changed record, and the copy in the volume's directory."""
        self._store.write(record)
        copy = record.with_(mounts={}, references=(), applied=None, held="")
        data.write_file(self._store.data(record) / RECORD, copy.model_dump_json())
        return record

    def adopt(self, source: VolumeRecord, id: str, name: str, directory: Path) -> VolumeRecord:
        """Make a new volume of a finished copy of another one's directory; once more is no error.

        Raises Conflict if the name is taken meanwhile: nothing is changed then.
        """
        found = self._store.read(id)
        if found is not None:
            return found
        created = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        labels = {key: value for key, value in source.labels.items() if key != ANONYMOUS_LABEL}
        record = VolumeRecord(
            id=id, name=check_name(name), driver=source.driver, created=created, given=source.given,
            options=source.options, labels=labels,
        )  # fmt: skip
        ready = record.with_(path=self._mounting.ask(record).path)
        place = self._store.data(ready)
        with self._store.lock(id):
            if not place.exists():
                data.write_file(directory / RECORD, ready.model_dump_json())  # a restart finds it by this
                directory.rename(place)
            try:
                self._store.write(ready)
            except Conflict:
                place.rename(directory)
                raise
        self._events.emit("volume", "create", name, {"driver": record.driver})
        return ready

    # Removing

    def remove(self, name: str, force: bool = False) -> None:
        """Remove a volume with its data. See `Removal.remove`."""
        self._removal.remove(name, force)

    def prune(self, filters: Filters | None = None) -> tuple[builtins.list[str], int]:
        """Remove the volumes that nobody uses. See `Removal.prune`."""
        return self._removal.prune(filters or {})

    # Restarting

    def restore(
        self, live_users: Collection[str], known_users: Collection[str] | None = None
    ) -> builtins.list[EngineError]:
        """Bring everything into order after a start. See `Restart.restore`."""
        return self._restart.restore(live_users, known_users)


def _same(found: VolumeRecord, driver: str, given: Mapping[str, str]) -> VolumeRecord:
    """Return an existing volume if it is what was asked for. Raises Conflict that says what differs."""
    differences = []
    if driver and driver != found.driver:
        differences.append(f"its driver is {found.driver}, not {driver}")
    if given:  # who names no options wants the volume as it is
        for key in sorted(found.given.keys() | given.keys()):
            has, wanted = found.given.get(key), given.get(key)
            if has != wanted:
                differences.append(f"its option {key} is {_said(has)}, not {_said(wanted)}")
    if differences:
        raise Conflict(
            f"a volume named {found.name} exists and differs", why="; ".join(differences),
            hint="Use another name, or remove it first", driver=found.driver,
        )  # fmt: skip
    return found


def _said(value: str | None) -> str:
    return "not set" if value is None else repr(masked(value))
