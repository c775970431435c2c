"""The user's terminal: raw mode that is always undone, window size, detach keys, questions without an echo."""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import sys
import termios
import tty
from collections.abc import Iterator

from engine.cli.errors import BadValue

DETACH_KEYS = "ctrl-p,ctrl-q"


def is_terminal(fd: int) -> bool:
    """Whether a descriptor is a terminal; one that is closed is none."""
    try:
        return os.isatty(fd)
    except OSError:
        return False


@contextlib.contextmanager
def raw_mode(fd: int) -> Iterator[None]:
    """Put a terminal into raw mode inside the block, and back afterwards on every path."""
    before = termios.tcgetattr(fd)
    tty.setraw(fd, termios.TCSANOW)
    try:
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


def window_size(fd: int) -> tuple[int, int]:
    """Return (rows, columns); zeros if the terminal does not say."""
    try:
        rows, columns, _, _ = struct.unpack("HHHH", fcntl.ioctl(fd, termios.TIOCGWINSZ, bytes(8)))
    except OSError:
        return 0, 0
    return rows, columns


def columns(fd: int = 1, default: int = 80) -> int:
    """Return the width of the terminal at a descriptor."""
    return window_size(fd)[1] or default


def parse_detach_keys(text: str) -> bytes:
    """Parse `ctrl-p,ctrl-q`: single characters and ctrl-X, X one of a-z @ [ \\ ] ^ _. Raises BadValue."""
    keys = bytearray()
    for part in text.split(","):
        if len(part) == 1 and part.isascii():
            keys += part.encode()
        elif part.startswith("ctrl-") and len(part) == 6 and (part[5].islower() or part[5] in "@[\\]^_"):
            keys.append(ord(part[5].upper()) & 0x1F)
        else:
            raise BadValue(
                "--detach-keys", text, f"{part!r} is neither a character nor ctrl-<a-z, @, [, \\, ], ^ or _>"
            )
    return bytes(keys)


class DetachKeys:
    """Looks for the detach sequence in what is typed; holds back a part of it until it is clear what it is."""

    def __init__(self, keys: bytes) -> None:
        self._keys, self._matched = keys, 0

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """Return what to pass on, and whether the sequence is complete."""
        if not self._keys:
            return data, False
        passed = bytearray()
        for byte in data:
            if byte == self._keys[self._matched]:
                self._matched += 1
                if self._matched == len(self._keys):
                    return bytes(passed), True
                continue
            passed += self._keys[: self._matched]
            self._matched = 1 if byte == self._keys[0] else 0
            if not self._matched:
                passed.append(byte)
        return bytes(passed), False


def ask(question: str, *, echo: bool = True) -> str:
    """Ask on the terminal and return the line; raises EOFError at the end of the input."""
    fd = sys.stdin.fileno()
    silent = not echo and is_terminal(fd)
    with _without_echo(fd) if silent else contextlib.nullcontext():
        sys.stderr.write(question)
        sys.stderr.flush()
        try:
            return _line(fd)
        finally:
            if silent:
                sys.stderr.write("\n")


@contextlib.contextmanager
def _without_echo(fd: int) -> Iterator[None]:
    before = termios.tcgetattr(fd)
    silent = termios.tcgetattr(fd)
    silent[3] &= ~termios.ECHO
    termios.tcsetattr(fd, termios.TCSADRAIN, silent)
    try:
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


def _line(fd: int) -> str:
    line = bytearray()
    while byte := os.read(fd, 1):
        if byte == b"\n":
            return line.decode(errors="surrogateescape").rstrip("\r")
        line += byte
    if not line:
        raise EOFError
    return line.decode(errors="surrogateescape")


def confirm(question: str) -> bool:
    """Ask a question whose safe answer is no."""
    try:
        return ask(f"{question} [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False
