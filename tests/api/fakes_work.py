"""A stand-in for long work on volumes: jobs that end at once, or fail, as they are told."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from engine.api.services.data import Readable
from engine.spec.errors import Conflict, NotFound
from engine.volume.jobs.record import JobRecord
from engine.volume.record import VolumeRecord
from engine.volume.snapshots import Snapshot

CREATED = "2026-01-01T00:00:00Z"
Report = Callable[[Mapping[str, Any]], object]


class FakeJobs:
    """Implements `engine.api.services.volumes.VolumeJobs`."""

    def __init__(self) -> None:
        self.records: dict[str, JobRecord] = {}
        self.steps: list[dict[str, Any]] = []
        self.failure: Exception | None = None

    def add(self, kind: str, name: str, args: Mapping[str, Any], result: Mapping[str, Any]) -> JobRecord:
        if name == "none":
            raise NotFound("get none: no such volume")
        id = f"{len(self.records):012x}"
        record = JobRecord(id=id, volume="1" * 64, name=name, kind=kind, args=args, result=result, created=CREATED)
        self.records[id] = record
        return record

    def get(self, id: str) -> JobRecord:
        if id not in self.records:
            raise NotFound(f"no such job: {id}")
        return self.records[id]

    def cancel(self, id: str) -> JobRecord:
        return self.get(id).with_(state="cancelled")

    def follow(self, id: str, report: Report) -> JobRecord:
        for step in self.steps:
            report(step)
        if self.failure is not None:
            raise self.failure
        return self.get(id).with_(state="done")

    def show_backup_key(self) -> str:
        return "the key"

    def list(self, volume: str = "") -> Sequence[JobRecord]:
        return [r for r in self.records.values() if not volume or r.name == volume]


class FakeVolumeWork:
    """Implements `engine.api.services.volumes.VolumeWork`."""

    def __init__(self) -> None:
        self.jobs = FakeJobs()
        self.received = b""

    def backup(self, name: str, url: str, options: Mapping[str, str], password: str) -> JobRecord:
        args = {"url": url, "options": dict(options), "password": password}
        return self.jobs.add("backup", name, args, {"snapshot": "0123abcd"})

    def restore(
        self, name: str, url: str, options: Mapping[str, str], password: str, *, snapshot: str, of: str, force: bool
    ) -> JobRecord:
        return self.jobs.add("restore", name, {"snapshot": snapshot, "of": of, "force": force}, {"snapshot": snapshot})

    def export(self, name: str) -> Readable:
        self.jobs.add("export", name, {}, {})
        return io.BytesIO(b"a tar")

    def import_(self, name: str, source: Readable) -> JobRecord:
        self.received = source.read()
        return self.jobs.add("import", name, {}, {"bytes": len(self.received)})

    def snapshot(self, name: str, tag: str, consistency: str) -> JobRecord:
        return self.jobs.add("snapshot", name, {"tag": tag, "consistency": consistency}, {"ID": "abc"})

    def snapshots(self, name: str) -> Sequence[Snapshot]:
        return [Snapshot(id="abc", tag="one", created=CREATED, consistency="crash", how="data", bytes=5)]

    def remove_snapshot(self, name: str, ref: str) -> Snapshot:
        if ref != "abc":
            raise NotFound(f"no such snapshot: {ref}")
        return self.snapshots(name)[0]

    def rollback(self, name: str, ref: str) -> JobRecord:
        return self.jobs.add("rollback", name, {"snapshot": ref}, {"kept": "def"})

    def clone(self, name: str, new: str, consistency: str) -> JobRecord:
        return self.jobs.add("clone", name, {"new": new}, {"name": new, "consistency": "crash"})

    def rename(self, name: str, new: str) -> VolumeRecord:
        if new == "taken":
            raise Conflict("the volume name 'taken' is already in use")
        return VolumeRecord(id="1" * 64, name=new, driver="local", created=CREATED)

    def relabel(self, name: str, add: Mapping[str, str], remove: Sequence[str]) -> VolumeRecord:
        return VolumeRecord(id="1" * 64, name=name, driver="local", created=CREATED, labels=add)

    def usage(self, name: str) -> JobRecord:
        return self.jobs.add("usage", name, {}, {"bytes": 5, "limit": None, "files": 1})
