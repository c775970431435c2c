"""What every store promises: the same tests run on each."""

from __future__ import annotations

import threading
import time

import pytest

from engine.cluster.follow import Follower
from engine.cluster.store import Compacted, Delete, Entry, Exists, Gone, Holds, Is, LeaseLost, Nothing, Put

WAIT = 20.0


def until(condition, seconds: float = WAIT) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


class Heard:
    """A listener that remembers."""

    def __init__(self) -> None:
        self.entries: dict[str, bytes] = {}
        self.resets = 0

    def reset(self, listing) -> None:
        self.resets += 1
        self.entries = {e.key: e.value for e in listing.entries}

    def changed(self, batch) -> None:
        for change in batch.changes:
            if isinstance(change, Entry):
                self.entries[change.key] = change.value
            else:
                self.entries.pop(change.key, None)


class StoreContract:
    """Subclasses give the fixture `store`, an empty one."""

    def put(self, store, key: str, value: bytes = b"x", lease: int = 0) -> None:
        assert store.commit([], [Put(key, value, lease)])

    def test_what_is_put_is_there_with_its_revision(self, store):
        assert store.get("t/a") is None
        self.put(store, "t/a", b"1")
        first = store.get("t/a")
        self.put(store, "t/a", b"2")
        second = store.get("t/a")
        assert (first.value, second.value) == (b"1", b"2")
        assert second.revision > first.revision

    def test_a_list_has_the_keys_below_and_a_revision(self, store):
        for key in ("t/b", "t/a", "tt/c", "s/d"):
            self.put(store, key)
        listing = store.list("t/")
        assert [e.key for e in listing.entries] == ["t/a", "t/b"]
        assert listing.revision >= max(e.revision for e in listing.entries)

    def test_a_commit_is_all_or_nothing(self, store):
        self.put(store, "t/a")
        seen = store.get("t/a").revision
        assert not store.commit([Is("t/b", 5)], [Put("t/b", b"")])
        assert not store.commit([Is("t/a")], [Put("t/b", b"")])
        assert store.get("t/b") is None
        assert store.commit([Is("t/a", seen), Is("t/b")], [Put("t/a", b"2"), Put("t/b", b"3")])
        assert not store.commit([Is("t/a", seen)], [Delete("t/b")])
        one, other = store.get("t/a"), store.get("t/b")
        assert one.revision == other.revision

    def test_conditions(self, store):
        self.put(store, "t/a", b"1")
        for condition, holds in (
            (Exists("t/a"), True), (Exists("t/b"), False), (Holds("t/a", b"1"), True), (Holds("t/a", b"2"), False),
            (Holds("t/b", b""), False), (Nothing("t/"), False), (Nothing("u/"), True), (Is("t/b"), True),
        ):  # fmt: skip
            assert store.commit([condition], [Put("r", b"")]) is holds, condition

    def test_delete_below(self, store):
        for key in ("t/a/1", "t/a/2", "t/ab"):
            self.put(store, key)
        assert store.commit([], [Delete("t/a/", below=True), Delete("t/none")])
        assert [e.key for e in store.list("t/").entries] == ["t/ab"]

    def test_a_watch_misses_nothing(self, store):
        self.put(store, "t/a")
        revision = store.list("t/").revision
        store.commit([], [Put("t/b", b"1"), Put("u/x", b"")])
        store.commit([], [Delete("t/a")])
        watch, found = store.watch("t/", revision + 1), []
        timer = threading.Timer(WAIT, watch.close)
        timer.start()
        for batch in watch:
            found += batch.changes
            if len(found) == 2:
                self.put(store, "t/c", b"2")
            if len(found) == 3:
                break
        timer.cancel()
        watch.close()
        assert [(type(c), c.key) for c in found] == [(Entry, "t/b"), (Gone, "t/a"), (Entry, "t/c")]

    def test_a_watch_ends_when_it_is_closed(self, store):
        watch = store.watch("t/", store.list("t/").revision + 1)
        threading.Timer(0.2, watch.close).start()
        assert [c for batch in watch for c in batch.changes] == []

    def test_a_watch_from_the_future_is_refused(self, store):
        watch = store.watch("t/", store.list("t/").revision + 1000)
        with pytest.raises(Compacted):
            list(watch)

    def test_what_hangs_on_a_lease_goes_with_it(self, store):
        lease = store.grant(30)
        self.put(store, "t/a", b"", lease)
        self.put(store, "t/b")
        store.keep(lease)
        store.revoke(lease)
        store.revoke(lease)
        assert [e.key for e in store.list("t/").entries] == ["t/b"]
        with pytest.raises(LeaseLost):
            store.keep(lease)
        with pytest.raises(LeaseLost):
            store.commit([], [Put("t/c", b"", lease)])

    def test_a_lease_that_nobody_keeps_ends(self, store):
        lease = store.grant(1)
        self.put(store, "t/a", b"", lease)
        until(lambda: store.get("t/a") is None)

    def test_a_follower_hears_what_is_there_and_what_changes(self, store):
        self.put(store, "t/a", b"1")
        heard = Heard()
        follower = Follower(store, "t/", heard)
        follower.start()
        try:
            assert follower.wait(WAIT)
            assert heard.entries == {"t/a": b"1"}
            store.commit([], [Put("t/b", b"2"), Delete("t/a")])
            until(lambda: heard.entries == {"t/b": b"2"})
            assert heard.resets == 1
        finally:
            follower.close()

    def test_writers_that_compare_never_lose_a_change(self, store):
        def count() -> None:
            for _ in range(20):
                while True:
                    entry = store.get("t/n")
                    value = str(int(entry.value) + 1 if entry else 1).encode()
                    if store.commit([Is("t/n", entry.revision if entry else 0)], [Put("t/n", value)]):
                        break

        threads = [threading.Thread(target=count) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT)
        assert store.get("t/n").value == b"80"
