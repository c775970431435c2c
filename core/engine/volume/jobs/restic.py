"""Runs restic against a repository in a store.

Passwords go by memory files, never by arguments or the environment. Source: restic manual, version 0.14; `Scripting`.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from engine.spec.errors import ApplyFailed, Conflict, EngineError, Forbidden, NotFound, Unavailable
from engine.spec.storage import Store
from engine.volume.jobs.bridge import Bridge
from engine.volume.jobs.work import Work

Message = dict[str, Any]
_ERRORS = (
    ("wrong password or no key found", Forbidden, "the password is not the repository's"),
    ("no matching ID found", NotFound, "the repository has no such snapshot"),
    ("no snapshot found", NotFound, "the repository has no such snapshot"),
    ("invalid id", NotFound, "the repository has no such snapshot"),
    ("multiple IDs with prefix", NotFound, "more than one snapshot begins like that"),
    ("snapshot is empty", Conflict, "the volume is empty: there is nothing to back up"),
    ("no space left on device", ApplyFailed, "the disk is full"),
    ("disk quota exceeded", ApplyFailed, "the disk is full"),
)  # fmt: skip
"""What restic says on its standard error -> what it means."""
_STDERR_KEPT = 8192
_TURN_SECONDS = 0.2


class Repository:
    """One repository, while its bridge runs."""

    def __init__(self, work: Work, bridge: Bridge, password: bytes, cache: Path) -> None:
        self._work, self._bridge, self._password, self._cache = work, bridge, password, cache

    @property
    def transferred(self) -> int:
        """Bytes that went from the store and to it."""
        return self._bridge.sent + self._bridge.received

    def exists(self) -> bool:
        """Tell whether there is a repository. Raises Unavailable, Forbidden, ..."""
        return self._bridge.store.head("config") is not None

    def initialise(self) -> None:
        """Make a new one."""
        self.run("init")

    def snapshots(self, *arguments: str) -> list[Message]:
        """Return restic's list of snapshots. Raises Forbidden for a wrong password."""
        messages = self.run("snapshots", *arguments)
        found: list[Message] = messages[-1] if messages and isinstance(messages[-1], list) else []
        return found

    def run(
        self,
        *arguments: str,
        directory: Path | None = None,
        accept: Sequence[int] = (0,),
        each: Callable[[Message], object] | None = None,
        turn: Callable[[], object] | None = None,
    ) -> list[Any]:
        """Run a command; return its JSON messages, or hand each to `each`. `turn` is called a few times a second.

        Raises the kind of error that restic's words or the store's own failure mean.
        """
        found: list[Any] = []
        with _memory_file(self._password) as key, _memory_file(self._bridge.url.encode()) as place:
            argv = [
                "restic", "--json", "--repository-file", f"/dev/fd/{place}", "--password-file", f"/dev/fd/{key}",
                "--cache-dir", str(self._cache), "--cleanup-cache", *arguments,
            ]  # fmt: skip
            errors = (self._work.place.path / "restic.err").open("w+b")
            with errors, self._work.program(
                argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, pass_fds=(key, place),
                cwd=directory or "/", env=_environment(),
            ) as process:  # fmt: skip
                for line in self._lines(process, turn):
                    message = _parsed(line)
                    if message is None:
                        continue
                    if each is not None and isinstance(message, dict):
                        each(message)
                    else:
                        found.append(message)
                code = process.wait()
                errors.seek(0, os.SEEK_END)
                errors.seek(max(0, errors.tell() - _STDERR_KEPT))
                if self._bridge.failure is not None:
                    raise self._bridge.failure
                if code not in accept:
                    raise _failure(arguments[0], code, errors.read().decode(errors="replace")) from self._bridge.last
        return found

    def _lines(self, process: subprocess.Popen[bytes], turn: Callable[[], object] | None) -> Iterator[bytes]:
        """Yield what restic writes; end it when the store has failed for good."""
        import select

        assert process.stdout is not None
        descriptor, rest = process.stdout.fileno(), b""
        while self._bridge.failure is None:
            if turn is not None:
                turn()
            if not select.select([descriptor], [], [], _TURN_SECONDS)[0]:
                continue
            data = os.read(descriptor, 1 << 16)
            if not data:
                break
            *lines, rest = (rest + data).split(b"\n")
            yield from lines
        else:
            process.kill()
        if rest:
            yield rest


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None  # `restic restore` of 0.14 has no JSON: it talks to people


def _environment() -> dict[str, str]:
    """Return restic's environment: nothing that would change its repository or its password."""
    kept = ("PATH", "HOME", "TMPDIR", "LANG")
    return {**{k: v for k in kept if (v := os.environ.get(k))}, "RESTIC_PROGRESS_FPS": "4", "NO_PROXY": "127.0.0.1"}


def _failure(command: str, code: int, text: str) -> EngineError:
    lines = [line for line in text.strip().splitlines() if line.strip() and not line.startswith("created new cache")]
    for words, kind, meaning in _ERRORS:
        if words.lower() in text.lower():
            return kind(f"restic {command} failed", why=meaning)
    return ApplyFailed(f"restic {command} failed with {code}", why="; ".join(lines[-3:]) or "it said nothing")


@contextmanager
def _memory_file(data: bytes) -> Iterator[int]:
    descriptor = os.memfd_create("secret", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, data)
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def repository(work: Work, store: Store, password: bytes, cache: Path) -> Iterator[Repository]:
    """Serve a store as a repository meanwhile. Raises Unavailable, Forbidden, NotFound if it cannot be used at all."""
    store.check()
    with Bridge(store, work.place.path / "locks") as bridge:
        yield Repository(work, bridge, password, cache)


__all__ = ["Message", "Repository", "Unavailable", "repository"]
