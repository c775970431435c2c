"""What a tree must be: a model in memory of directories, files and links, and the writer that changes both at once."""

from __future__ import annotations

import errno
import os
import random
import shutil
import stat
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

NAMES = ("a", "b", "c", "d", "e", "ü", "with space")
DEEPEST = 4
MOST = 60
"""Paths of a tree, about: with more of them, the writer rather removes."""
_REFUSED = (errno.EIO, errno.EPERM)
"""What an access ends with whose file could not be fetched: nothing has changed then."""
_IMPOSSIBLE = (
    errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENOTEMPTY, errno.ENOENT, errno.EINVAL,
)  # fmt: skip
"""What operations end with that make no sense where they were tried: nothing has changed then, either."""


@dataclass
class Node:
    """A file, directory or link; a file with several names is one object under several keys."""

    kind: Literal["file", "directory", "link"]
    mode: int = 0
    content: bytes = b""
    """Of a file; a link's target."""

    @property
    def facts(self) -> tuple[str, int, bytes]:
        """What is compared."""
        return (self.kind, self.mode if self.kind != "link" else 0, self.content)


@dataclass
class Shadow:
    """The model: nodes by their paths."""

    nodes: dict[str, Node] = field(default_factory=dict)

    def below(self, path: str) -> list[str]:
        """Return what is in a directory, at any depth."""
        return [p for p in self.nodes if p.startswith(f"{path}/")]

    def remove(self, path: str) -> None:
        """Remove a path, and what is below it."""
        for each in [path, *self.below(path)]:
            del self.nodes[each]

    def rename(self, source: str, target: str) -> None:
        """As rename(2), where that succeeded."""
        moved = {target + p.removeprefix(source): self.nodes[p] for p in [source, *self.below(source)]}
        if target in self.nodes and self.nodes[target] is self.nodes[source]:
            return  # two names of a file: nothing happens
        if target in self.nodes:
            self.remove(target)
        self.remove(source)
        self.nodes |= moved

    def of_kind(self, kind: str) -> list[str]:
        """Return all paths of a kind."""
        return sorted(p for p, node in self.nodes.items() if node.kind == kind)

    def differences(self, root: Path, *, contents: bool = True) -> list[str]:
        """Return how a directory differs: what is lost, what is a ghost, and what is another thing."""
        found = {str(p.relative_to(root)): p for p in root.rglob("*")}
        wrong = [f"lost: {path}" for path in self.nodes if path not in found]
        wrong += [f"ghost: {path}" for path in found if path not in self.nodes]
        for path in sorted(found.keys() & self.nodes.keys()):
            here, wanted = seen(found[path], contents=contents), self.nodes[path].facts
            if not contents and wanted[0] == "file":
                wanted = (*wanted[:2], len(wanted[2]).to_bytes(8, "big"))
            if here != wanted:
                wrong.append(f"differs: {path}: {_short(here)}, not {_short(wanted)}")
        return wrong


def seen(path: Path, *, contents: bool = True) -> tuple[str, int, bytes]:
    """Return a path's facts as the model has them; without contents, a file's size in place of them."""
    facts = path.lstat()
    mode = stat.S_IMODE(facts.st_mode)
    if stat.S_ISLNK(facts.st_mode):
        return ("link", 0, os.fsencode(path.readlink()))
    if stat.S_ISDIR(facts.st_mode):
        return ("directory", mode, b"")
    return ("file", mode, path.read_bytes() if contents else facts.st_size.to_bytes(8, "big"))


def _short(facts: tuple[str, int, bytes]) -> str:
    kind, mode, content = facts
    return f"{kind} {mode:o} {len(content)} bytes {content[:12]!r}"


