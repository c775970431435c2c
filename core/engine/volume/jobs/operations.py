"""What can be done with volumes beyond making and mounting them: each method begins a job, or answers at once."""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from engine.spec.errors import Conflict, EngineError, InvalidParameter, NotFound, Unsupported
from engine.spec.mounts import ImageMount, Mount, Tmpfs
from engine.spec.trees import SyncedTree
from engine.volume.binds import check_name
from engine.volume.jobs.layout import Layout, layout_of
from engine.volume.jobs.manager import JobManager
from engine.volume.jobs.record import JobRecord
from engine.volume.manager import VolumeManager
from engine.volume.record import VolumeRecord
from engine.volume.snapshots import RANK, Snapshot, Snapshots

_CHUNK = 1 << 18


class Readable(Protocol):
    """A stream of bytes."""

    def read(self, size: int = -1, /) -> bytes:
        """Return at most `size` bytes; empty at the end."""


class VolumeWork:
    """Backups, archives, snapshots and copies of volumes. Methods may be called from any thread."""

    def __init__(self, jobs: JobManager, volumes: VolumeManager) -> None:
        self.jobs = jobs
        self._volumes = volumes

    # Backups

    def backup(self, name: str, url: str, options: Mapping[str, str], password: str = "") -> JobRecord:
        """Begin to add a snapshot to the repository at `url`; `password` is a reference, as of a `SecretRef`.

        Without one, the engine's own key is used, which is made at the first time. Raises NotFound, Conflict,
        InvalidParameter.
        """
        self._volumes.get(name)
        password = password or self.jobs.backup_key()
        return self.jobs.start("backup", name, {"url": url, "options": dict(options), "password": password})

    def restore(
        self,
        name: str,
        url: str,
        options: Mapping[str, str],
        password: str = "",
        *,
        snapshot: str = "",
        of: str = "",
        force: bool = False,
    ) -> JobRecord:
        """Begin to fill a volume, which is made if it does not exist, from a repository.

        The snapshot is the newest of volume `of` (else of the same name), if none is named. A volume with content is
        refused without `force`. Raises Conflict if it is mounted.
        """
        password = password or self.jobs.backup_key()
        args = {
            "url": url, "options": dict(options), "password": password, "snapshot": snapshot, "of": of or name,
            "force": force,
        }  # fmt: skip
        return self._into("restore", name, args)

    def _into(self, kind: str, name: str, args: Mapping[str, Any], stdin: int | None = None) -> JobRecord:
        """Begin a job that fills a volume; one that is made for it goes again if the job fails."""
        made = False
        try:
            self._volumes.get(name)
        except NotFound:
            self._volumes.create(check_name(name))
            made = True
        try:
            return self.jobs.start(kind, name, {**args, "made": made}, stdin=stdin)
        except BaseException:
            if made:
                self._volumes.remove(name)
            raise

    # Archives

    def export(self, name: str) -> ExportStream:
        """Begin to write a volume as a tar, and return its bytes. Raises NotFound, Conflict."""
        read, write = os.pipe()
        try:
            record = self.jobs.start("export", name, {}, stdout=write)
        except BaseException:
            os.close(read)
            raise
        finally:
            os.close(write)
        return ExportStream(self.jobs, record, read)

    def import_(self, name: str, source: Readable) -> JobRecord:
        """Fill a volume, which is made if it does not exist, from a tar (also compressed); return the finished job.

        Raises Conflict if it has content, InvalidParameter for what is no tar, ConnectionAbortedError if the source
        broke off: nothing is left then.
        """
        read, write = os.pipe()
        try:
            record = self._into("import", name, {}, stdin=read)
        except BaseException:
            os.close(write)
            raise
        finally:
            os.close(read)
        try:
            _pump(source, write)
        except BaseException:
            self.jobs.cancel(record.id)
            raise
        finally:
            os.close(write)
        return self.jobs.follow(record.id)

    # Copies on this host

    def snapshot(self, name: str, tag: str = "", consistency: str = "") -> JobRecord:
        """Begin to keep the data as it is now. `consistency` is the least that will do: fuzzy, crash or paused.

        Raises NotFound, Conflict, InvalidParameter, Unsupported.
        """
        volume, layout = self._layout(name, consistency)
        self._snapshots(name).check_free(tag)
        args = {**layout.as_json(), "id": secrets.token_hex(6), "tag": tag, "consistency": consistency}
        return self.jobs.start("snapshot", volume.name, args, pause=consistency == "paused")

    def snapshots(self, name: str) -> list[Snapshot]:
        """Return the snapshots of a volume, the oldest first. Raises NotFound."""
        return self._snapshots(name).list()

    def remove_snapshot(self, name: str, ref: str) -> Snapshot:
        """Remove a snapshot. Raises NotFound, Conflict while a job works on the volume."""
        with self.jobs.idle(name):
            return self._snapshots(name).remove(ref)

    def rollback(self, name: str, ref: str) -> JobRecord:
        """Begin to make a snapshot the volume's data again; what the data was is kept as a snapshot.

        Raises NotFound, and Conflict if the volume is mounted.
        """
        volume, layout = self._layout(name)
        snapshot = self._snapshots(name).get(ref)
        if snapshot.how != layout.how:
            raise Unsupported(f"snapshot {ref} cannot be rolled back to", why="the volume keeps its data otherwise now")
        id = secrets.token_hex(6)
        args = {**layout.without_keys().as_json(), "id": id, "snapshot": snapshot.id, "tag": f"before-rollback-{id}"}
        return self.jobs.start("rollback", volume.name, args)

    def clone(self, name: str, new: str, consistency: str = "") -> JobRecord:
        """Begin to make a new volume with a copy of the data. Raises NotFound, Conflict, Unsupported."""
        check_name(new)
        volume, layout = self._layout(name, consistency)
        if layout.how != "data":
            raise Unsupported(
                f"volume {name} cannot be cloned", why="its data is not on this host's disk", driver=volume.driver,
                hint="Back it up, and restore it into another volume",
            )  # fmt: skip
        if new in {record.name for record in self._volumes.list()}:
            raise Conflict(f"a volume named {new} exists")
        args = {**layout.as_json(), "id": secrets.token_hex(32), "new": new, "consistency": consistency}
        return self.jobs.start("clone", name, args, pause=consistency == "paused")

    def rename(self, name: str, new: str) -> VolumeRecord:
        """Give a volume another name. Raises NotFound, Conflict while something uses it or has the name."""
        with self.jobs.idle(name):
            return self._volumes.rename(name, new)

    def relabel(self, name: str, add: Mapping[str, str], remove: Sequence[str]) -> VolumeRecord:
        """Change labels. Raises NotFound."""
        return self._volumes.relabel(name, add, remove)

    def scrub(self, name: str, *, accept: bool = False) -> JobRecord:
        """Begin to read everything that a volume has, and to tell what is not as it should be.

        With `accept` what is there counts from now on as what should be there. Raises NotFound, Locked, Forbidden.
        """
        _, plan, _ = self._volumes.layout(name)
        for tree in plan.plan.by_kind(SyncedTree):
            assert isinstance(tree, SyncedTree)
            args = {"url": tree.store.url, "options": dict(tree.store.options), "accept": accept}
            return self.jobs.start("scrub", name, args)
        return self.jobs.start("scrub", name, {"how": "content"})

    def usage(self, name: str) -> JobRecord:
        """Begin to measure a volume. Raises NotFound."""
        _, plan, _ = self._volumes.layout(name)
        targets = [r.target for r in plan.plan.resources if isinstance(r, ImageMount | Tmpfs | Mount)]
        own = any(f"{plan.path}/".startswith(f"{target}/") for target in targets)
        return self.jobs.start("usage", name, {"own_filesystem": own})

    def _layout(self, name: str, consistency: str = "") -> tuple[VolumeRecord, Layout]:
        if consistency and consistency not in RANK:
            raise InvalidParameter(f"invalid consistency {consistency!r}", hint=f"One of {', '.join(RANK)}")
        volume, plan, data = self._volumes.layout(name)
        return volume, layout_of(plan, str(data), name)

    def _snapshots(self, name: str) -> Snapshots:
        return Snapshots(self._volumes.layout(name)[2])


class ExportStream:
    """The bytes of an export. Its end is only given when the job says that they are all."""

    def __init__(self, jobs: JobManager, record: JobRecord, pipe: int) -> None:
        self._jobs, self._record, self._pipe = jobs, record, pipe
        self._lock = threading.Lock()

    def read(self, size: int = -1, /) -> bytes:
        """Return at most `size` bytes; empty at the end. Raises why the job failed."""
        data = os.read(self._pipe, _CHUNK if size < 0 else size)
        if not data:
            self._jobs.follow(self._record.id)
        return data

    def close(self) -> None:
        """Give up: the job ends when it writes the next time."""
        with self._lock:
            if self._pipe >= 0:
                os.close(self._pipe)
                self._pipe = -1
        try:
            self._jobs.cancel(self._record.id)
        except EngineError:
            pass  # it has ended


def _pump(source: Readable, write: int) -> None:
    """Copy a stream into a pipe, until its end or until nobody reads any more."""
    while data := source.read(_CHUNK):
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(write, view) :]
            except BrokenPipeError:
                return
