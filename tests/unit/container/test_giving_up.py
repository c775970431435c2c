"""A start that waits for a mount is given up by whoever stops, kills or removes the container meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from engine.container.config import Config, HostConfig
from engine.container.copies import Copies
from engine.container.freezer import Freezer
from engine.container.lifecycle import Lifecycle
from engine.container.naming import new_id
from engine.container.record import Container, ContainerState
from engine.container.signals import Signals
from engine.container.store import ContainerStore
from engine.events import EventBus
from engine.spec.errors import Conflict
from engine.state import State

SECONDS = 60.0


class SlowEnvironment:
    """Mounts as long as it is let."""

    def __init__(self) -> None:
        self.mounting, self.mounted = threading.Event(), threading.Event()
        self.undone = False

    def prepare(self, _container: Container, undo: ExitStack) -> str:
        undo.callback(setattr, self, "undone", True)
        self.mounting.set()
        assert self.mounted.wait(SECONDS)
        return "{}"

    def descriptors(self, _container: Container, _copies: ExitStack) -> tuple[int, ...]:
        return ()

    def log_path(self, _container: Container) -> None:
        return None


class NoRuntime:
    """A monitor whose process is never to run."""

    runtime: NoRuntime

    def __init__(self) -> None:
        self.runtime = self

    def warm_up(self) -> None: ...

    def bundle(self, id: str) -> str:
        return id

    def create(self, *_: Any, **__: Any) -> int:
        return 1

    def delete(self, *_: Any, **__: Any) -> None: ...

    def start(self, _id: str) -> None:
        raise AssertionError("the process was started")


class World:
    def __init__(self, path: Path) -> None:
        self.state = State(path / "state.db")
        self.events = EventBus()
        self.environment = SlowEnvironment()
        self.store = ContainerStore(self.state, Copies(path))
        self.container = Container(
            id=new_id(), name="c", created="2026-01-01T00:00:00Z", image_id="sha256:x", image_ref="x", path="sh",
            config=Config(), host_config=HostConfig(), state=ContainerState(),
        )  # fmt: skip
        self.store.add(self.container)
        made: Any = NoRuntime()
        environment: Any = self.environment
        self.lifecycle = Lifecycle(self.store, environment, made, self.events, lambda _: None)
        freezer = Freezer(self.store, self.lifecycle, made, self.events)
        self.signals = Signals(self.store, self.lifecycle, freezer, made, self.events)
        self.error: Exception | None = None
        self.thread = threading.Thread(target=self._start, daemon=True)
        self.thread.start()
        assert self.environment.mounting.wait(SECONDS)

    def _start(self) -> None:
        try:
            self.lifecycle.start(self.container)
        except Conflict as err:
            self.error = err

    def close(self) -> None:
        self.lifecycle.close()
        self.events.close()
        self.state.close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.close()


def end(world: World) -> None:
    world.environment.mounted.set()
    world.thread.join(SECONDS)
    assert "was given up" in str(world.error)
    assert world.environment.undone
    assert (world.container.state.status, "was given up" in world.container.state.error) == ("created", True)
    assert not world.lifecycle.give_up_start(world.container), "it is starting no more"


def test_a_signal_does_not_wait_for_the_mount(world: World) -> None:
    world.signals.kill(world.container, "INT")
    end(world)


def test_stopping_gives_the_start_up(world: World) -> None:
    stopping = threading.Thread(target=world.signals.stop, args=(world.container,), daemon=True)
    stopping.start()
    while not world.lifecycle._starting[world.container.id]:
        stopping.join(0.01)
    end(world)
    stopping.join(SECONDS)
    assert not stopping.is_alive()
