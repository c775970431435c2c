"""snapshot, clone and rollback: copies of a volume on its own file system."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from engine.durable import sync_file_system
from engine.reconcile import loops, mountapi, mountinfo
from engine.reconcile.freezing import Late, frozen, thaw
from engine.reconcile.renaming import exchange
from engine.spec.errors import ApplyFailed, Conflict, Unavailable, Unsupported
from engine.volume.copying import TreeCopy, copy_content, share_content
from engine.volume.jobs.content import empty
from engine.volume.jobs.layout import Part, parts_of
from engine.volume.jobs.work import Work
from engine.volume.measuring import occupied
from engine.volume.snapshots import CONTENT, FILES, RANK, Consistency, Snapshot, Snapshots

FREEZE_SECONDS = 2.0
"""For sharing the blocks of an image, which takes milliseconds."""
COPY_SECONDS = 10.0
"""For copying an image whose blocks cannot be shared; its containers cannot write meanwhile."""
_PROGRAM_SECONDS = 120.0


class _Meter:
    """Counts what is copied, and tells it."""

    def __init__(self, work: Work, step: str) -> None:
        self._work, self._step = work, step
        self.bytes = 0
        work.tell(step)

    def __call__(self, count: int) -> None:
        self.bytes += count
        self._work.tell(self._step, self.bytes)


def run_snapshot(work: Work) -> dict[str, Any]:
    """Copy the volume's data as it is now into a new snapshot."""
    snapshots = Snapshots(work.data)
    done = [s for s in snapshots.list() if s.id == work.args["id"]]
    if done:  # the process died after its last step
        return done[0].describe()
    return _take(work, snapshots, work.args["id"], work.args["tag"]).describe()


def _take(work: Work, snapshots: Snapshots, id: str, tag: str) -> Snapshot:
    staged = snapshots.staging(id)
    meter = _Meter(work, "Copying")
    try:
        consistency = _copy_volume(work, staged / FILES, meter)
        _enough(work, consistency)
    except BaseException:
        snapshots.clear(id)
        raise
    snapshot = Snapshot(
        id=id, tag=tag, created=_now(), consistency=consistency, how=work.args["how"], bytes=meter.bytes
    )
    _sync(staged)
    snapshots.publish(staged, snapshot)
    return snapshot


def _enough(work: Work, consistency: Consistency) -> None:
    wanted = work.args.get("consistency", "")
    if wanted and RANK[consistency] < RANK[wanted]:
        raise Conflict(
            f"volume {work.volume} cannot be copied with consistency {wanted}", why=f"the copy would be {consistency}",
            hint="Stop the containers that use it, or pause them for the time: --consistency paused",
        )  # fmt: skip


def _copy_volume(work: Work, into: Path, meter: _Meter) -> Consistency:
    """Copy all of a volume's data; return the worst consistency of its parts."""
    into.mkdir(mode=0o700)
    if work.args["how"] == "content":
        (into / CONTENT).mkdir()
        TreeCopy(copied=meter).copy(work.path, into / CONTENT)
        return "paused" if work.args["paused"] else "fuzzy" if work.args["users"] else "crash"
    found: list[Consistency] = [_copy_part(work, part, into, meter) for part in parts_of(work.args)]
    return min(found, key=lambda c: RANK[c])


def _copy_part(work: Work, part: Part, into: Path, meter: _Meter) -> Consistency:
    source, target = work.data / part.path, into / part.path
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if source.is_dir():
        target.mkdir()
        TreeCopy(copied=meter).copy(source, target)
        return "paused" if work.args["paused"] else "fuzzy" if work.args["users"] else "crash"
    if part.fs and part.target and _is_mounted(part.target):
        _copy_mounted_image(work, source, target, Path(part.target), meter)
        return "paused" if work.args["paused"] else "crash"
    _copy_file(source, target, meter)
    return "paused" if work.args["paused"] else "crash"


def _is_mounted(target: str) -> bool:
    return any(mount.target == target for mount in mountinfo.read())


def _copy_mounted_image(work: Work, source: Path, target: Path, mounted: Path, meter: _Meter) -> None:
    """Copy an image while its file system stands still."""
    if work.attempt > 1:
        thaw(mounted)
    seconds = FREEZE_SECONDS if _shares(source, target) else COPY_SECONDS
    try:
        with frozen(mounted, seconds):
            _copy_file(source, target, meter)
    except Late as err:
        target.unlink(missing_ok=True)
        raise Unavailable(
            f"volume {work.volume} is too large to be copied while it is used",
            why=f"its file system stood still for {seconds:g} s, and that was not enough",
            hint="Stop its containers, or keep the data root on xfs or btrfs, which share blocks",
        ) from err


def _shares(source: Path, target: Path) -> bool:
    """Find out whether the file system shares blocks, with an empty file."""
    trial = target.with_name(f"{target.name}.trial")
    try:
        with source.open("rb") as read, trial.open("xb") as write:
            return share_content(read.fileno(), write.fileno())
    finally:
        trial.unlink(missing_ok=True)


def _copy_file(source: Path, target: Path, meter: _Meter) -> None:
    target.unlink(missing_ok=True)
    facts = source.stat()
    with source.open("rb") as read, target.open("xb") as write:
        os.fchmod(write.fileno(), facts.st_mode & 0o7777)
        os.fchown(write.fileno(), facts.st_uid, facts.st_gid)
        copy_content(read.fileno(), write.fileno(), facts.st_size, meter)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sync_file_system(descriptor)
    finally:
        os.close(descriptor)


