"""What the API asks of volumes, their keys and the long work on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from engine.api.services.data import Filters, JsonObject, Readable
from engine.spec.trees import TreeStatus
from engine.volume.encryption import NewKey
from engine.volume.jobs.record import JobRecord
from engine.volume.record import VolumeRecord
from engine.volume.snapshots import Snapshot


class Encryption(Protocol):
    """Keys of volumes: what the API uses of `engine.volume.encryption.Encryption`, where the methods are described."""

    def unlock(self, name: str, key: bytes) -> str: ...  # noqa: D102
    def lock(self, name: str) -> None: ...  # noqa: D102
    def slots(self, name: str) -> Sequence[Mapping[str, str]]: ...  # noqa: D102
    def rekey(  # noqa: D102
        self, name: str, new: NewKey | None, remove: str = "", old: bytes | None = None
    ) -> Sequence[Mapping[str, str]]: ...
    def password(self, name: str) -> bytes: ...  # noqa: D102


class VolumeManager(Protocol):
    """Volumes: what the API uses of `engine.volume.manager.VolumeManager`, where the methods are described."""

    @property
    def encryption(self) -> Encryption: ...  # noqa: D102
    def create(  # noqa: D102
        self,
        name: str | None,
        driver: str,
        options: Mapping[str, str] | None,
        labels: Mapping[str, str] | None,
        *,
        key: bytes | None,
    ) -> VolumeRecord: ...
    def users(self, name: str) -> Sequence[str]: ...  # noqa: D102
    def describe(self, record: VolumeRecord) -> JsonObject: ...  # noqa: D102
    def inspect(self, name: str) -> JsonObject: ...  # noqa: D102
    def usage(self, name: str) -> tuple[int, int]: ...  # noqa: D102
    def sync(  # noqa: D102
        self, name: str, seconds: float, progress: Callable[[TreeStatus], object] | None = None
    ) -> int: ...
    def unstorable(self, name: str) -> tuple[int, str]: ...  # noqa: D102
    def remove(self, name: str, force: bool = False) -> None: ...  # noqa: D102
    def prune(self, filters: Filters | None = None) -> tuple[Sequence[str], int]: ...  # noqa: D102
    def list(self, filters: Filters | None = None) -> Sequence[VolumeRecord]: ...  # noqa: D102


class VolumeJobs(Protocol):
    """What the API uses of `engine.volume.jobs.manager.JobManager`, where the methods are described."""

    def get(self, id: str) -> JobRecord: ...  # noqa: D102
    def cancel(self, id: str) -> JobRecord: ...  # noqa: D102
    def follow(self, id: str, report: Callable[[Mapping[str, Any]], object]) -> JobRecord: ...  # noqa: D102
    def show_backup_key(self) -> str: ...  # noqa: D102
    def list(self, volume: str = "") -> Sequence[JobRecord]: ...  # noqa: D102


class VolumeWork(Protocol):
    """What the API uses of `engine.volume.jobs.operations.VolumeWork`, where the methods are described."""

    @property
    def jobs(self) -> VolumeJobs: ...  # noqa: D102
    def backup(self, name: str, url: str, options: Mapping[str, str], password: str) -> JobRecord: ...  # noqa: D102
    def restore(  # noqa: D102
        self, name: str, url: str, options: Mapping[str, str], password: str, *, snapshot: str, of: str, force: bool
    ) -> JobRecord: ...
    def export(self, name: str) -> Readable: ...  # noqa: D102
    def import_(self, name: str, source: Readable) -> JobRecord: ...  # noqa: D102
    def snapshot(self, name: str, tag: str, consistency: str) -> JobRecord: ...  # noqa: D102
    def snapshots(self, name: str) -> Sequence[Snapshot]: ...  # noqa: D102
    def remove_snapshot(self, name: str, ref: str) -> Snapshot: ...  # noqa: D102
    def rollback(self, name: str, ref: str) -> JobRecord: ...  # noqa: D102
    def clone(self, name: str, new: str, consistency: str) -> JobRecord: ...  # noqa: D102
    def rename(self, name: str, new: str) -> VolumeRecord: ...  # noqa: D102
    def relabel(self, name: str, add: Mapping[str, str], remove: Sequence[str]) -> VolumeRecord: ...  # noqa: D102
    def scrub(self, name: str, *, accept: bool) -> JobRecord: ...  # noqa: D102
    def usage(self, name: str) -> JobRecord: ...  # noqa: D102
