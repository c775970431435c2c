"""Network namespaces of containers, each held by a mount of its own below one directory."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from engine.network.names import Names
from engine.reconcile import netns
from engine.reconcile.applier import Sandbox
from engine.spec.errors import ApplyFailed


class Sandboxes:
    """Makes and drops them. Safe to use from any thread."""

    def __init__(self, root: Path, names: Names) -> None:
        """`names` is told before a namespace goes in which it may listen."""
        self._root = root
        self._names = names

    def path(self, container_id: str) -> Path:
        """Return where a container's network namespace is held."""
        return self._root / container_id

    def create(self, container_id: str) -> Sandbox:
        """Make a container's network namespace, with loopback up; what an earlier life of it left is dropped."""
        path = self.path(container_id)
        try:
            self._root.mkdir(mode=0o755, parents=True, exist_ok=True)
            self._names.stop(container_id)
            netns.destroy(path)
            return netns.create(path)
        except OSError as err:
            raise ApplyFailed(
                "a network namespace could not be made",
                why=str(err),
                hint="Engine needs root",
                details={"errno": err.errno},
            ) from err

    def remove(self, container_id: str) -> None:
        """Let go of a container's network namespace; absent is no error."""
        path = self.path(container_id)
        self._names.stop(container_id)
        try:
            netns.destroy(path)
        except OSError as err:
            raise ApplyFailed(f"the network namespace {path} could not be removed", why=str(err)) from err

    def sweep(self, living: Collection[str]) -> None:
        """Let go of those of containers that are not among these."""
        for path in netns.present(self._root):
            if path.name not in living:
                self.remove(path.name)
