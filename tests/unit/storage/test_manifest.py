"""The manifest beside the rclone crypt format: every way to tamper with a store is seen; no crash looks like one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from engine.plugins import Plugins
from engine.spec.errors import Conflict, Unavailable
from engine.storage.secrets import Secrets
from engine.storage.stores import Stores
from engine_drivers.storage.crypt import manifest as module
from engine_drivers.storage.crypt.content import BLOCK, HEADER, MAGIC, SEALED, nonce_at, nonce_of
from engine_drivers.storage.crypt.manifest import Manifest

SECRETS = Secrets(environ={"PW": "correct horse"})


class Site:
    """A directory with encrypted objects, and the mark of one host."""

    def __init__(self, base: Path) -> None:
        self.base, self.bucket, self.mark = base, base / "bucket", base / "mark"
        self.bucket.mkdir()
        self.stores = Stores(Plugins())

    def open(self, mark="mark", manifest="true"):
        given = {"crypt-password": "env:PW", "manifest": manifest}
        if manifest == "true":
            given["manifest-mark"] = str(self.base / mark)
        return self.stores.open(self.stores.plan(f"crypt::file://{self.bucket}", given), SECRETS)

    def file(self, store, key: str) -> Path:
        return self.bucket / store._names.hide(key)

    def problems(self, **options):
        store = self.open()
        found = {c.key: c.problem for c in store.scrub(**options) if c.problem}
        store.close()
        return found


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path)


def fill(site, **contents):
    store = site.open()
    for key, data in contents.items():
        store.put(key, data)
    store.close()
    return store


def refused(site, key, problem):
    """The object is refused by whole and ranged reads, and the scrub says why."""
    store = site.open()
    for read in (lambda: store.get(key), lambda: store.get(key, 0, 1)):
        with pytest.raises(Conflict) as caught:
            read()
        assert getattr(caught.value, "problem", None) == problem, caught.value
    store.close()
    assert site.problems() == {key: problem}


def test_untouched_store_is_clean(site):
    fill(site, a=b"A" * 100, b=b"", c=b"C" * (3 * BLOCK))
    assert site.problems() == {}
    assert sorted(s.key for s in site.open().list()) == ["a", "b", "c"]


def test_truncation_at_the_edge_of_a_block(site):
    store = fill(site, a=b"A" * (3 * BLOCK))
    path = site.file(store, "a")
    path.write_bytes(path.read_bytes()[: HEADER + SEALED])
    assert site.open(manifest="false").get("a") == b"A" * BLOCK  # the format itself does not see it
    refused(site, "a", "truncated")


def test_first_blocks_cut_off(site):
    """A block's nonce is the object's plus its number: the rest opens as a whole object, without the key."""
    store = fill(site, a=b"A" * BLOCK + b"B" * BLOCK)
    path = site.file(store, "a")
    data = path.read_bytes()
    path.write_bytes(MAGIC + nonce_at(nonce_of(data[:HEADER]), 1) + data[HEADER + SEALED :])
    assert site.open(manifest="false").get("a") == b"B" * BLOCK
    refused(site, "a", "truncated")


def test_an_empty_object_in_the_place_of_another(site):
    """It takes no key to make one. A host with the key that empties an object is told from that, noted or not."""
    store = fill(site, a=b"A" * 100, b=b"B")
    site.file(store, "a").write_bytes(MAGIC + bytes(24))
    refused(site, "a", "truncated")
    assert {s.key: s.size for s in site.open().list()} == {"a": 100, "b": 1}
    store = site.open()
    store.put("b", b"")
    store._manifest._timer.cancel()  # killed
    assert site.open().get("b") == b""
    assert {s.key: s.size for s in site.open().list()} == {"a": 100, "b": 0}


@pytest.mark.parametrize("size", [0, 5, HEADER + 3])
@pytest.mark.parametrize("manifest", ["true", "false"])
def test_what_is_cut_to_no_form_at_all_is_listed_and_refused(site, size, manifest):
    """If it were left out of a listing, it would look removed, and its local copy would be, too."""
    store = fill(site, a=b"A" * 100, b=b"B" * 100)
    path = site.file(store, "a")
    path.write_bytes(path.read_bytes()[:size])
    store = site.open(manifest=manifest)
    listed = {s.key: s.size for s in store.list()}
    assert listed.keys() == {"a", "b"}
    assert listed["a"] > 0
    with pytest.raises(Conflict):
        store.get("a")
    store.close()
    assert site.problems() == {"a": "damaged"}


def test_swapped_objects(site):
    store = fill(site, a=b"A", b=b"B")
    one, other = site.file(store, "a"), site.file(store, "b")
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)
    assert site.open(manifest="false").get("a") == b"B"
    assert site.problems() == {"a": "swapped", "b": "swapped"}
    other.write_bytes(second)
    refused(site, "a", "swapped")


def test_object_rolled_back(site):
    store = fill(site, a=b"old")
    old = site.file(store, "a").read_bytes()
    fill(site, a=b"new")
    site.file(store, "a").write_bytes(old)
    refused(site, "a", "rolled-back")
    assert site.problems(accept=True) == {"a": "rolled-back"}
    assert site.problems() == {}
    assert site.open().get("a") == b"old"


def test_removed_object_that_comes_back(site):
    store = fill(site, a=b"secret")
    data = site.file(store, "a").read_bytes()
    store = site.open()
    store.delete("a")
    store.close()
    site.file(store, "b").write_bytes(data)
    refused(site, "b", "rolled-back")


def test_missing_object(site, monkeypatch):
    monkeypatch.setattr("engine_drivers.storage.crypt.scrub.DELAY", 0.0)
    store = fill(site, a=b"A", b=b"B")
    site.file(store, "a").unlink()
    assert site.problems() == {"a": "missing"}
    assert site.problems(accept=True) == {"a": "missing"}
    assert site.problems() == {}


def test_changed_bytes(site):
    store = fill(site, a=b"A" * 100)
    path = site.file(store, "a")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(Conflict):
        site.open().get("a")
    assert site.problems() == {"a": "damaged"}


def test_whole_store_turned_back(site):
    fill(site, a=b"old")
    shutil.copytree(site.bucket, site.base / "copy")
    fill(site, a=b"new")
    shutil.rmtree(site.bucket)
    shutil.copytree(site.base / "copy", site.bucket)
    with pytest.raises(Conflict, match="turned back"):
        site.open()
    assert site.open("mark-of-a-new-host").get("a") == b"old"  # who has seen nothing notices nothing


def test_manifest_removed(site):
    fill(site, a=b"A")
    shutil.rmtree(site.bucket / ".engine")
    with pytest.raises(Conflict, match="turned back"):
        site.open()


def test_manifest_removed_in_use(site):
    """Nothing more is written until it is there again: what is beside it may be as old."""
    store = site.open()
    store.put("a", b"A")
    store._manifest.flush()
    log = site.bucket / ".engine"
    log.rename(site.base / "away")
    store.put("b", b"B")
    store._manifest._timer.cancel()
    store._manifest._write_later()  # as the timer does
    for change in (lambda: store.put("c", b"C"), lambda: store.delete("a")):
        with pytest.raises(Unavailable, match="turned back"):
            change()
    assert store.get("a") == b"A"
    (site.base / "away").rename(log)
    store.put("c", b"C")
    store.close()
    assert site.problems() == {}


def test_log_exchanged_for_another_one(site):
    fill(site, a=b"A")
    segment = next((site.bucket / ".engine/manifest").iterdir())
    data = segment.read_bytes()
    shutil.rmtree(site.bucket / ".engine")
    store = site.open("other-mark")
    store.put("b", b"B")
    store.close()
    assert segment.read_bytes() != data
    with pytest.raises(Conflict, match="exchanged"):
        site.open()


@pytest.mark.parametrize("damage", [lambda d: d[:-1] + bytes([d[-1] ^ 1]), lambda d: b"", lambda d: b"x" * 50])
def test_damaged_segment_is_a_clear_error(site, damage):
    fill(site, a=b"A")
    segment = next((site.bucket / ".engine/manifest").iterdir())
    segment.write_bytes(damage(segment.read_bytes()))
    with pytest.raises(Conflict, match="manifest is damaged"):
        site.open()


def test_a_segment_of_another_version_is_said_to_be_so(site):
    fill(site, a=b"A")
    segment = next((site.bucket / ".engine/manifest").iterdir())
    segment.write_bytes(b"ENGINE\0\1" + segment.read_bytes()[8:])
    with pytest.raises(Conflict, match="another format than version 2"):
        site.open()


def test_missing_and_exchanged_segments(site):
    for n in range(3):
        fill(site, a=b"%d" % n)
    segments = sorted((site.bucket / ".engine/manifest").iterdir())
    first, second = segments[0].read_bytes(), segments[1].read_bytes()
    segments[0].write_bytes(second)
    with pytest.raises(Conflict, match="manifest is damaged"):
        site.open()
    segments[0].write_bytes(first)
    segments[1].unlink()
    with pytest.raises(Conflict, match="generation 2 is missing"):
        site.open()


def test_damaged_mark(site):
    fill(site, a=b"A")
    site.mark.write_text("{")
    with pytest.raises(Conflict, match="mark"):
        site.open()


def test_nothing_is_readable_in_the_log(site):
    fill(site, **{"a-very-secret-name": b"A"})
    for segment in (site.bucket / ".engine/manifest").iterdir():
        assert b"secret" not in segment.read_bytes()


def test_objects_of_others_with_the_key_are_taken_in(site):
    other = site.open(manifest="false")  # as rclone does
    other.put("a", b"from rclone")
    store = site.open()
    assert store.get("a") == b"from rclone"
    other.put("a", b"again")
    assert store.get("a") == b"again"
    store.close()
    assert site.problems() == {}


def test_a_crash_before_the_log_is_written_raises_no_alarm(site):
    fill(site, a=b"1", b=b"1")
    store = site.open()
    store.put("a", b"2")
    store.put("c", b"2")
    store.delete("b")
    store._manifest._timer.cancel()  # killed: nothing of this is in the log
    store = site.open()
    assert (store.get("a"), store.get("c")) == (b"2", b"2")
    store.close()


def test_a_copy_by_the_server_is_no_swap(site, monkeypatch):
    fill(site, a=b"A")
    store = site.open()
    caps = store._inner.caps.model_copy(update={"server_copy": True})
    monkeypatch.setattr(store._inner, "caps", caps)

    def copy(source, target):
        shutil.copyfile(site.bucket / source, site.bucket / target)
        return store._inner.head(target)

    monkeypatch.setattr(store._inner, "copy", copy)
    monkeypatch.setattr(Manifest, "copied", lambda *_: None)  # killed between the copy and its note
    store.copy("a", "b")
    assert site.open("other-host").get("b") == b"A"
    shutil.copyfile(site.file(store, "a"), site.file(store, "c"))
    with pytest.raises(Conflict):
        site.open("other-host").get("c")


def test_two_hosts(site):
    one, two = site.open("one"), site.open("two")
    one.put("a", b"1")
    two.put("b", b"2")
    one._manifest.flush()
    two._manifest.flush()
    assert two.get("a") == b"1"
    assert one.get("b") == b"2"
    two.put("a", b"3")
    two._manifest.flush()
    assert one.get("a") == b"3"
    one.close()
    two.close()
    assert site.problems() == {}


def test_the_log_is_compacted(site, monkeypatch):
    monkeypatch.setattr(module, "_SEGMENTS", 4)
    store = site.open()
    other = site.open("two")
    for n in range(30):
        store.put(f"k{n % 7}", b"%d" % n)
        store._manifest.flush()
    assert len(list((site.bucket / ".engine/manifest").iterdir())) <= 6
    assert other.get("k1") == b"29"
    store.close()
    other.close()
    assert site.problems() == {}
    assert site.open("new").get("k0") == b"28"
