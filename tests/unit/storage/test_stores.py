"""Stores by URL: which driver, which options, which abilities."""

from __future__ import annotations

import sys

import pytest
from fsspec.registry import _registry as fsspec_classes

from engine.plugins import Plugins
from engine.spec.errors import Conflict, EngineError, InvalidParameter, NotFound, Unsupported
from engine.spec.storage import ABSENT, ShortRead
from engine.storage.secrets import Secrets
from engine.storage.stores import Stores
from engine_sdk.storage import FsspecStore, Translator

CRYPT = {"crypt-password": "env:P"}
SECRETS = Secrets(environ={"P": "password"})


@pytest.fixture(scope="module")
def stores():
    return Stores(Plugins(deadline=60))


def open_store(stores, url, given=None):
    return stores.open(stores.plan(url, given or {}), SECRETS)


@pytest.mark.parametrize(
    ("url", "drivers"),
    [
        ("file:///srv/a", ["file"]),
        ("/srv/a", ["file"]),
        ("s3a://b/p", ["s3"]),
        ("gs://b", ["gcs"]),
        ("https://host/p", ["http"]),
        ("webdav://host/p", ["fsspec"]),
        ("simplecache::s3://b/p", ["fsspec"]),
        ("crypt::file:///srv/a", ["crypt", "file"]),
        ("crypt::crypt::memory://a", ["crypt", "crypt", "memory"]),
        ("crypt::zip://x::file:///a.zip", ["crypt", "fsspec"]),
    ],
)
def test_the_drivers_of_a_url(url, drivers, stores):
    plan = stores.plan(url, CRYPT if "crypt" in url else {})
    assert [part.driver for part in plan.parts] == drivers


@pytest.mark.parametrize(
    ("url", "module", "given"),
    [
        ("s3://b/p", "obstore.store", {}),
        ("gs://b/p", "obstore.store", {}),
        ("azure://b/p", "obstore.store", {"account": "a"}),
        ("sftp://h/p", "sshfs", {}),
        ("crypt::memory://a", "nacl", CRYPT),
    ],
)
def test_the_extra_that_is_missing_is_named(url, module, given, stores, monkeypatch):
    for imported in [module, *(name for name in sys.modules if name.startswith(f"{module}."))]:
        monkeypatch.setitem(sys.modules, imported, None)
    for imported in list(fsspec_classes):
        monkeypatch.delitem(fsspec_classes, imported)
    driver = stores.plan(url, given).parts[0].driver
    with pytest.raises(Unsupported, match=rf"-m pip install 'pluggable-engine\[{driver}\]'"):
        open_store(stores, url, given)


def test_a_wrapper_needs_something_to_wrap(stores):
    with pytest.raises(InvalidParameter, match="names no store"):
        stores.plan("crypt", CRYPT)
    with pytest.raises(InvalidParameter, match="more than"):
        stores.plan("crypt::" * 4 + "memory://a", CRYPT)


def test_options_go_to_the_driver_that_has_them(stores):
    plan = stores.plan("crypt::s3://b/p", {**CRYPT, "endpoint-url": "http://h:1", "filename-encryption": "off"})
    crypt, s3 = (part.options for part in plan.parts)
    assert (crypt.filename_encryption, s3.endpoint_url) == ("off", "http://h:1")
    with pytest.raises(InvalidParameter, match="Did you mean 'endpoint-url'"):
        stores.plan("crypt::s3://b/p", {**CRYPT, "endpoint-ur": "http://h:1"})


def test_abilities_are_known_before_a_store_is_opened(stores):
    assert stores.plan("s3://b", {}).caps.put_if
    assert not stores.plan("s3://b", {"conditional": "false"}).caps.put_if
    crypt = stores.plan("crypt::file:///srv/a", CRYPT).caps
    assert (crypt.put_if, crypt.hierarchical, crypt.max_segment) == (True, True, 143)
    with pytest.raises(Unsupported, match="metadata"):
        stores.plan("file:///srv/a", {}).require("put_if", "metadata")


@pytest.mark.parametrize("url", ["s3:///p", "gcs://", "sftp:///p", "s3://b?x=1", "file://elsewhere/p", "s3://b:x/p"])
def test_malformed_urls(url, stores):
    with pytest.raises(InvalidParameter):
        open_store(stores, url)


@pytest.mark.parametrize(
    ("url", "hint"),
    [
        ("s3:/x", "Write s3://x"), ("s3:x/y", "Write s3://x/y"), ("crypt::s3:/x", "Write s3://x"),
        ("bucket/prefix", "absolute path.*/bucket/prefix"), ("./x", "absolute path"), ("", "neither"),
    ],
)  # fmt: skip
def test_what_is_almost_a_url_is_no_path(url, hint, stores):
    with pytest.raises(InvalidParameter, match=rf"names no store.*{hint}"):
        stores.plan(url, {})


