"""Remote volumes: mounted when everything is local, drained at the end, and nothing lost in between."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest
from tests.kernel.helper.place import Site, eventually, with_helpers
from tests.kernel.volume.world import in_child

from engine.helper.client import HelperClient
from engine.helper.place import HelperPlace
from engine.spec.errors import ApplyFailed, Conflict, InvalidParameter, NotFound, Unavailable, Unsupported
from engine.spec.trees import TreeStatus
from engine.volume import mounting
from engine.volume.trees import trees_in_use


@with_helpers
def test_a_volume_is_local_when_it_is_mounted_and_in_the_store_when_it_is_not(tmp_path: Path) -> None:
    site = Site(tmp_path)
    (site.bucket / "deep").mkdir()
    (site.bucket / "deep" / "old").write_text("from the store")
    site.create("vol")
    site.say("slow", "0.3")
    path = site.volumes.mount("vol", "c1")
    assert (path / "deep" / "old").read_text() == "from the store"
    assert site.volumes.mount("vol", "c2") == path
    (path / "new").write_text("from a container")
    site.volumes.unmount("vol", "c1")
    assert site.helper_of("vol").alive()
    site.volumes.unmount("vol", "c2")
    assert (site.bucket / "new").read_text() == "from a container"
    assert site.volumes.get("vol").applied is None
    site.assert_nothing_left()
    path = site.volumes.mount("vol", "c3")
    assert (path / "new").read_text() == "from a container"


@with_helpers
def test_a_part_is_shown_when_it_is_there(tmp_path: Path) -> None:
    site = Site(tmp_path)
    (site.bucket / "deep").mkdir()
    (site.bucket / "deep" / "old").write_text("from the store")
    site.create("vol")
    site.say("slow", "0.2")
    path = site.volumes.mount("vol", "c1", subpath="deep")
    assert (path / "old").read_text() == "from the store"
    (path / "new").write_text("new")
    site.volumes.unmount("vol", "c1")
    assert (site.bucket / "deep" / "new").read_text() == "new"
    with pytest.raises(ApplyFailed, match="'absent' of volume vol cannot be mounted: it does not exist"):
        site.volumes.mount("vol", "c2", subpath="absent")
    site.assert_nothing_left()


@with_helpers
def test_what_cannot_work_is_refused_at_create(tmp_path: Path) -> None:
    site = Site(tmp_path)
    with pytest.raises(InvalidParameter, match=r"moed.*Did you mean 'mode'"):
        site.create("vol", moed="sync")
    with pytest.raises(InvalidParameter, match="url"):
        site.volumes.create("vol", "remote", {"url": ""})
    with pytest.raises(Unsupported, match="no client for nonsense"):
        site.volumes.create("vol", "remote", {"url": "nonsense://x"})
    with pytest.raises(InvalidParameter, match=r"names no store.*Write s3://x"):
        site.volumes.create("vol", "remote", {"url": "s3:/x"})
    with pytest.raises(Unsupported, match=r"memory://x cannot be used for this .*durable"):
        site.volumes.create("vol", "remote", {"url": "memory://x"})
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1"):
        options = {"url": "s3://b", "endpoint-url": "http://127.0.0.1:1", "anonymous": "true", "patience": "2"}
        site.volumes.create("vol", "remote", {**options, "deadline": "1"})
    with pytest.raises(NotFound, match="secret env:NOT_SET"):
        keys = {"access-key": "env:NOT_SET", "secret-key": "env:NOT_SET"}
        site.volumes.create("vol", "remote", {"url": "s3://b", **keys})
    assert site.volumes.list() == []
    assert list(site.root.iterdir()) == []


@with_helpers
def test_secrets_reach_the_helper_and_nobody_else(tmp_path: Path) -> None:
    site = Site(tmp_path)
    secret = tmp_path / "secret"
    secret.write_text("hunter2hunter2")
    site.create("vol", **{"url": f"crypt::file://{site.bucket}", "crypt-password": f"file:{secret}"})
    site.volumes.mount("vol", "c")
    place = site.helper_of("vol")
    pid = place.pid()
    for file in ("cmdline", "environ"):
        assert b"hunter2" not in Path(f"/proc/{pid}/{file}").read_bytes()
    for directory in (site.root, site.run, tmp_path / "exec"):
        for path in directory.rglob("*"):
            if path.is_file():
                assert b"hunter2" not in path.read_bytes(), path
    assert "hunter2" not in str(site.volumes.inspect("vol"))


@with_helpers
def test_a_store_that_fails_at_mount_leaves_nothing(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.create("vol")
    site.say("refuse", "the server is on fire")
    with pytest.raises(Unavailable, match="the server is on fire"):
        site.volumes.mount("vol", "c")
    site.assert_nothing_left()
    site.volumes.remove("vol")


@with_helpers
def test_a_helper_that_dies_is_started_again(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.create("vol")
    path = site.volumes.mount("vol", "c")
    former = site.kill_helper("vol")
    (path / "meanwhile").write_text("local files need no helper")
    eventually(lambda: site.helper_of("vol").pid() not in (None, former), "another helper runs")
    assert site.volumes.sync("vol", 20) == 0
    assert (site.bucket / "meanwhile").exists()
    site.kill_helper("vol")
    (path / "later").write_text("")
    assert site.volumes.sync("vol", 20) == 0
    assert (site.bucket / "later").exists()
    site.kill_helper("vol")
    (path / "last").write_text("")
    site.volumes.unmount("vol", "c")
    eventually(lambda: site.volumes.get("vol").applied is None, "everything is uploaded")
    assert (site.bucket / "last").exists()
    site.assert_nothing_left()


@with_helpers
def test_a_restarted_daemon_takes_up_the_running_helper(tmp_path: Path) -> None:
    def first_daemon() -> None:
        site = Site(tmp_path)
        site.create("vol")
        path = site.volumes.mount("vol", "c")
        (path / "file").write_text("x")
        os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(first_daemon) == signal.SIGKILL
    site = Site(tmp_path)
    helper = site.helper_of("vol").pid()
    assert site.volumes.restore(["c"]) == []
    site.reconciler.collect()
    assert site.reconciler.diff() == []
    assert site.helper_of("vol").pid() == helper
    assert site.helper_of("vol").alive()
    site.volumes.unmount("vol", "c")
    assert (site.bucket / "file").exists()
    site.assert_nothing_left()


@with_helpers
def test_after_the_death_of_daemon_and_helper_the_rest_is_uploaded(tmp_path: Path) -> None:
    def first_daemon() -> None:
        site = Site(tmp_path)
        site.create("vol")
        path = site.volumes.mount("vol", "c")
        site.volumes.close()  # nobody starts it again
        site.kill_helper("vol")
        (path / "file").write_text("written while nobody looked")
        os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(first_daemon) == signal.SIGKILL
    site = Site(tmp_path)
    site.say("slow", "1")
    begun = time.monotonic()
    assert site.volumes.restore([]) == []
    assert time.monotonic() - begun < 0.9, "the start of the daemon waited"
    site.reconciler.collect()
    eventually(lambda: site.volumes.get("vol").applied is None, "everything is uploaded")
    assert (site.bucket / "file").read_text() == "written while nobody looked"
    site.assert_nothing_left()


@with_helpers
def test_a_volume_with_files_that_cannot_be_stored_is_not_removed(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.create("vol")
    path = site.volumes.mount("vol", "c")
    (path / "file").write_text("x")
    site.say("unstorable", "2")
    seen: list[TreeStatus] = []
    assert site.volumes.sync("vol", 600.0, seen.append) == 2  # nothing is waited for
    assert site.volumes.unstorable("vol") == (2, "not stored: 'x'")
    assert site.volumes.inspect("vol")["Status"]["UnstorableFiles"] == 2
    site.volumes.unmount("vol", "c")
    with pytest.raises(Conflict, match=r"2 changes of volume vol are not in its store yet .*: not stored: 'x'"):
        site.volumes.remove("vol")
    assert site.volumes.prune({"all": ["true"]}) == ([], 0)
    assert (path / "file").exists()
    site.volumes.remove("vol", force=True)
    assert not path.exists()


@with_helpers
def test_an_upload_that_takes_long_goes_on_after_the_unmount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounting, "DRAIN_SECONDS", 0.3)
    site = Site(tmp_path)
    site.create("vol")
    path = site.volumes.mount("vol", "c")
    (path / "file").write_text("x")
    site.say("stuck", "yes")
    site.volumes.unmount("vol", "c")
    shown = site.volumes.inspect("vol")["Status"]
    assert (shown["Mounted"], shown["PendingFiles"]) == (False, 1)
    with pytest.raises(Conflict, match=r"1 changes of volume vol are not in its store yet.*sync"):
        site.volumes.remove("vol")
    assert site.volumes.prune({"all": ["true"]}) == ([], 0)
    site = _restarted(site)
    assert site.helper_of("vol").alive()
    path = site.volumes.mount("vol", "c2")
    assert (path / "file").read_text() == "x"
    site.volumes.unmount("vol", "c2")
    assert site.volumes.sync("vol", 0.2) == 1
    site.say("stuck")
    eventually(lambda: site.volumes.get("vol").applied is None, "everything is uploaded")
    assert (site.bucket / "file").exists()
    site.assert_nothing_left()
    site.volumes.remove("vol")
    assert (site.bucket / "file").exists()


def _restarted(site: Site) -> Site:
    after = site.restarted()
    assert isinstance(after, Site)
    return after


@with_helpers
def test_force_removes_what_is_not_uploaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounting, "DRAIN_SECONDS", 0.1)
    site = Site(tmp_path)
    site.create("vol")
    path = site.volumes.mount("vol", "c")
    (path / "file").write_text("x")
    site.say("stuck", "yes")
    site.volumes.unmount("vol", "c")
    site.volumes.remove("vol", force=True)
    assert site.volumes.list() == []
    site.assert_nothing_left()
    assert list(site.root.iterdir()) == []


@with_helpers
def test_looking_at_volumes_never_waits(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.create("vol")
    site.say("slow", "60")
    failed: list[BaseException] = []

    def mount() -> None:
        try:
            site.volumes.mount("vol", "c")
        except BaseException as err:  # noqa: BLE001  # looked at below
            failed.append(err)

    thread = threading.Thread(target=mount)
    thread.start()
    eventually(lambda: trees_in_use(site.volumes.get("vol")), "the mount has begun")
    eventually(lambda: site.volumes.inspect("vol")["Status"].get("Progress"), "the helper answers")
    begun = time.monotonic()
    assert [site.volumes.describe(record)["Name"] for record in site.volumes.list()] == ["vol"]
    assert site.volumes.inspect("vol")["Status"]["Progress"]["step"] == "fetching"
    place = site.helper_of("vol")
    pid = place.pid()
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    assert site.volumes.inspect("vol")["Status"]["State"] == "degraded"
    site.say("refuse", "enough")
    os.kill(pid, signal.SIGKILL)
    site.say("slow")
    thread.join(30)
    assert time.monotonic() - begun < 30
    assert isinstance(failed[0], Unavailable)
    site.assert_nothing_left()


@with_helpers
def test_a_helper_that_hangs_is_ended_by_force(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.helper.client.ANSWER_SECONDS", 0.2)
    monkeypatch.setattr("engine.reconcile.trees.END_SECONDS", 0.5)
    site = Site(tmp_path)
    site.create("vol")
    site.volumes.mount("vol", "c")
    place = site.helper_of("vol")
    pid = place.pid()
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    assert site.reconciler.remove(site.volumes.get("vol").owner) == []
    assert not place.alive()


@with_helpers
def test_a_helper_that_nobody_wants_is_collected(tmp_path: Path) -> None:
    site = Site(tmp_path)
    record = site.create("vol")
    site.volumes.mount("vol", "c")
    place = site.helper_of("vol")
    site.close()
    for name in ("state.db", "state.db.backup"):
        (tmp_path / name).unlink()
    (site.root / record.id / "volume.json").unlink()
    site = Site(tmp_path)
    site.volumes.restore([])
    assert [d.state for d in site.reconciler.collect()] == ["unwanted"]
    assert not place.alive()


@with_helpers
def test_there_is_never_a_second_helper(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.create("vol")
    site.volumes.mount("vol", "c")
    place = HelperPlace(site.helper_of("vol").directory)
    with pytest.raises(BlockingIOError):
        place.take()
    pid = place.pid()
    site = _restarted_with(site, ("c",))
    assert site.helper_of("vol").pid() == pid
    assert HelperClient(place).status().state == "ready"
    with pytest.raises(InvalidParameter, match="knows no request"):
        HelperClient(place)._ask({"op": "nonsense"}, 5)


def _restarted_with(site: Site, live: tuple[str, ...]) -> Site:
    after = site.restarted(live)
    assert isinstance(after, Site)
    return after
