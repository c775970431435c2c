"""Requests that end in the middle: what a server makes of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.kernel.kills.machine import Front
from tests.kernel.storage import servers
from tests.kernel.tree.grounds import store_of

from engine.spec.errors import EngineError


def test_an_object_of_which_only_a_part_arrived_is_none(tmp_path: Path) -> None:
    """Without a checksum, SeaweedFS replaces an object by an empty one when the body does not come at all."""
    with servers.seaweed(tmp_path) as place:
        front = Front(place.options["endpoint-url"])
        store = store_of(place.url, {**place.options, "endpoint-url": front.endpoint, "deadline": "1"})
        try:
            for size in (1, 70_000):  # half of one byte is none
                before = store.put("file", b"old")
                front.spoil(1, 1, ["half a request"])
                with pytest.raises(EngineError):
                    store.put("file", b"x" * size, if_match=before.etag)
                with pytest.raises(EngineError):
                    store.put("new", b"x" * size)
                front.calm()
                assert store.get("file") == b"old"
                assert store.head("new") is None
        finally:
            front.kill()
