"""Execs that do not run are kept for a while, and not without end."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from engine.container import execs
from engine.container.config import Config, HostConfig
from engine.container.execs import Execs
from engine.container.naming import new_id
from engine.container.record import Container, ContainerState
from engine.events import EventBus
from engine.runtime.failures import CommandNotFound
from engine.spec.errors import NotFound

SECONDS = 20.0


class Process:
    """A process that ends when it is told to."""

    pid = 0

    def __init__(self) -> None:
        self._read, self._write = os.pipe()

    def fileno(self) -> int:
        return self._read

    def end(self) -> None:
        os.close(self._write)

    def wait(self, _: float) -> int:
        return 7

    def close(self) -> None:
        os.close(self._read)


class NoRuntime:
    def bundle(self, _id: str) -> Any:
        return self

    def read_config(self) -> dict[str, Any]:
        return {}


class World:
    """Execs of one container, on a clock that is turned by hand."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.events = EventBus()
        self.died = threading.Semaphore(0)
        self.events.subscribe(lambda event: self.died.release() if event.action == "exec_die" else None)
        made: Any = NoRuntime()
        self.execs = Execs(made, self.events)
        self.container = Container(
            id=new_id(), name="c", created="2026-01-01T00:00:00Z", image_id="sha256:x", image_ref="x", path="sh",
            config=Config(), host_config=HostConfig(), state=ContainerState(status="running", pid=1),
        )  # fmt: skip
        self.processes: dict[str, Process] = {}

    def start_exec(self, _conmon: Any, _bundle: Any, id: str, *_: Any, **__: Any) -> Process:
        self.processes[id] = Process()
        return self.processes[id]

    def create(self) -> str:
        return self.execs.create(self.container, {"Cmd": ["true"]})

    def start(self) -> str:
        id = self.create()
        self.execs.start(id, detach=True, console_size=None)
        return id

    def end(self, id: str) -> None:
        self.processes[id].end()
        assert self.died.acquire(timeout=SECONDS)

    def known(self, id: str) -> bool:
        try:
            self.execs.inspect(id)
        except NotFound:
            return False
        return True


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    world = World()
    monkeypatch.setattr(execs, "start_exec", world.start_exec)
    monkeypatch.setattr(execs, "exec_process", lambda *_: {})
    monkeypatch.setattr(execs, "is_alive", lambda _: True)
    monkeypatch.setattr(execs, "monotonic", lambda: world.now)
    yield world
    world.execs.close()
    world.events.close()


def test_what_has_ended_can_be_asked_for_its_exit_code_for_five_minutes(world: World) -> None:
    ended, running = world.start(), world.start()
    world.now += 10_000
    world.end(ended)
    world.now += execs.KEPT_SECONDS - 1
    prepared = world.create()
    assert world.execs.inspect(ended)["ExitCode"] == 7
    world.now += 2
    world.create()
    assert not world.known(ended)
    assert world.known(running)
    assert world.known(prepared)
    world.end(running)


def test_no_more_than_so_many_that_do_not_run_are_kept(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execs, "KEPT", 5)
    running = world.start()
    ids = []
    for _ in range(20):
        world.now += 0.01
        ids.append(world.start())
        world.end(ids[-1])
    world.now += 1
    world.create()
    assert [id for id in ids if world.known(id)] == ids[-4:]
    assert world.known(running)
    world.end(running)
    world.now += 1
    for _ in range(4):
        world.create()
    assert world.known(running), "it has only just ended, however long ago it was made"


def test_a_command_that_could_not_be_started_has_ended(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise CommandNotFound("no such command")

    monkeypatch.setattr(execs, "start_exec", fail)
    with pytest.raises(CommandNotFound):
        world.start()
    (id,) = world.execs._execs
    assert world.execs.inspect(id)["ExitCode"] == 127
    world.now += execs.KEPT_SECONDS + 1
    world.create()
    assert not world.known(id)


def test_what_was_never_started_goes_when_its_container_ends(world: World) -> None:
    id = world.create()
    world.container.state.status = "exited"
    other = world.container.model_copy(update={"id": new_id(), "state": ContainerState(status="running", pid=1)})
    world.execs.create(other, {"Cmd": ["true"]})
    assert not world.known(id)
