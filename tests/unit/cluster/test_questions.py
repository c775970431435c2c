"""Questions to all daemons of a cluster."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from engine.cluster.memory import MemoryStore
from engine.cluster.questions import ANSWERS, QUESTIONS, Answer, Path, Questions
from engine.spec.errors import Unavailable


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def nodes(store: MemoryStore) -> Iterator[dict[str, Questions]]:
    """Three nodes; `c` fails whenever it is asked."""

    def answer(name: str, network: str) -> Answer:
        if name == "c":
            raise Unavailable("no")
        return Answer(node=name, containers=2, problems=(network,), paths=(Path(to="x", bytes=1500),))

    made = {name: Questions(store, name, lambda network, name=name: answer(name, network)) for name in "abc"}
    for node in made.values():
        node.start()
    yield made
    for node in made.values():
        node.close()


def test_all_answer_and_nothing_is_left(store: MemoryStore, nodes: dict[str, Questions]) -> None:
    found = nodes["a"].ask("net", {"a", "b"}, 20)
    assert found.keys() == {"a", "b"}
    assert found["b"] == Answer(node="b", containers=2, problems=("net",), paths=(Path(to="x", bytes=1500),))
    assert not store.list(QUESTIONS).entries
    assert not store.list(ANSWERS).entries


def test_who_fails_is_not_waited_for_longer_than_asked(nodes: dict[str, Questions]) -> None:
    started = time.monotonic()
    assert nodes["b"].ask("net", {"a", "b", "c"}, 0.5).keys() == {"a", "b"}
    assert time.monotonic() - started < 10
    assert nodes["b"].ask("other", {"a"}, 20)["a"].problems == ("other",)


def test_garbage_is_no_question(store: MemoryStore, nodes: dict[str, Questions]) -> None:
    from engine.cluster.store import Put

    store.commit([], [Put(f"{QUESTIONS}x", b"garbage")])
    assert nodes["a"].ask("net", {"b"}, 20)["b"].node == "b"
