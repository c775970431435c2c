"""Frames, detach keys, and conversations."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.cli.client import Hijacked
from engine.cli.errors import BadValue, Failure
from engine.cli.streams import Conversation, Demultiplexer
from engine.cli.terminal import DetachKeys, parse_detach_keys
from engine.cli.transport import SocketWire

from .fake_daemon import frame

FRAMES = st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=300)), max_size=8)


@given(FRAMES, st.lists(st.integers(1, 40), min_size=1, max_size=10))
def test_frames_in_any_fragments(frames: list[tuple[int, bytes]], sizes: list[int]) -> None:
    data = b"".join(frame(stream, content) for stream, content in frames)
    demultiplexer = Demultiplexer()
    found: dict[int, bytes] = {1: b"", 2: b""}
    at, step = 0, 0
    while at < len(data):
        size = sizes[step % len(sizes)]
        for stream, content in demultiplexer.feed(data[at : at + size]):
            found[stream] += content
        at, step = at + size, step + 1
    for stream in (1, 2):
        assert found[stream] == b"".join(content for s, content in frames if s == stream)


def test_a_broken_frame_is_an_error() -> None:
    with pytest.raises(Failure, match="broken stream"):
        list(Demultiplexer().feed(b"HTTP/1.1 500"))


@given(st.lists(st.sampled_from([b"\x10", b"\x11", b"a", b"\x10\x10"]), max_size=12), st.integers(1, 3))
def test_detach_keys_pass_on_all_but_the_sequence(parts: list[bytes], size: int) -> None:
    data = b"".join(parts)
    keys = DetachKeys(b"\x10\x11")
    passed, detached = b"", False
    for at in range(0, len(data), size):
        some, detached = keys.feed(data[at : at + size])
        passed += some
        if detached:
            break
    if b"\x10\x11" in data:
        assert detached
        assert passed == data[: data.index(b"\x10\x11")]
    else:
        assert not detached
        assert data.startswith(passed)
        assert data[len(passed) :] in (b"", b"\x10")


def test_detach_keys_are_parsed() -> None:
    assert parse_detach_keys("ctrl-p,ctrl-q") == b"\x10\x11"
    assert parse_detach_keys("a,ctrl-[,ctrl-@") == b"a\x1b\x00"
    for bad in ("", "ctrl-", "ctrl-pp", "ctrl-P", "ab", "a,,b"):
        with pytest.raises(BadValue, match="--detach-keys"):
            parse_detach_keys(bad)


@contextmanager
def _standard_streams() -> Iterator[tuple[int, int, int]]:
    """Put pipes in place of our stdin, stdout and stderr; yield their other ends."""
    saved = [os.dup(n) for n in range(3)]
    pipes = [os.pipe() for _ in range(3)]
    os.dup2(pipes[0][0], 0)
    os.dup2(pipes[1][1], 1)
    os.dup2(pipes[2][1], 2)
    for fd in (pipes[0][0], pipes[1][1], pipes[2][1]):
        os.close(fd)
    try:
        yield pipes[0][1], pipes[1][0], pipes[2][0]
    finally:
        for number, fd in enumerate(saved):
            os.dup2(fd, number)
            os.close(fd)


def _read_all(fd: int) -> bytes:
    with os.fdopen(fd, "rb") as file:
        return file.read()


@pytest.mark.parametrize("tty", [False, True])
def test_conversation(tty: bool, capfd: pytest.CaptureFixture[str]) -> None:
    """Much data both ways at once; the end of stdin reaches the container, whose output still comes."""
    ours, theirs = socket.socketpair()
    size = 2_000_000

    def container() -> None:
        received = b""
        while part := theirs.recv(65536):
            received += part
            if not tty:
                theirs.sendall(frame(2, part))
        theirs.sendall(b"end %d" % len(received) if tty else frame(1, b"end %d" % len(received)))
        theirs.close()

    with capfd.disabled(), _standard_streams() as (stdin, stdout, stderr):
        collected: dict[str, bytes] = {}
        threads = [
            threading.Thread(target=container),
            threading.Thread(target=lambda: (os.write(stdin, b"x" * 1000), _fill(stdin, size - 1000))),
            threading.Thread(target=lambda: collected.update(out=_read_all(stdout))),
            threading.Thread(target=lambda: collected.update(err=_read_all(stderr))),
        ]
        for thread in threads:
            thread.start()
        Conversation(Hijacked(SocketWire(ours), b"", ""), tty=tty, stdin=True).run()
    for thread in threads:
        thread.join(20)
    assert collected["out"] == b"end %d" % size
    assert collected["err"] == (b"" if tty else b"x" * size)


def _fill(fd: int, size: int) -> None:
    with os.fdopen(fd, "wb") as file:
        file.write(b"x" * size)
