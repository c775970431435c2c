"""backup and restore: snapshots of restic in any store."""

from __future__ import annotations

import ctypes
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from engine.plugins import Plugins
from engine.spec.errors import ApplyFailed, Conflict, NotFound
from engine.storage.stores import Stores
from engine.treewalk import walk
from engine.volume.jobs.content import empty, is_full
from engine.volume.jobs.restic import Message, Repository, repository
from engine.volume.jobs.work import Work
from engine.volume.populate import is_empty

_HOST = "engine"
"""restic's name of the host: a volume is the same one wherever it is restored."""
_PARTIAL = 3
"""restic's exit code: the snapshot is there, and some files could not be read."""
_NAMED = 20
"""Files that could not be read which the result names."""
_PUNCH, _KEEP_SIZE = 2, 1
_BLOCK, _WORTH = 1 << 16, 1 << 20


@contextmanager
def _opened(work: Work) -> Iterator[Repository]:
    stores = Stores(Plugins())
    plan = stores.plan(work.args["url"], work.args["options"])
    password = work.secrets.read(work.args["password"]).rstrip(b"\r\n")
    store = stores.open(plan, work.secrets)
    try:
        with repository(work, store, password, Path(work.args["cache"])) as found:
            yield found
    finally:
        store.close()


def run_backup(work: Work) -> dict[str, Any]:
    """Add a snapshot of the content to a repository, which is made if there is none."""
    work.tell("Opening the repository")
    with _opened(work) as repo:
        if not repo.exists():
            plan = Stores(Plugins()).plan(work.args["url"], work.args["options"])
            plan.require("writable", "durable")
            work.tell("Making the repository")
            repo.initialise()
        done = repo.snapshots("--tag", f"job:{work.id}") if work.attempt > 1 else []
        if done:  # it died after its last step
            return {"snapshot": done[0]["short_id"], "url": work.args["url"]}
        return _back_up(work, repo)


def _back_up(work: Work, repo: Repository) -> dict[str, Any]:
    facts = work.path.stat()
    tags = (f"volume:{work.volume}", f"job:{work.id}", root_tag(facts))
    summary: Message = {}
    unread: list[str] = []

    def each(message: Message) -> None:
        if message.get("message_type") == "status":
            work.tell("Backing up", int(message.get("bytes_done", 0)), message.get("total_bytes"))
        elif message.get("message_type") == "summary":
            summary.update(message)
        elif message.get("message_type") == "error":
            unread.append(str(message.get("item") or message.get("error")))

    arguments = [part for tag in tags for part in ("--tag", tag)]
    repo.run("backup", ".", "--host", _HOST, *arguments, directory=work.path, accept=(0, _PARTIAL), each=each)
    return {
        "snapshot": summary["snapshot_id"], "url": work.args["url"], "files": summary["total_files_processed"],
        "bytes": summary["total_bytes_processed"], "added": summary["data_added"],
        "unread": unread[:_NAMED],
        "new": summary["files_new"], "changed": summary["files_changed"], "unchanged": summary["files_unmodified"],
    }  # fmt: skip


def root_tag(facts: os.stat_result) -> str:
    """Return the tag that keeps mode and owner of the volume's own directory, which is no member of the snapshot."""
    return f"root:{stat.S_IMODE(facts.st_mode):o}:{facts.st_uid}:{facts.st_gid}"


def run_restore(work: Work) -> dict[str, Any]:
    """Fill the volume from a snapshot. All is checked before anything of the volume is touched."""
    work.tell("Opening the repository")
    with _opened(work) as repo:
        if not repo.exists():
            raise NotFound(f"there is no repository at {work.args['url']}")
        snapshot = find_snapshot(repo.snapshots(), work.args["snapshot"], work.args["of"])
        begun = work.place.checkpoint().get("snapshot") == snapshot["id"]
        if not begun and not is_empty(work.path):
            if not work.args["force"]:
                raise Conflict(
                    f"volume {work.volume} is not empty",
                    hint="Restore into a new volume, or replace its content with --force",
                )
            work.tell("Emptying the volume")
        work.place.keep({"snapshot": snapshot["id"]})
        empty(work.path)
        before = repo.transferred
        _restore(work, repo, snapshot, before)
    _finish_root(work.path, snapshot)
    files, size = _make_sparse(work)
    return {"snapshot": snapshot["short_id"], "time": snapshot["time"], "files": files, "bytes": size}


