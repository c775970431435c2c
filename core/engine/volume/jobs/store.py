"""The records of jobs, and which job has a volume."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from engine.spec.errors import Conflict, NotFound
from engine.state import State
from engine.volume.jobs.place import Place
from engine.volume.jobs.record import JobRecord

KIND = "volume-job"
_SPACE = "volume-job"


class JobStore:
    """Jobs in the database; each has a directory below `root`. A volume has at most one running job."""

    def __init__(self, state: State, root: Path) -> None:
        self._state, self.root = state, root

    def all(self) -> list[JobRecord]:
        """Return all jobs, the oldest first."""
        return sorted(self._state.read(KIND, JobRecord.model_validate), key=lambda r: r.created)

    def read(self, id: str) -> JobRecord:
        """Return a job. Raises NotFound."""
        doc = self._state.get(KIND, id)
        if doc is None:
            raise NotFound(f"no such job: {id}")
        return JobRecord.model_validate(doc)

    def write(self, record: JobRecord) -> None:
        """Keep a job as it is now."""
        self._state.put(KIND, record.id, record.model_dump(mode="json"))

    def begin(self, record: JobRecord) -> None:
        """Keep a new job, and give it its volume. Raises Conflict if another one has that."""
        with self._state.transaction():
            self._claim(record)
            self.write(record)

    def end(self, record: JobRecord) -> None:
        """Keep a job that has ended, and take its volume from it."""
        with self._state.transaction():
            self.write(record.with_(ended=now(), paused=()))
            self._state.release(record.id, _SPACE)

    def forget(self, record: JobRecord) -> None:
        """Forget a job that has ended."""
        self._state.delete(KIND, record.id)

    @contextmanager
    def idle(self, volume: str, name: str) -> Iterator[None]:
        """Let no job of a volume begin while the block runs. Raises Conflict if one runs."""
        probe = JobRecord(id=f"idle-{secrets.token_hex(6)}", volume=volume, name=name, kind="usage", created=now())
        self._claim(probe)
        try:
            yield
        finally:
            self._state.release(probe.id, _SPACE)

    def release_lost(self) -> None:
        """Free volumes that no job has: of a daemon that was killed inside of `idle`, or whose record is unreadable."""
        self.all()
        for row in self._state.unreadable(KIND):
            self._state.drop_unreadable(KIND, row.id)
        for owner in self._state.claimed(_SPACE).values():
            if self._state.get(KIND, owner) is None:
                self._state.release(owner, _SPACE)

    def place(self, record: JobRecord) -> Place:
        """Return a job's directory."""
        return Place(self.root / record.id)

    def _claim(self, record: JobRecord) -> None:
        try:
            self._state.claim(_SPACE, record.volume, record.id)
        except Conflict as err:
            owner = str(err.details["owner"])
            doc = self._state.get(KIND, owner)
            raise Conflict(
                f"another job works on volume {record.name}", why=f"{doc['kind']} {owner}" if doc else "",
                hint=f"Wait for it, or cancel it: engine volume jobs --cancel {owner}", details={"job": owner},
            ) from err  # fmt: skip


def now() -> str:
    """Return the time, RFC 3339."""
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")
