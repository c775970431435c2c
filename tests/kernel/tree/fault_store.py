"""Stores that fail: each fault as a wrapper, so that any of them can lie over any store."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal

from engine.spec.errors import NotFound, Unavailable
from engine.spec.storage import ShortRead, Stat, Store

Fault = Callable[[str, str, Callable[[], Any]], Any]
"""Called with an operation, a key and the operation itself; does it, or not, and returns or raises."""


class FaultStore(Store):
    """A store in front of which something happens. `fault` may be exchanged at any time; None: nothing happens."""

    def __init__(self, inner: Store, fault: Fault | None = None) -> None:
        self.inner = inner
        self.caps = inner.caps
        self.fault = fault
        self.calls = 0

    def _through(self, operation: str, key: str, call: Callable[[], Any]) -> Any:
        self.calls += 1
        return call() if self.fault is None else self.fault(operation, key, call)

    def head(self, key: str) -> Stat | None:
        return self._through("head", key, lambda: self.inner.head(key))

    def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        return self._through("get", key, lambda: self.inner.get(key, start, end))

    def put(
        self, key: str, data: bytes, *, if_match: str | None = None, metadata: Mapping[str, str] | None = None
    ) -> Stat:
        return self._through("put", key, lambda: self.inner.put(key, data, if_match=if_match, metadata=metadata))

    def put_stream(
        self,
        key: str,
        chunks: Iterable[bytes],
        *,
        if_match: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Stat:
        return self._through(
            "put", key, lambda: self.inner.put_stream(key, chunks, if_match=if_match, metadata=metadata)
        )

    def delete(self, key: str, *, if_match: str | None = None) -> None:
        self._through("delete", key, lambda: self.inner.delete(key, if_match=if_match))

    def list(self, prefix: str = "", *, delimiter: Literal["", "/"] = "") -> Iterator[Stat]:
        return iter(self._through("list", prefix, lambda: list(self.inner.list(prefix, delimiter=delimiter))))

    def copy(self, source: str, target: str) -> Stat:
        return self._through("copy", target, lambda: self.inner.copy(source, target))

    def check(self) -> None:
        self._through("check", "", self.inner.check)


def storm(probability: float, seed: int) -> Fault:
    """Answers of a server that is overloaded: 503, before or after it did what was asked."""
    chance, lock = random.Random(seed), threading.Lock()

    def fault(operation: str, key: str, call: Callable[[], Any]) -> Any:
        with lock:
            fails, late = chance.random() < probability, chance.random() < 0.5
        if fails and not late:
            raise Unavailable(f"{operation} {key!r}", why="503 Slow Down")
        answer = call()
        if fails:
            raise Unavailable(f"{operation} {key!r}", why="503, but it was done")
        return answer

    return fault


def every_tenth_cut() -> Fault:
    """A proxy that closes every tenth connection, when the request has passed."""
    count, lock = [0], threading.Lock()

    def fault(operation: str, key: str, call: Callable[[], Any]) -> Any:
        with lock:
            count[0] += 1
            cut = count[0] % 10 == 0
        answer = call()
        if cut:
            raise Unavailable(f"{operation} {key!r}", why="the connection was cut")
        return answer

    return fault


def vanished(operation: str, key: str, call: Callable[[], Any]) -> Any:
    """The bucket is gone."""
    raise NotFound(f"{operation} {key!r}", why="NoSuchBucket")


def wrong_lengths(seed: int) -> Fault:
    """Reads that are too short or too long, one of three: what a store that checks itself would refuse."""
    chance, lock = random.Random(seed), threading.Lock()

    def fault(operation: str, key: str, call: Callable[[], Any]) -> Any:
        answer = call()
        with lock:
            kind = chance.randrange(6)
        if operation == "get" and kind == 0 and answer:
            return answer[:-1]
        if operation == "get" and kind == 1:
            raise ShortRead(f"reading {key!r}")
        return answer

    return fault


class Killed(BaseException):
    """Stands for the end of the process: nothing catches it by accident."""


def kill_after(calls: int, *, before: bool) -> Fault:
    """End the process at a call: before or after the store did it."""
    count, lock = [0], threading.Lock()

    def fault(operation: str, key: str, call: Callable[[], Any]) -> Any:
        with lock:
            count[0] += 1
            now = count[0] == calls
        if now and before:
            os._exit(137)
        answer = call()
        if now:
            os._exit(137)
        return answer

    return fault
