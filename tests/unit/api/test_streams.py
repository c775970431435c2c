"""Frames, detach keys, and bytes that cross from a thread to the loop."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import aclosing

import pytest

from engine.api.detach import DEFAULT_KEYS, KeySequence, parse_keys
from engine.api.streams import frame
from engine.api.transfer import Channel, ChannelWriter, from_thread
from engine.spec.errors import InvalidParameter, Unavailable


def test_frames() -> None:
    assert frame(1, b"ab") == b"\x01\0\0\0\0\0\0\x02ab"
    assert frame(2, b"") == b"\x02\0\0\0\0\0\0\0"
    assert frame(1, b"x" * 70000)[:8] == b"\x01\0\0\0\0\x01\x11\x70"


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("", DEFAULT_KEYS),
        ("ctrl-p,ctrl-q", b"\x10\x11"),
        ("ctrl-a,x", b"\x01x"),
        ("ctrl-@,ctrl-[,ctrl-\\,ctrl-],ctrl-^,ctrl-_", b"\0\x1b\x1c\x1d\x1e\x1f"),
        ("q", b"q"),
    ],
)
def test_keys(text: str, keys: bytes) -> None:
    assert parse_keys(text) == keys


@pytest.mark.parametrize("text", ["ctrl-", "ctrl-1", "ab", "a,,b", "é"])
def test_keys_that_are_none(text: str) -> None:
    with pytest.raises(InvalidParameter):
        parse_keys(text)


def feed(*pieces: bytes, keys: bytes = b"\x10\x11") -> tuple[list[bytes], bool]:
    sequence, passed = KeySequence(keys), []
    for piece in pieces:
        data, detached = sequence.feed(piece)
        passed.append(data)
        if detached:
            return passed, True
    return passed, False


def test_a_sequence_in_one_piece_or_several() -> None:
    assert feed(b"ab\x10\x11cd") == ([b"ab"], True)
    assert feed(b"ab\x10", b"\x11cd") == ([b"ab", b""], True)
    assert feed(b"\x10", b"\x10", b"\x11") == ([b"", b"\x10", b""], True)


def test_a_sequence_that_is_broken_off_is_passed_on() -> None:
    assert feed(b"a\x10", b"b") == ([b"a", b"\x10b"], False)
    assert feed(b"aab", b"aaab", keys=b"aaa") == ([b"aab", b""], True)
    assert feed(b"aab", b"aa", b"b", keys=b"aaa") == ([b"aab", b"", b"aab"], False)


def test_without_keys_everything_is_passed_on() -> None:
    assert feed(b"\x10\x11", keys=b"") == ([b"\x10\x11"], False)


def test_an_iterator_in_a_thread() -> None:
    async def collect() -> bytes:
        closed = threading.Event()
        chunks = iter([b"x" * 100_000] * 100)
        async with aclosing(from_thread(chunks, closed.set)) as stream:
            data = b"".join([piece async for piece in stream])
        assert closed.is_set()
        return data

    assert len(asyncio.run(collect())) == 10_000_000


def test_a_failure_in_the_thread_comes_after_what_was_read() -> None:
    def chunks() -> Iterator[bytes]:
        yield b"some"
        raise Unavailable("the log is gone")

    async def collect() -> list[bytes]:
        got = []
        with pytest.raises(Unavailable):
            async for piece in from_thread(chunks(), lambda: None):
                got.append(piece)
        return got

    assert asyncio.run(collect()) == [b"some"]


def test_what_waits_is_bounded_and_given_up_with_the_reader() -> None:
    async def run() -> int:
        channel, produced = Channel(limit=1000), 0
        given_up = threading.Event()

        def produce() -> None:
            nonlocal produced
            try:
                while True:
                    ChannelWriter(channel).write(b"x" * 100)
                    produced += 1
            except ConnectionAbortedError:
                given_up.set()

        thread = threading.Thread(target=produce)
        thread.start()
        await channel.get()
        await asyncio.sleep(0.1)
        channel.close()
        assert await asyncio.to_thread(given_up.wait, 10)
        thread.join()
        return produced

    assert asyncio.run(run()) <= 25


def test_a_followed_stream_is_ended_by_close() -> None:
    stop = threading.Event()

    def follow() -> Iterator[bytes]:
        yield b"first"
        stop.wait(30)

    async def run() -> None:
        async with aclosing(from_thread(follow(), stop.set)) as stream:
            async for piece in stream:
                assert piece == b"first"
                break

    started = time.monotonic()
    asyncio.run(run())
    assert stop.is_set()
    assert time.monotonic() - started < 10
