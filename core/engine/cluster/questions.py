"""Questions to all daemons of a cluster: one is written into the store, each daemon writes its answer beside it.

Question and answers hang on one lease, and are gone when the asker has read them, or has died.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from secrets import token_hex

from engine.cluster.follow import Follower
from engine.cluster.model import ROOT, Document, decode
from engine.cluster.store import Batch, ClusterStore, Entry, LeaseLost, Listing, Put
from engine.spec.errors import EngineError

log = logging.getLogger(__name__)
QUESTIONS, ANSWERS = f"{ROOT}questions/", f"{ROOT}answers/"
LEASE_SECONDS = 30
POLL_SECONDS = 0.05


class Question(Document):
    """Is everything on a network as it should be, seen from your host?"""

    network: str
    lease: int
    """On which it and its answers hang."""


class Path(Document):
    """The way from one host to another."""

    to: str
    """Name of the other node."""
    bytes: int
    """Size of the packets that should pass."""
    problem: str = ""
    """Why they do not; empty if they do."""


class Answer(Document):
    """What one host says."""

    node: str
    containers: int = 0
    """How many of its containers are on the network."""
    entries: int = 0
    """How many endpoints of other hosts it has entries for."""
    problems: tuple[str, ...] = ()
    """What is not as it should be, in sentences."""
    paths: tuple[Path, ...] = ()
    """To the other hosts that have containers on the network."""


class Questions:
    """Asks, and answers what others ask. Thread-safe; `start` and `close` once each."""

    def __init__(self, store: ClusterStore, node: str, answer: Callable[[str], Answer]) -> None:
        """`answer` is given the id of a network."""
        self._store = store
        self._node = node
        self._answer = answer
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="answers")
        self._seen: set[str] = set()
        self._closed = threading.Event()
        self._follower = Follower(store, QUESTIONS, self)

    def start(self) -> None:
        """Answer from now on."""
        self._follower.start()

    def close(self) -> None:
        """Answer no more."""
        self._closed.set()
        self._follower.close()
        self._worker.shutdown(cancel_futures=True)

    def ask(self, network: str, nodes: Collection[str], seconds: float) -> dict[str, Answer]:
        """Return by node what those answer who do so in time. Raises Unavailable."""
        id, lease = token_hex(8), self._store.grant(LEASE_SECONDS)
        try:
            question = Question(network=network, lease=lease)
            self._store.commit([], [Put(QUESTIONS + id, question.encode(), lease)])
            deadline = time.monotonic() + seconds
            while True:
                entries = self._store.list(f"{ANSWERS}{id}/").entries
                found = {a.node: a for e in entries if (a := decode(Answer, e.key, e.value))}
                if found.keys() >= set(nodes) or time.monotonic() > deadline:
                    return found
                self._closed.wait(POLL_SECONDS)
        finally:
            self._store.revoke(lease)

    # What the follower tells

    def reset(self, listing: Listing) -> None:
        """Answer what has not been answered yet."""
        self._seen &= {entry.key for entry in listing.entries}
        for entry in listing.entries:
            self._take(entry)

    def changed(self, batch: Batch) -> None:
        """Answer what is new."""
        for change in batch.changes:
            if isinstance(change, Entry):
                self._take(change)
            else:
                self._seen.discard(change.key)

    def _take(self, entry: Entry) -> None:
        question = decode(Question, entry.key, entry.value)
        if question is not None and entry.key not in self._seen:
            self._seen.add(entry.key)
            self._worker.submit(self._reply, entry.key.removeprefix(QUESTIONS), question)

    def _reply(self, id: str, question: Question) -> None:
        try:
            answer = self._answer(question.network)
            self._store.commit([], [Put(f"{ANSWERS}{id}/{self._node}", answer.encode(), question.lease)])
        except LeaseLost:
            log.debug("nobody waits for the answer any more")
        except EngineError as err:
            log.warning("a question of the cluster could not be answered: %s", err)
