"""The store in memory."""

import pytest
from tests.unit.cluster.store_contract import Heard, StoreContract, until

from engine.cluster.follow import Follower
from engine.cluster.memory import MemoryStore
from engine.cluster.store import Put


@pytest.fixture
def store():
    return MemoryStore()


class TestMemory(StoreContract):
    pass


def test_after_a_compaction_a_follower_lists_again(store):
    heard = Heard()
    follower = Follower(store, "t/", heard)
    follower.start()
    try:
        assert follower.wait(20)
        with store.turn:
            store.commit([], [Put("t/a", b"1")])
            store.compact()
        until(lambda: heard.entries == {"t/a": b"1"})
        assert heard.resets == 2
    finally:
        follower.close()