def test_chained_urls_of_fsspec(stores, tmp_path):
    import zipfile

    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("dir/x", b"in an archive")
    store = open_store(stores, f"zip://::file://{tmp_path}/a.zip", {"writable": "false"})
    assert store.get("dir/x") == b"in an archive"
    assert [s.key for s in store.list()] == ["dir/x"]
    cached = open_store(stores, f"simplecache::file://{tmp_path}")
    assert cached.get("a.zip", 0, 2) == b"PK"


def test_a_protocol_that_is_not_installed(stores):
    with pytest.raises(Unsupported, match="no client for nosuch://"):
        open_store(stores, "nosuch://host/p")


def test_file_needs_its_directory(stores, tmp_path):
    with pytest.raises(NotFound):
        open_store(stores, f"file://{tmp_path}/missing", {"create": "false"})


def test_unfinished_and_special_files_are_no_objects(stores, tmp_path):
    store = open_store(stores, f"file://{tmp_path}")
    (tmp_path / ".engine-part-0").write_bytes(b"half")
    (tmp_path / "link").symlink_to("/etc/passwd")
    store.put("a", b"1")
    assert [s.key for s in store.list()] == ["a"]
    assert store.head("link") is None
    with pytest.raises(EngineError):
        store.get("link")


def test_a_directory_goes_with_its_last_object(stores, tmp_path):
    store = open_store(stores, f"file://{tmp_path}")
    store.put("a/b/c", b"1")
    store.put("a/d", b"1")
    store.delete("a/b/c")
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["d"]
    store.delete("a/d")
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_that_ignores_ranges_is_caught(tmp_path):
    """As sshfs does: `cat_file` with a range returns the whole file."""
    from fsspec.implementations.local import LocalFileSystem

    from engine_sdk import StorageCaps

    class Ignores(LocalFileSystem):
        def cat_file(self, path, start=None, end=None, **kwargs):
            return super().cat_file(path)

    (tmp_path / "a").write_bytes(bytes(100))
    caps = StorageCaps(ranged=True, hierarchical=True)
    store = FsspecStore(Ignores(), str(tmp_path), caps=caps, translate=Translator("x"))
    with pytest.raises(ShortRead, match="gave 100 bytes instead of 10"):
        store.get("a", 10, 20)


@pytest.mark.parametrize("capability", ["put_if", "delete_if"])
def test_fsspec_cannot_claim_conditions(capability):
    from engine_sdk import StorageCaps

    with pytest.raises(ValueError, match=capability):
        FsspecStore(object(), "/", caps=StorageCaps(**{capability: True}), translate=Translator("x"))


def test_a_hanging_call_ends_at_its_deadline():
    import threading

    from engine_sdk import DeadlineExceeded, StorageCaps

    class Hangs:
        def info(self, path):
            threading.Event().wait(60)

    store = FsspecStore(Hangs(), "/", caps=StorageCaps(), translate=Translator("x"), deadline=0.2)
    with pytest.raises(DeadlineExceeded, match=r"no answer within 0\.2 s"):
        store.head("a")


def test_crypt_notices_what_was_cut_or_changed(stores):
    inner = open_store(stores, "memory://cut-or-changed")
    crypt = open_store(stores, "crypt::memory://cut-or-changed", CRYPT)
    crypt.put("a", b"content" * 20_000)
    (stored,) = inner.list()
    sealed = inner.get(stored.key)
    inner.put(stored.key, sealed[:-1])
    with pytest.raises(Conflict, match="changed"):
        crypt.get("a")
    with pytest.raises((Conflict, ShortRead)):
        crypt.get("a", 139_990, 140_000)
    inner.put(stored.key, sealed)
    assert crypt.get("a", 139_990, 140_000) == b"tcontentcontent"[-10:]


def test_crypt_reads_a_range_of_an_object_that_was_replaced(stores):
    one, two = (open_store(stores, "crypt::memory://replaced", CRYPT) for _ in range(2))
    one.put("a", b"1" * 70_000)
    assert one.get("a", 69_990, 70_000) == b"1" * 10
    two.put("a", b"2" * 140_000)
    assert one.get("a", 69_990, 70_000) == b"2" * 10
    assert one.get("a", 139_990) == b"2" * 10


def test_crypt_leaves_out_what_is_not_its_own(stores, caplog):
    crypt = open_store(stores, "crypt::memory://foreign", CRYPT)
    crypt.put("mine", b"1")
    open_store(stores, "memory://foreign").put("README", b"not encrypted")
    with caplog.at_level("WARNING"):
        assert [s.key for s in crypt.list()] == ["mine"]
    assert "foreign object" in caplog.text


def test_a_condition_passes_through_crypt(stores):
    crypt = open_store(stores, "crypt::memory://conditions", CRYPT)
    first = crypt.put("a", b"1", if_match=ABSENT)
    crypt.put("a", b"2", if_match=first.etag)
    with pytest.raises(Conflict):
        crypt.put("a", b"3", if_match=first.etag)
