"""Trees on a bucket as other tools leave it, seen by what obstore tells of it."""

from __future__ import annotations

import shutil
import urllib.request

import pytest
from tests.kernel.storage.gcs import TOKEN
from tests.kernel.storage.servers import google, seaweed
from tests.kernel.tree.grounds import Place, keys, store_of


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


@pytest.mark.parametrize("count", [1, 60], ids=["alone", "together"])
def test_a_file_takes_the_name_of_a_directory_that_the_server_still_has(tmp_path, count):
    """SeaweedFS keeps directories of which all objects are removed, and a condition finds an object there."""
    with seaweed(tmp_path) as server, Place(tmp_path, store_of(server.url, server.options)) as place:
        names = [f"name{n}" for n in range(count)]
        for name in names:
            (place.path / name / "deep" / "er").mkdir(parents=True)
            (place.path / name / "deep" / "er" / "file").write_bytes(b"below")
        place.sync()
        for name in names:
            shutil.rmtree(place.path / name)
            (place.path / name).write_bytes(b"a file now")
        place.sync()
        assert {name: place.store.get(name) for name in keys(place.store)} == dict.fromkeys(names, b"a file now")
        assert place.tree.status().conflicts == ()
