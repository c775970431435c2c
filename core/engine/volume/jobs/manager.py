"""Starts jobs, follows them, and ends what they had of their volumes. A job goes on when the daemon does not."""

from __future__ import annotations

import builtins
import logging
import secrets as random_names
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from engine.plugins import Plugins
from engine.spec.errors import Conflict, EngineError, Internal, NotFound
from engine.state import State
from engine.storage.secrets import Secrets
from engine.volume.jobs.credentials import EngineSecrets, JobCredentials
from engine.volume.jobs.place import Place
from engine.volume.jobs.record import KINDS, JobRecord, error_json
from engine.volume.jobs.store import JobStore, now
from engine.volume.manager import VolumeManager
from engine.volume.snapshots import FILES, Snapshots

log = logging.getLogger(__name__)

_ATTEMPTS = 5
"""How often a process that was killed is started again."""
_KEPT = 20
"""Ended jobs of a volume that are remembered."""
_LOOK_SECONDS = 0.1
PAUSE_SECONDS = 10.0
"""For which containers are paused at most."""
Report = Callable[[Mapping[str, Any]], object]


class Containers(Protocol):
    """What jobs need of containers: that those which run stand still for a moment."""

    def running(self, ids: Sequence[str]) -> list[str]:
        """Return those that run and are not paused."""

    def pause(self, ref: str, work: str) -> None:
        """Freeze for the time of some work."""

    def end_pause(self, ref: str, work: str) -> None:
        """Thaw what is paused for that work."""


