"""Trees on a bucket as other tools leave it, seen by what obstore tells of it."""

from __future__ import annotations

import urllib.request

import pytest
from tests.kernel.storage.gcs import TOKEN
from tests.kernel.storage.servers import google
from tests.kernel.tree.grounds import Place, store_of


@pytest.fixture
def bucket(tmp_path):
    with google(tmp_path) as place:
        yield place


def put(bucket, key: str, data: bytes = b"") -> None:
    """Write an object past the engine; its key may end in a slash."""
    url = f"{bucket.options['endpoint-url']}/{bucket.url.removeprefix('gcs://')}/{key}"
    request = urllib.request.Request(url, data, {"Authorization": f"Bearer {TOKEN}"}, method="PUT")
    urllib.request.urlopen(request, timeout=20).close()


def test_markers_of_directories_are_no_files(tmp_path, bucket):
    for key in ("empty/", "full/", "none"):
        put(bucket, key)
    put(bucket, "full/file", b"x")
    with Place(tmp_path, store_of(bucket.url, bucket.options)) as place:
        assert sorted(p.name for p in place.path.iterdir()) == ["full", "none"]
        assert (place.path / "full/file").read_bytes() == b"x"
        assert place.tree.status().state == "ready", place.tree.status()


def test_what_has_not_changed_is_not_fetched_again(tmp_path, bucket, monkeypatch):
    store = store_of(bucket.url, bucket.options)
    with Place(tmp_path, store) as place:
        (place.path / "ours").write_bytes(b"one")
        put(bucket, "theirs", b"two")
        place.sync()
    with place.reopened() as place:
        assert (place.path / "theirs").read_bytes() == b"two"
        (place.path / "theirs").write_bytes(b"written over what was listed")
        place.sync()
        assert place.tree.status().conflicts == ()
    monkeypatch.setattr(store, "view", lambda key, *_: pytest.fail(f"{key} is fetched again"))
    with place.reopened() as place:
        assert (place.path / "ours").read_bytes() == b"one"