def _restore(work: Work, repo: Repository, snapshot: Message, before: int) -> None:
    try:
        repo.run(
            "restore", snapshot["id"], "--target", str(work.path),
            turn=lambda: work.tell("Restoring", repo.transferred - before),
        )  # fmt: skip
    except ApplyFailed as err:
        if is_full(work.path):
            raise ApplyFailed(
                f"volume {work.volume} cannot be restored", why="its disk is full",
                hint="What was restored is incomplete. Make the volume larger, and restore again with --force",
            ) from err  # fmt: skip
        raise


def find_snapshot(snapshots: list[Message], wanted: str, volume: str) -> Message:
    """Return the snapshot of an id or its beginning; without one, the newest of the volume. Raises NotFound."""
    if wanted:
        found = [s for s in snapshots if s["id"].startswith(wanted.lower())]
        if len(found) != 1:
            why = "more than one begins like that" if found else "the repository has none of that id"
            known = ", ".join(s["short_id"] for s in snapshots[-5:])
            hint = f"The last ones are {known}" if known else "It has no snapshots"
            raise NotFound(f"no such snapshot: {wanted}", why=why, hint=hint)
        return found[0]
    found = [s for s in snapshots if not volume or f"volume:{volume}" in (s.get("tags") or ())]
    if not found:
        others = sorted({t[7:] for s in snapshots for t in s.get("tags") or () if t.startswith("volume:")})
        raise NotFound(
            f"the repository has no snapshot of volume {volume}",
            hint=f"It has some of {', '.join(others)}: name it with --of" if others else "Name one with --snapshot",
        )
    return max(found, key=lambda s: str(s["time"]))


def _finish_root(path: Path, snapshot: Message) -> None:
    """Give the volume's own directory the mode and owner that it had."""
    for tag in snapshot.get("tags") or ():
        if tag.startswith("root:"):
            mode, uid, gid = tag.split(":")[1:]
            os.chown(path, int(uid), int(gid))
            path.chmod(int(mode, 8))


def _make_sparse(work: Work) -> tuple[int, int]:
    """Give back the blocks of zeroes, which restic 0.14 writes out; return number and bytes of all regular files."""
    files = size = 0
    root = os.open(work.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for entry in walk(root):
            facts = entry.facts
            if not stat.S_ISREG(facts.st_mode):
                continue
            files, size = files + 1, size + facts.st_size
            if facts.st_size >= _WORTH and facts.st_blocks * 512 >= facts.st_size:
                work.tell("Looking for holes", files, None, "files")
                _dig(entry.name, entry.parent, facts)
    finally:
        os.close(root)
    return files, size


def _dig(name: str, directory: int, facts: os.stat_result) -> None:
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(name, flags, dir_fd=directory)
    try:
        zero = bytes(_BLOCK)
        for start in range(0, facts.st_size, _BLOCK):
            data = os.pread(descriptor, _BLOCK, start)
            if data == zero[: len(data)] and not _punch(descriptor, start, len(data)):
                break
        os.utime(descriptor, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    finally:
        os.close(descriptor)


def _punch(descriptor: int, start: int, length: int) -> bool:
    """Make a hole; False where the file system has none: the file stays as it is."""
    libc = ctypes.CDLL(None, use_errno=True)
    done: int = libc.fallocate(descriptor, _PUNCH | _KEEP_SIZE, ctypes.c_int64(start), ctypes.c_int64(length))
    return done == 0