class JobManager:
    """All jobs of one engine; methods may be called from any thread. `root` holds a directory for each job."""

    def __init__(
        self,
        state: State,
        volumes: VolumeManager,
        plugins: Plugins,
        secrets: EngineSecrets,
        containers: Containers,
        root: Path,
        reader: Secrets | None = None,
    ) -> None:
        """Take the parts; `reader` also reads the keys of volumes."""
        self._volumes, self._containers = volumes, containers
        self._store = JobStore(state, root)
        self._credentials = JobCredentials(plugins, secrets, reader)
        self._lock = threading.RLock()
        self._stopping = threading.Event()
        self._watchers: dict[str, threading.Thread] = {}
        self._followed: Counter[str] = Counter()
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        """Processes that this daemon started: to be waited for, so that nothing is left of them."""

    # Asking

    def get(self, id: str) -> JobRecord:
        """Return a job by its id or a unique beginning of it. Raises NotFound."""
        found = [r for r in self._store.all() if id and r.id.startswith(id)]
        if len(found) != 1:
            raise NotFound(f"no such job: {id}", hint="`engine volume jobs` lists them")
        return self._current(found[0])

    def list(self, volume: str = "") -> list[JobRecord]:
        """Return the jobs of a volume, or of all that there are, the oldest first. Raises NotFound for the volume."""
        id = self._volumes.get(volume).id if volume else ""
        self._forget_gone()
        return [self._current(r) for r in self._store.all() if not id or r.volume == id]

    def cancel(self, id: str) -> JobRecord:
        """Ask a job to give up. Raises NotFound, Conflict if it has ended."""
        record = self.get(id)
        if record.state != "running":
            raise Conflict(f"job {record.id} has ended: {record.state}")
        self._store.place(record).cancel()
        return record

    def follow(self, id: str, report: Report = lambda progress: None) -> JobRecord:
        """Wait for the end of a job, hand each new step to `report`, and return the job as it ended.

        What `report` raises passes through; the job goes on. Raises why the job failed, Conflict if it was cancelled.
        """
        with self._lock:
            self._followed[id] += 1
        try:
            record = self._until_state(id, report)
        finally:
            with self._lock:
                self._followed[id] -= 1
        if record.state == "cancelled":
            raise Conflict(f"{record.kind} of volume {record.name} was cancelled")
        if record.state == "failed":
            raise record.failure()
        return record

    def _until_state(self, id: str, report: Report) -> JobRecord:
        last: Mapping[str, Any] = {}
        while True:
            record = self._store.read(id)
            progress = self._store.place(record).progress() if record.state == "running" else record.progress
            if progress != last:
                last = progress
                report(progress)
            if record.state != "running":
                return record
            if self._stopping.wait(_LOOK_SECONDS):
                raise Conflict("the engine stops; the job goes on", hint=f"See: engine volume jobs {record.name}")

    def users(self) -> builtins.list[str]:
        """Return the names under which running jobs use volumes: a restart keeps what they have mounted."""
        return [r.user for r in self._store.all() if r.state == "running"]

    @contextmanager
    def idle(self, volume: str) -> Iterator[None]:
        """Let no job of a volume begin while the block runs. Raises NotFound, Conflict if one runs."""
        with self._store.idle(self._volumes.get(volume).id, volume):
            yield

    # Starting

    def start(
        self,
        kind: str,
        volume: str,
        args: Mapping[str, Any],
        *,
        pause: bool = False,
        stdin: int | None = None,
        stdout: int | None = None,
    ) -> JobRecord:
        """Begin a job: everything that can be refused is refused here. `args` name secrets by reference.

        Raises NotFound, Conflict (another job has the volume, or it is in use), and what mounting raises.
        """
        found = self._volumes.get(volume)
        self._forget_gone()
        record = JobRecord(
            id=random_names.token_hex(6), volume=found.id, name=volume, kind=kind, args=dict(args),
            created=now(), attempts=1,
        )  # fmt: skip
        self._store.begin(record)
        try:
            self._take(record)
            if pause:
                record = self._with_paused(record)
                for id in record.paused:
                    self._containers.pause(id, record.user)
            self._launch(record, self._credentials.of(record.args), stdin, stdout)
        except BaseException as err:
            failure = err if isinstance(err, EngineError) else Internal("the job was not started", why=str(err))
            self._settle(record.with_(state="failed", error=error_json(failure)))
            self._store.forget(record)
            raise
        self._watch(record)
        return record

    def _take(self, record: JobRecord) -> None:
        """Take what the job needs of its volume; once more is no error."""
        kind = KINDS[record.kind]
        content = kind.content or record.args.get("how") == "content"
        if kind.exclusive or not content:
            self._volumes.hold(record.name, record.user, alone=kind.exclusive)
        self._volumes.reference(record.name, record.user)
        if content:
            self._volumes.mount(record.name, record.user)

    def _with_paused(self, record: JobRecord) -> JobRecord:
        """Write down which containers have the volume mounted, and are to be paused: whatever fails thaws them."""
        users = self._volumes.get(record.name).mounts
        record = record.with_(paused=tuple(self._containers.running([u for u in users if u != record.user])))
        self._store.write(record)
        return record

    def _launch(
        self, record: JobRecord, secrets: Mapping[str, str], stdin: int | None = None, stdout: int | None = None
    ) -> None:
        volume, plan, data = self._volumes.layout(record.name)
        users = [u for u in volume.mounts if u != record.user]
        args = {**record.args, "paused": bool(record.paused), "users": users, "cache": str(self._store.root / "cache")}
        config = {
            "id": record.id, "name": record.name, "kind": record.kind, "attempts": record.attempts, "args": args,
            "data": str(data), "path": plan.path, "secrets": secrets,
        }  # fmt: skip
        self._children[record.id] = self._store.place(record).start(config, stdin=stdin, stdout=stdout)

    def backup_key(self) -> str:
        """Return the reference of the engine's own key for repositories. See `JobCredentials.backup_key`."""
        return self._credentials.backup_key()

    def show_backup_key(self) -> str:
        """Return the engine's own key: what a stock restic asks for. Raises NotFound if there is none."""
        return self._credentials.show_backup_key()

    # Ending

    def _watch(self, record: JobRecord) -> None:
        thread = threading.Thread(target=self._until_ended, args=(record.id,), name=f"job-{record.id}", daemon=True)
        with self._lock:
            self._watchers[record.id] = thread
        thread.start()

    def _until_ended(self, id: str) -> None:
        try:
            record = self._store.read(id)
            thaw_at = time.monotonic() + PAUSE_SECONDS
            while True:
                while self._store.place(record).alive():
                    if record.paused and time.monotonic() > thaw_at:
                        record = self._too_long(record)
                    if self._stopping.wait(_LOOK_SECONDS):
                        return
                child = self._children.pop(id, None)
                if child is not None:
                    child.wait()  # it has let go of its lock
                again = self._conclude(record)
                if again is None:
                    return
                record = again
        except Exception:
            log.exception("job %s cannot be followed; the next start of the engine goes on with it", id)
        finally:
            with self._lock:
                self._watchers.pop(id, None)

    def _too_long(self, record: JobRecord) -> JobRecord:
        """Let containers go on: the copy is then no point in time, and is given up."""
        self._store.place(record).cancel()
        why = f"its containers were paused for {PAUSE_SECONDS:g} s, and that was not enough"
        error = {"kind": "unavailable", "what": f"volume {record.name} cannot be copied while paused", "why": why}
        return self._unpause(record.with_(error=error))

    def _unpause(self, record: JobRecord) -> JobRecord:
        """Let containers go on, and write that down."""
        self._thaw(record)
        record = record.with_(paused=())
        self._store.write(record)
        return record

    def _thaw(self, record: JobRecord) -> None:
        for id in record.paused:
            try:
                self._containers.end_pause(id, record.user)
            except NotFound as err:  # it was removed
                log.info("job %s: %s", record.id, err)
            except EngineError as err:  # the others are to go on nevertheless
                log.warning("job %s: %s", record.id, err)

    def _conclude(self, record: JobRecord) -> JobRecord | None:
        """End a job whose process has ended; return it if it was started again."""
        place = self._store.place(record)
        outcome = place.outcome()
        if outcome is None and KINDS[record.kind].again and record.attempts < _ATTEMPTS:
            try:
                return self._start_again(record)
            except EngineError as err:
                outcome = {"state": "failed", "error": error_json(err)}
        if outcome is None:
            what = f"the process of job {record.id} ({record.kind} of volume {record.name}) was killed"
            error = error_json(Internal(what, why=place.log().rpartition("\n")[2]))
            outcome = {"state": "cancelled" if place.is_cancelled() else "failed", "error": error}
        if outcome["state"] == "done":
            outcome = self._complete(record, outcome)
        failed = outcome["state"] == "failed" or record.error is not None
        self._settle(
            record.with_(
                state="failed" if failed else outcome["state"], error=record.error or outcome.get("error"),
                result=outcome.get("result") or {}, progress=place.progress(),
            )
        )  # fmt: skip
        if outcome["state"] != "done" and record.args.get("made"):
            self._remove_made(record)
        return None

    def _remove_made(self, record: JobRecord) -> None:
        """Remove the volume that was made for what then failed."""
        try:
            self._volumes.remove(record.name)
        except EngineError as err:
            log.warning("job %s: %s", record.id, err)

    def _start_again(self, record: JobRecord) -> JobRecord:
        if record.paused:  # they run by now, or will: the copy starts anew and says so
            record = self._unpause(record)
        record = record.with_(attempts=record.attempts + 1)
        self._store.write(record)
        log.warning("job %s (%s of volume %s) was killed, and is started again", record.id, record.kind, record.name)
        self._take(record)
        self._launch(record, self._credentials.of(record.args))
        return record

    def _complete(self, record: JobRecord, outcome: dict[str, Any]) -> dict[str, Any]:
        """Do the daemon's part of the end: a clone becomes a volume. Once more is no error."""
        if record.kind != "clone":
            return outcome
        source, _, data = self._volumes.layout(record.name)
        snapshots, name = Snapshots(data), f"clone-{record.id}"
        try:
            made = self._volumes.adopt(source, record.args["id"], record.args["new"], snapshots.staged(name) / FILES)
        except EngineError as err:
            outcome = {"state": "failed", "error": error_json(err)}
        else:
            outcome = {**outcome, "result": {**outcome["result"], "name": made.name}}
        snapshots.clear(name)
        return outcome

    def _settle(self, record: JobRecord) -> None:
        """Give back what a job has, and write down how it ended."""
        self._thaw(record)
        try:
            self._volumes.unmount(record.name, record.user)
        except NotFound:
            pass
        except EngineError as err:  # the manager tries again
            log.warning("job %s: %s", record.id, err)
        self._volumes.dereference(record.name, record.user)
        self._volumes.let_go(record.volume, record.user)
        self._store.end(record)
        self._store.place(record).remove()
        for old in [r for r in self._store.all() if r.volume == record.volume and r.state != "running"][:-_KEPT]:
            self._store.forget(old)

    # Restarting

    def restore(self) -> None:
        """Go on with the jobs of an earlier daemon: follow those that run, end or start again the others."""
        self._store.release_lost()
        for record in self._store.all():
            if record.state != "running":
                continue
            if record.attempts and not self._store.place(record).path.exists():  # killed before its process was started
                error = error_json(Internal(f"the engine was killed while it started job {record.id}"))
                self._settle(record.with_(state="failed", error=error))
                continue
            self._watch(record)
        known = {r.id for r in self._store.all()}
        if self._store.root.exists():
            for place in self._store.root.iterdir():
                if place.name != "cache" and place.name not in known:
                    Place(place).remove()

    def close(self) -> None:
        """Stop following; the jobs go on."""
        self._stopping.set()
        with self._lock:
            watchers = list(self._watchers.values())
        for watcher in watchers:
            watcher.join(5)

    # Records

    def _current(self, record: JobRecord) -> JobRecord:
        return record.with_(progress=self._store.place(record).progress()) if record.state == "running" else record

    def _forget_gone(self) -> None:
        """Forget ended jobs of volumes that are gone, unless somebody still waits for the answer."""
        there = {volume.id for volume in self._volumes.list()}
        with self._lock:
            for record in self._store.all():
                if record.volume not in there and record.state != "running" and not self._followed[record.id]:
                    self._store.forget(record)
