"""Jobs, layouts and snapshots without a process or a mount."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.deep import nest

from engine.spec.encryption import EncryptedDirectory, FscryptKey, GocryptMount, GocryptStore, KeySlots
from engine.spec.errors import (
    Conflict,
    EngineError,
    Forbidden,
    Internal,
    InvalidParameter,
    NotFound,
    Unavailable,
    Unsupported,
)
from engine.spec.mounts import Bind, Directory, Image, ImageMount, Tmpfs
from engine.spec.resource import Plan, Resource
from engine.spec.storage import Stat, StorageCaps, Store
from engine.spec.trees import StoreSpec, SyncedTree
from engine.spec.volume import VolumePlan
from engine.treewalk import remove_tree
from engine.volume import views
from engine.volume.copying import TreeCopy
from engine.volume.jobs import bridge
from engine.volume.jobs.backup import find_snapshot, root_tag
from engine.volume.jobs.layout import layout_of, parts_of
from engine.volume.jobs.place import Place
from engine.volume.jobs.record import JobRecord, error_json, error_of
from engine.volume.jobs.scrub import run_scrub
from engine.volume.jobs.work import Work
from engine.volume.measuring import occupied
from engine.volume.record import VolumeRecord
from engine.volume.snapshots import Snapshot, Snapshots
from engine.volume.views import prune_filter

D, R = "/d/volumes/1", "/r/vol/1"
SLOTS = f"{D}/keyslots.json"


def plan(path: str, *resources: Resource) -> VolumePlan:
    return VolumePlan(plan=Plan.of(*resources), path=path)


def test_data_at_rest_is_copied_as_it_lies() -> None:
    found = layout_of(plan(f"{D}/_data", Directory(path=f"{D}/_data")), D, "v")
    assert (found.how, [p.path for p in found.parts]) == ("data", ["_data"])
    image = Image(path=f"{D}/disk.img", size=1 << 24, fs="xfs")
    mount = ImageMount(target=f"{R}/fs", image=image.path, fs="xfs")
    found = layout_of(plan(f"{R}/fs", image, mount), D, "v")
    assert found.parts == (("disk.img", "xfs", f"{R}/fs", False),)
    assert parts_of(found.as_json()) == list(found.parts)


def test_what_is_elsewhere_is_copied_as_content() -> None:
    for resource in (Tmpfs(target=f"{R}/fs"), Bind(target=f"{R}/fs", source="/srv")):
        assert layout_of(plan(f"{R}/fs", resource), D, "v").how == "content"


def tree(url: str) -> SyncedTree:
    return SyncedTree(path=f"{D}/cache", journal=f"{D}/journal.db", store=StoreSpec(url=url), run=f"{R}/helper")


def test_encrypted_data_is_copied_encrypted_or_not_at_all() -> None:
    slots = KeySlots(path=SLOTS, source="env:KEY")
    store = GocryptStore(path=f"{D}/enc", slots=SLOTS)
    shown = GocryptMount(target=f"{R}/fs", store=store.path, slots=SLOTS)
    found = layout_of(plan(f"{R}/fs", slots, store, shown), D, "v")
    assert [p.path for p in found.parts] == ["keyslots.json", "enc"]
    assert [p.path for p in found.without_keys().parts] == ["enc"]  # a changed passphrase stays changed
    image, mount = Image(path=f"{D}/disk.img", size=1 << 24), ImageMount(target=f"{R}/disk", image=f"{D}/disk.img")
    inside = EncryptedDirectory(path=f"{R}/disk/_data", slots=SLOTS)
    key = FscryptKey(path=f"{R}/disk", slots=SLOTS)
    found = layout_of(plan(inside.path, slots, image, mount, key, inside), D, "v")
    assert {p.path for p in found.parts} == {"keyslots.json", "disk.img"}
    direct = EncryptedDirectory(path=f"{D}/_data", slots=SLOTS)
    with pytest.raises(Unsupported, match="plain"):
        layout_of(plan(direct.path, slots, FscryptKey(path=D, slots=SLOTS), direct), D, "v")
    cache = Directory(path=f"{D}/cache")
    assert layout_of(plan(cache.path, cache, tree("s3://b/p")), D, "v").how == "content"
    with pytest.raises(Unsupported, match="plain"):
        layout_of(plan(cache.path, cache, tree("crypt::s3://b/p")), D, "v")


def test_snapshots(tmp_path: Path) -> None:
    snapshots = Snapshots(tmp_path)
    assert snapshots.list() == []
    for id, tag, created in (("aab" * 4, "two", "2026-01-02"), ("aac" * 4, "", "2026-01-01")):
        staged = snapshots.staging(id)
        (staged / "files").mkdir()
        snapshots.publish(staged, Snapshot(id=id, tag=tag, created=created, consistency="crash", how="data"))
    assert [s.tag for s in snapshots.list()] == ["", "two"]
    assert snapshots.get("aacaac").id == "aac" * 4
    for ref in ("aa", "", "three"):
        with pytest.raises(NotFound):
            snapshots.get(ref)
    with pytest.raises(Conflict):
        snapshots.check_free("two")
    with pytest.raises(InvalidParameter):
        snapshots.check_free("-x")
    snapshots.remove("two")
    assert [s.id for s in snapshots.list()] == ["aac" * 4]


def test_an_error_travels_as_parts() -> None:
    for kind in (Forbidden, NotFound, Unavailable, Internal):
        error = kind("what", why="why", hint="hint", driver="d")
        again = error_of(error_json(error))
        assert type(again) is kind
        assert str(again) == str(error)
    assert isinstance(error_of({"kind": "of another version", "what": "x"}), Internal)
    record = JobRecord(id="1", volume="2", name="v", kind="backup", state="failed", created="", error={"what": "x"})
    assert record.describe()["Error"] == "x"
    assert isinstance(record.failure(), EngineError)


def test_a_jobs_directory(tmp_path: Path) -> None:
    place = Place(tmp_path / "job")
    assert not place.alive()
    assert place.outcome() is None
    place.path.mkdir()
    assert not place.alive()
    assert (place.progress(), place.checkpoint(), place.log()) == ({}, {}, "")
    place.tell({"step": "x"})
    place.keep({"n": 1})
    place.end({"state": "done"})
    assert (place.progress(), place.checkpoint(), place.outcome()) == ({"step": "x"}, {"n": 1}, {"state": "done"})
    assert not place.is_cancelled()
    place.cancel()
    assert place.is_cancelled()
    place.remove()
    assert not place.path.exists()


def test_which_snapshot() -> None:
    known = [
        {"id": "aa11", "short_id": "aa", "time": "2026-01-01", "tags": ["volume:v"]},
        {"id": "ab22", "short_id": "ab", "time": "2026-01-03", "tags": ["volume:v"]},
        {"id": "cc33", "short_id": "cc", "time": "2026-01-04", "tags": None},
    ]
    assert find_snapshot(known, "", "v")["id"] == "ab22"
    assert find_snapshot(known, "CC", "v")["id"] == "cc33"
    for wanted, volume, words in (("a", "v", "more than one"), ("dd", "v", "none of that id"), ("", "w", "some of v")):
        with pytest.raises(NotFound, match=words):
            find_snapshot(known, wanted, volume)


def test_the_root_is_kept_in_a_tag(tmp_path: Path) -> None:
    tmp_path.chmod(0o2750)
    facts = tmp_path.stat()
    assert root_tag(facts) == f"root:2750:{facts.st_uid}:{facts.st_gid}"


def test_a_scrub_reads_regular_files_only(tmp_path: Path) -> None:
    place, path = Place(tmp_path / "job"), tmp_path / "content"
    for directory in (place.path, path):
        directory.mkdir()
    (path / "file").write_bytes(b"12345")
    (path / "link").symlink_to("nowhere")
    os.mkfifo(path / "pipe")
    given = {"id": "1", "name": "v", "args": {"how": "content"}, "attempts": 1, "data": "", "path": path, "secrets": {}}
    assert run_scrub(Work(place, given)) == {"files": 1, "bytes": 5, "foreign": 0, "counts": {}, "problems": []}


def test_prune_until() -> None:
    old = VolumeRecord(id="1" * 12, name="v1", driver="local", created="2020-01-01T00:00:00Z")
    new = old.with_(created="2999-01-01T00:00:00Z")
    takes = prune_filter({"all": ["true"], "until": ["24h"]})
    assert takes(old)
    assert not takes(new)
    assert not prune_filter({"until": ["24h"]})(old)  # named ones only with all
    with pytest.raises(InvalidParameter):
        prune_filter({"until": ["yesterday"]})


def test_a_copy_follows_no_link_that_takes_a_directorys_place(tmp_path: Path) -> None:
    """What a container exchanges while it is copied leads nowhere."""
    source, target, secret = tmp_path / "source", tmp_path / "target", tmp_path / "secret"
    for directory in (source, target, secret):
        directory.mkdir()
    (secret / "file").write_text("of the host")
    (source / "file").symlink_to(secret / "file")
    (source / "dir").symlink_to(secret)
    TreeCopy().copy(source, target)
    assert (target / "dir").is_symlink()
    assert stat.S_ISLNK((target / "file").lstat().st_mode)
    assert (target / "file").readlink() == secret / "file"
    (tmp_path / "link").symlink_to(source)
    with pytest.raises(OSError, match=r"Not a directory|symbolic links"):
        TreeCopy().copy(tmp_path / "link", target)


def test_a_copy_goes_as_deep_as_the_tree(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    for directory in (source, target):
        (directory / "d").mkdir(parents=True)
        (directory / "d/.engine-populate-left").touch()
    (source / "d/.engine-populate-left").unlink()
    (source / "d").chmod(0o750)
    os.utime(source / "d", (5, 6))
    try:
        nest(source, 2000, "deep")
        (source / "first").touch()
        (source / "d/second").hardlink_to(source / "first")
        os.utime(source / "d", (5, 6))
        copied: list[int] = []
        TreeCopy(copied=copied.append).copy(source, target)
        facts = (target / "d").stat()
        assert (stat.S_IMODE(facts.st_mode), facts.st_mtime) == (0o750, 6)
        assert (target / "d/second").samefile(target / "first")
        assert [path.name for path in (target / "d").iterdir()] == ["second"]
        assert occupied(target) == occupied(source)
        assert occupied(target).files == 2
        assert views.bytes_of(target) >= 0
    finally:
        remove_tree(source)
        remove_tree(target)


class Failing(Store):
    """A store that fails as it is told."""

    caps = StorageCaps()

    def __init__(self, error: EngineError) -> None:
        self.error = error

    def head(self, key: str) -> Stat | None:
        raise self.error

    def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        raise self.error

    def put(self, key: str, data: bytes, **_: object) -> Stat:
        raise self.error

    def delete(self, key: str, *, if_match: str | None = None) -> None:
        raise self.error

    def list(self, prefix: str = "", **_: object) -> Iterator[Stat]:
        raise self.error


def test_failures_that_last_become_final(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = Unavailable("no answer")
    server = bridge.Bridge(Failing(gone), tmp_path / "locks")
    server.note("GET", gone)
    assert server.failure is None
    monkeypatch.setattr(bridge, "PATIENCE_SECONDS", 0.0)
    server.note("GET", gone)
    assert server.failure is gone
    server = bridge.Bridge(Failing(gone), tmp_path / "locks")
    full = Unavailable("writing")
    full.__cause__ = OSError(28, "No space left on device")
    monkeypatch.setattr(bridge, "PATIENCE_SECONDS", 60.0)
    server.note("POST", full)
    assert server.failure is full


def test_the_bridge_wants_its_password_and_right_content(tmp_path: Path) -> None:
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    from engine.plugins import Plugins
    from engine.storage.secrets import Secrets
    from engine.storage.stores import Stores

    stores = Stores(Plugins())
    store = stores.open(stores.plan(f"file://{tmp_path}/objects", {}), Secrets())
    with bridge.Bridge(store, tmp_path / "locks") as server:
        scheme, _, rest = server.url.removeprefix("rest:").partition("://")
        credentials, _, place = rest.partition("@")
        import base64

        right = "Basic " + base64.b64encode(credentials.encode()).decode()

        def ask(method: str, path: str, data: bytes | None = None, header: str = right) -> tuple[int, bytes]:
            request = Request(f"{scheme}://{place}{path}", data, {"Authorization": header}, method=method)
            try:
                with urlopen(request, timeout=10) as answer:
                    return answer.status, answer.read()
            except HTTPError as err:
                return err.code, b""

        import hashlib

        name = hashlib.sha256(b"content").hexdigest()
        assert ask("GET", "config", header="Basic eDp5")[0] == 401
        assert ask("GET", "config", header="")[0] == 401
        assert ask("POST", "?create=true")[0] == 200
        assert ask("POST", f"data/{name}", b"other content")[0] == 400
        assert ask("HEAD", f"data/{name}")[0] == 404
        assert ask("POST", f"data/{name}", b"content")[0] == 200
        assert ask("GET", f"data/{name}") == (200, b"content")
        assert (tmp_path / "objects/data" / name[:2] / name).read_bytes() == b"content"
        assert name.encode() in ask("GET", "data/")[1]
        assert ask("GET", "data/../../etc/passwd")[0] == 404
        assert ask("POST", "config", b"one")[0] == 200
        assert ask("POST", "config", b"two")[0] == 500  # never overwritten
        assert ask("POST", f"locks/{name}", b"content")[0] == 200
        assert ask("DELETE", f"data/{name}")[0] == 200
    assert not (tmp_path / "objects/locks" / name).exists()  # whatever took it has ended
    store.close()
    assert os.path.lexists(tmp_path / "objects/config")
