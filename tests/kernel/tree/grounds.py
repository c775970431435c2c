"""What the tests of trees share: trees on a store, and the comparison of two directories, byte by byte."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from engine.plugins import Plugins
from engine.spec.errors import Unsupported
from engine.spec.storage import PROBES, Store
from engine.spec.trees import StoreSpec, SyncedTree
from engine.storage.secrets import Secrets
from engine.storage.stores import Stores
from engine.tree import selftest
from engine.tree.tree import Tree

SECONDS = 60.0
"""Deadline of barriers: generous, for machines where much else runs."""


def need_on_demand(directory: Path) -> None:
    """Skip the test where the kernel or the file system of a directory cannot fetch files on demand."""
    try:
        selftest.check(directory)
    except Unsupported as err:
        pytest.skip(str(err))


def store_of(url: str, options: dict[str, str] | None = None) -> Store:
    stores = Stores(Plugins())
    return stores.open(stores.plan(url, options or {}), Secrets())


def resource(base: Path, name: str = "a", url: str = "memory://none", **fields: object) -> SyncedTree:
    for directory in (base / name / "data", base / name / "run"):
        directory.mkdir(parents=True, exist_ok=True)
    return SyncedTree(
        path=str(base / name / "data"),
        journal=str(base / name / "journal.db"),
        store=StoreSpec(url=url),
        run=str(base / name / "run"),
        **fields,  # type: ignore[arg-type]
    )


class Place:
    """One host's copy of a tree. A context manager: opened and closed."""

    def __init__(self, base: Path, store: Store, name: str = "a", **fields: object) -> None:
        self.resource = resource(base, name, **fields)
        self.path = Path(self.resource.path)
        self.store = store
        self.tree = Tree(self.resource, store, host=f"host-{name}")

    def __enter__(self) -> Place:
        try:
            self.tree.open()
        except BaseException:
            self.tree.close(0)
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.tree.close(0)

    def sync(self) -> None:
        left = self.tree.barrier(SECONDS)
        assert left == 0, (left, self.tree.status())

    def reopened(self) -> Place:
        """The same again, after its end."""
        again = Place.__new__(Place)
        again.resource, again.path, again.store = self.resource, self.path, self.store
        again.tree = Tree(self.resource, self.store, host=self.tree._host)
        return again


def picture(root: Path, *, times: bool = True, owners: bool = True) -> dict[str, object]:
    """All of a directory that must survive: content, kind, mode, owner, mtime, xattrs, target, hard links."""
    found: dict[str, object] = {}
    inodes: dict[int, str] = {}
    for path in sorted([root, *root.rglob("*")]):
        facts = path.lstat()
        name = str(path.relative_to(root))
        if stat.S_ISLNK(facts.st_mode):
            content: object = str(path.readlink())
        else:
            content = path.read_bytes() if stat.S_ISREG(facts.st_mode) else None
        xattrs = {n: os.getxattr(path, n, follow_symlinks=False) for n in os.listxattr(path, follow_symlinks=False)}
        xattrs = {n: v for n, v in xattrs.items() if n.startswith("user.")}
        first = inodes.setdefault(facts.st_ino, name)
        found[name] = (
            stat.S_IFMT(facts.st_mode), content, facts.st_mode if name != "." else 0,
            (facts.st_uid, facts.st_gid) if owners else None,
            facts.st_mtime_ns if times and name != "." else None, xattrs, first,
        )  # fmt: skip
    return found


def keys(store: Store) -> list[str]:
    """The objects that are files."""
    found = (s.key for s in store.list())
    return sorted(key for key in found if not key.endswith(".engine-attributes.json") and not key.startswith(PROBES))