class Writer:
    """A thread that changes a tree and its model, mostly by renames, until it is told to stop.

    It is no part of what is killed, as a process in a container is none: what a system call has returned is certain.
    """

    def __init__(self, root: Path, shadow: Shadow, seed: int) -> None:
        self.root, self.shadow = root, shadow
        self.operations = self.refused = 0
        self.error: BaseException | None = None
        self._random = random.Random(seed)
        self._going = threading.Event()
        self._idle = threading.Event()
        self._end = False
        threading.Thread(target=self._run, name="writer", daemon=True).start()

    def _run(self) -> None:
        try:
            while not self._end:
                if not self._going.is_set():
                    self._idle.set()
                    self._going.wait()
                    continue
                self._operate()
                self._pause()
        except BaseException as err:  # noqa: BLE001  # whoever waits for this thread says it
            self.error = err
        finally:
            self._idle.set()

    def resume(self) -> None:
        """Work again."""
        self._idle.clear()
        self._going.set()

    def pause(self, seconds: float) -> bool:
        """Let the operation end that is under way; tell whether it did, so soon. Raises what the writer ended with."""
        self._going.clear()
        done = self._idle.wait(seconds)
        if self.error is not None:
            raise self.error
        return done

    def stop(self) -> None:
        """End."""
        self._end = True
        self._going.set()

    def _pause(self) -> None:
        time.sleep(self._random.choice([0, 0, 0.001, 0.005]))

    # Operations

    def _operate(self) -> None:
        often: list[tuple[int, Callable[[], None]]] = [
            (5, self._write), (2, self._replace), (2, self._append), (1, self._truncate), (8, self._rename),
            (4, self._rename_directory), (2, self._swap), (2, self._make_directory), (3, self._link), (1, self._name),
            (2, self._chmod), (3, self._remove), (1, self._remove_tree), (1, self._read),
        ]  # fmt: skip
        if len(self.shadow.nodes) > MOST:
            often += [(20, self._remove), (4, self._remove_tree)]
        (operation,) = self._random.choices([o for _, o in often], [weight for weight, _ in often])
        try:
            operation()
            self.operations += 1
        except OSError as err:
            if err.errno not in (*_REFUSED, *_IMPOSSIBLE):
                raise
            self.refused += err.errno in _REFUSED

    def _at(self, path: str) -> Path:
        return self.root / path

    def _any_path(self) -> str:
        """Return a path whose directory exists, whatever is there now."""
        directories = ["", *(d for d in self.shadow.of_kind("directory") if d.count("/") < DEEPEST - 1)]
        directory = self._random.choice(directories)
        name = self._random.choice(NAMES)
        return f"{directory}/{name}" if directory else name

    def _one_of(self, kind: str) -> str:
        """Return a path of a kind. Raises FileNotFoundError if there is none."""
        paths = self.shadow.of_kind(kind)
        if not paths:
            raise FileNotFoundError(errno.ENOENT, f"no {kind}")
        return self._random.choice(paths)

    def _content(self) -> bytes:
        size = self._random.choice([0, 1, 100, 4096, 4097, 70_000])
        if self._random.random() < 0.02:
            size = 3 << 20
        return self._random.randbytes(size)

    def _save(self, path: str, data: bytes, flags: int) -> None:
        """Open, write, fsync; the model follows each step."""
        node = self.shadow.nodes.get(path)
        if node is not None and node.kind != "file":
            raise FileExistsError(errno.EEXIST, path)
        mode = self._random.choice([0o644, 0o600, 0o755])
        fd = os.open(self._at(path), os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | flags, mode)
        try:
            if node is None:
                node = self.shadow.nodes[path] = Node("file", stat.S_IMODE(os.fstat(fd).st_mode))
            if flags & os.O_TRUNC:
                node.content = b""
            if data:
                written = os.write(fd, data)
                node.content += data[:written]
            if self._random.random() < 0.3:
                os.fsync(fd)
        finally:
            os.close(fd)

    def _write(self) -> None:
        self._save(self._any_path(), self._content(), os.O_TRUNC)

    def _append(self) -> None:
        self._save(self._one_of("file"), b"more", os.O_APPEND)

    def _replace(self) -> None:
        """As editors do: a new file takes the name of the old one."""
        path = self._one_of("file")
        new = f"{path}.new"
        self._save(new, self._content(), os.O_TRUNC)
        self._at(new).rename(self._at(path))
        self.shadow.rename(new, path)

    def _truncate(self) -> None:
        path = self._one_of("file")
        node = self.shadow.nodes[path]
        size = self._random.randrange(len(node.content) + 1)
        fd = os.open(self._at(path), os.O_WRONLY)
        try:
            os.ftruncate(fd, size)
            node.content = node.content[:size]
        finally:
            os.close(fd)

    def _rename(self) -> None:
        source = self._random.choice([*self.shadow.of_kind("file"), *self.shadow.of_kind("link"), self._any_path()])
        self._move(source, self._any_path())

    def _rename_directory(self) -> None:
        self._move(self._one_of("directory"), self._any_path())

    def _move(self, source: str, target: str) -> None:
        self._at(source).rename(self._at(target))
        self.shadow.rename(source, target)

    def _swap(self) -> None:
        """Two paths change places by way of a third."""
        one, other = self._random.sample(sorted(self.shadow.nodes), 2) if len(self.shadow.nodes) > 1 else ("a", "b")
        if one.startswith(f"{other}/") or other.startswith(f"{one}/"):
            return
        self._move(one, "between")
        self._move(other, one)
        self._move("between", other)

    def _make_directory(self) -> None:
        path = self._any_path()
        mode = self._random.choice([0o755, 0o700, 0o2775])
        self._at(path).mkdir()
        self.shadow.nodes[path] = Node("directory", stat.S_IMODE(self._at(path).lstat().st_mode))
        self._at(path).chmod(mode)
        self.shadow.nodes[path].mode = mode

    def _link(self) -> None:
        path = self._any_path()
        target = self._random.choice(["a", "../b", "nowhere", "c/d"])
        self._at(path).symlink_to(target)
        self.shadow.nodes[path] = Node("link", 0, target.encode())

    def _name(self) -> None:
        """Give a file another name as well."""
        path, new = self._one_of("file"), self._any_path()
        self._at(new).hardlink_to(self._at(path))
        self.shadow.nodes[new] = self.shadow.nodes[path]

    def _chmod(self) -> None:
        path = self._random.choice([*self.shadow.of_kind("file"), *self.shadow.of_kind("directory"), self._any_path()])
        node = self.shadow.nodes.get(path)
        if node is None or node.kind == "link":
            return
        mode = self._random.choice([0o640, 0o755] if node.kind == "file" else [0o750, 0o1777])
        self._at(path).chmod(mode)
        node.mode = mode

    def _remove(self) -> None:
        path = self._random.choice(sorted(self.shadow.nodes) or ["a"])
        node = self.shadow.nodes.get(path)
        (self._at(path).rmdir if node is not None and node.kind == "directory" else self._at(path).unlink)()
        self.shadow.remove(path)

    def _remove_tree(self) -> None:
        path = self._one_of("directory")
        shutil.rmtree(self._at(path))
        self.shadow.remove(path)

    def _read(self) -> None:
        path = self._one_of("file")
        found = self._at(path).read_bytes()
        if found != self.shadow.nodes[path].content:
            raise AssertionError(f"{path} reads as {len(found)} bytes {found[:12]!r}")