def _now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


# Clone


def run_clone(work: Work) -> dict[str, Any]:
    """Copy the volume's data to where the daemon makes a volume of it."""
    snapshots = Snapshots(work.data)
    staged = snapshots.staging(f"clone-{work.id}")
    meter = _Meter(work, "Copying")
    try:
        consistency = _copy_volume(work, staged / FILES, meter)
        _enough(work, consistency)
        for part in parts_of(work.args):
            if part.fs:
                work.tell("Giving the file system an identity of its own")
                _renew_identity(staged / FILES / part.path, part.fs)
    except BaseException:
        snapshots.clear(f"clone-{work.id}")
        raise
    (staged / FILES).chmod(0o711)  # as directories of volumes are
    _sync(staged)
    return {"consistency": consistency, "bytes": meter.bytes}


def _renew_identity(image: Path, fs: str) -> None:
    """Give a copied file system another UUID: xfs and btrfs refuse two of one; ext4 is told apart by its device."""
    programs = {"xfs": ("xfs_admin", "-U", "generate"), "btrfs": ("btrfstune", "-f", "-m")}
    if fs not in programs:
        return
    _replay(image, fs)
    program, *arguments = programs[fs]
    path = shutil.which(program, path="/usr/sbin:/sbin:/usr/bin:/bin")
    if path is None:
        raise Unsupported(f"{program} is not installed", hint=f"Install the package {fs}progs or {fs}-progs")
    done = subprocess.run(
        [path, *arguments, str(image)], stdin=subprocess.DEVNULL, capture_output=True, timeout=_PROGRAM_SECONDS
    )
    if done.returncode:
        raise ApplyFailed(f"{program} failed", why=(done.stderr or done.stdout).decode(errors="replace").strip()[-500:])


def _replay(image: Path, fs: str) -> None:
    """Mount an image where nobody sees it, so that its log is empty afterwards."""
    with image.open("r+b") as file:
        device, keep = loops.attach(file.fileno())
    try:
        parameters: list[tuple[str, str | None]] = [("source", device), *([("nouuid", None)] if fs == "xfs" else [])]
        os.close(mountapi.filesystem(fs, parameters))
    finally:
        os.close(keep)
    _wait_detached(image)


def _wait_detached(image: Path, seconds: float = 10.0) -> None:
    """The kernel lets go of an image a moment after its last user."""
    facts, deadline = image.stat(), time.monotonic() + seconds
    while any((a.backing_device, a.backing_inode) == (facts.st_dev, facts.st_ino) for a in loops.attached()):
        if time.monotonic() > deadline:
            raise ApplyFailed(f"{image} stays attached to a loop device")
        time.sleep(0.02)


# Rollback


def run_rollback(work: Work) -> dict[str, Any]:
    """Let a snapshot be the volume's data again; what the data was becomes a snapshot itself."""
    snapshots = Snapshots(work.data)
    kept = {"kept": work.args["id"], "snapshot": work.args["snapshot"]}
    if any(s.id == work.args["id"] for s in snapshots.list()) and work.args["how"] == "data":
        return kept  # the process died after its last step
    if work.args["how"] == "content":
        _rewrite_content(work, snapshots)
    else:
        _exchange_data(work, snapshots)
    return kept


def _exchange_data(work: Work, snapshots: Snapshots) -> None:
    """Copy the snapshot beside the data, and let both change places. A next start goes on where this one ends."""
    parts, name = parts_of(work.args), f"rollback-{work.id}"
    inodes = work.place.checkpoint().get("inodes")
    if inodes is None:
        staged = snapshots.staging(name)
        meter = _Meter(work, "Copying the snapshot")
        (staged / FILES).mkdir(mode=0o700)
        for part in parts:
            _copy_back(snapshots.files(work.args["snapshot"]) / part.path, staged / FILES / part.path, meter)
        _sync(staged)
        inodes = {part.path: (staged / FILES / part.path).stat().st_ino for part in parts}
        work.place.keep({"inodes": inodes})
    staged = snapshots.staged(name)
    with _uninterrupted():
        for part in parts:
            live, copy = work.data / part.path, staged / FILES / part.path
            if live.stat().st_ino != inodes[part.path]:
                exchange(copy, live)
        size = occupied(staged / FILES).bytes
        old = Snapshot(
            id=work.args["id"], tag=work.args["tag"], created=_now(), consistency="crash", how="data", bytes=size
        )
        snapshots.publish(staged, old)


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Take no cancellation: half of the data would be exchanged."""
    import signal

    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _copy_back(source: Path, target: Path, meter: _Meter) -> None:
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if source.is_dir():
        target.mkdir()
        TreeCopy(copied=meter).copy(source, target)
    else:
        _copy_file(source, target, meter)


def _rewrite_content(work: Work, snapshots: Snapshots) -> None:
    """Keep the content as a snapshot, then write the other one over it: what is elsewhere cannot be exchanged."""
    if not any(s.id == work.args["id"] for s in snapshots.list()):
        _take(work, snapshots, work.args["id"], work.args["tag"])
    empty(work.path)
    TreeCopy(copied=_Meter(work, "Copying the snapshot")).copy(
        snapshots.files(work.args["snapshot"]) / CONTENT, work.path
    )
    _sync(work.path)
