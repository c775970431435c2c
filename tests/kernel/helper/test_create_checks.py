"""What `volume create` finds out about a bucket: a volume that could never be uploaded is not made."""

from __future__ import annotations

import pytest
from tests.kernel.storage import servers
from tests.kernel.tree.grounds import store_of

from engine.helper.config import HelperConfigs
from engine.helper.launch import check_store
from engine.plugins import Plugins
from engine.spec.errors import Forbidden, NotFound
from engine.spec.trees import StoreSpec
from engine.storage.secrets import Secrets
from engine.storage.stores import Stores


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    directory = tmp_path_factory.mktemp("weed")
    with servers.seaweed(directory) as place:
        yield place, directory


def check(url: str, options: dict[str, str]) -> None:
    configs = HelperConfigs(Stores(Plugins()), Secrets(), host="here")
    check_store(configs.of_store(StoreSpec(url=url, options=options), 30.0), 60.0)


def test_a_bucket_that_can_be_written_is_left_as_it_was(bucket):
    place, _ = bucket
    check(place.url, place.options)
    assert list(store_of(place.url, place.options).list()) == []


def test_credentials_that_may_only_read(bucket):
    place, directory = bucket
    with pytest.raises(Forbidden, match=r"can be read, but not written.*AccessDenied.*may write and remove"):
        check(place.url, {**place.options, "access-key": f"file:{directory}/reader"})


def test_a_bucket_that_is_missing(bucket):
    place, _ = bucket
    with pytest.raises(NotFound, match="NoSuchBucket"):
        check("s3://missing/some/prefix", place.options)
    with pytest.raises(NotFound, match="NoSuchBucket"):  # and was not made by looking for it
        check("s3://missing/some/prefix", place.options)
