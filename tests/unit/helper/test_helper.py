"""The parts of helpers that need none: configuration, errors on their way, the place."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from engine.helper.client import HelperClient
from engine.helper.config import HelperConfig, HelperConfigs
from engine.helper.messages import HelperGone, error_json, error_of
from engine.helper.place import HelperPlace
from engine.helper.process import Session
from engine.plugins import Plugins
from engine.spec.errors import Conflict, DeadlineExceeded, Internal, NotFound
from engine.spec.trees import StoreSpec
from engine.storage.secrets import Secrets
from engine.storage.stores import Stores


def test_the_configuration_is_sealed_and_has_the_secrets() -> None:
    secrets = Secrets(environ={"KEY": "access", "SECRET": "hunter2"})
    configs = HelperConfigs(Stores(Plugins()), secrets, host="here")
    options = {"access-key": "env:KEY", "secret-key": "env:SECRET"}
    config = configs.of_store(StoreSpec(url="s3://bucket", options=options), 7)
    assert config.store.options["deadline"] == "7"
    given = StoreSpec(url="s3://bucket", options={**options, "deadline": "3"})
    assert configs.of_store(given, 7).store == given
    assert configs.of_store(StoreSpec(url="file:///srv"), 7).store.options == {}
    descriptor = config.sealed()
    with pytest.raises(PermissionError):
        os.write(descriptor, b"x")
    read = HelperConfig.read(descriptor)
    assert read == config
    handed = read.given_secrets()
    assert (handed.read("env:KEY"), handed.read("env:SECRET")) == (b"access", b"hunter2")
    with pytest.raises(NotFound, match="not handed"):
        handed.read("env:PATH")
    assert "hunter2" not in repr(read.store)
    assert {"access-key", "endpoint-url", "deadline"} <= set(configs.option_names(StoreSpec(url="s3://bucket")))


def test_errors_arrive_as_they_were() -> None:
    error = Conflict("what", why="why", hint="hint", driver="d", details={"a": 1})
    arrived = error_of(json.loads(json.dumps(error_json(error))))
    assert type(arrived) is Conflict
    assert (str(arrived), arrived.details) == (str(error), {"a": 1})
    assert type(error_of({"kind": "of the future", "what": "x"})) is Internal


def test_a_place_whose_path_is_long(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["d" * 100] * 3)
    deep.mkdir(parents=True)
    place = HelperPlace(deep)
    with place.listen() as listener, place.connect(5) as connection:
        accepted, _ = listener.accept()
        with accepted:
            connection.sendall(b"x")
            assert accepted.recv(1) == b"x"


def test_the_lock_is_the_life_of_a_helper(tmp_path: Path) -> None:
    place = HelperPlace(tmp_path / "absent")
    assert not place.alive()
    assert place.card() == {}
    place = HelperPlace(tmp_path)
    descriptor = place.take()
    assert place.alive()
    assert place.resource() is None
    with pytest.raises(BlockingIOError):
        place.take()
    assert not place.gone(0.05)
    os.close(descriptor)
    assert place.gone(5)


def test_a_helper_that_is_dead_or_silent(tmp_path: Path) -> None:
    place = HelperPlace(tmp_path)
    client = HelperClient(place)
    with pytest.raises(HelperGone):
        client.status()
    listener = place.listen()
    with pytest.raises(DeadlineExceeded):
        client.status(0.1)
    listener.close()
    with pytest.raises(HelperGone):
        client.status()


def test_a_helper_that_is_ending_says_so_and_not_that_the_store_is_unavailable() -> None:
    session = Session(cast(Any, SimpleNamespace(tree=SimpleNamespace(path="/tree"))), cast(Any, None))
    session.close(0.0)
    with pytest.raises(HelperGone) as raised:
        session.answer({"op": "barrier", "deadline": 5.0})
    assert type(error_of(error_json(raised.value))) is HelperGone  # who asked starts it again
