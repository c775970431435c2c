"""What is wrong with a tree, in words; written by all of its parts, read by `Tree.status`."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from engine.spec.trees import TreeProgress

_SHOWN = 3
"""Paths that a message names before it says how many more there are."""


class Health:
    """Collects what does not work. All methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._paths: dict[str, dict[str, str]] = {}
        self._stale: dict[str, set[str]] = {}
        self._troubles: dict[str, str] = {}
        self.last_error = ""
        """The last thing that failed."""
        self.progress: TreeProgress | None = None
        """What is being done that takes time."""

    def trouble(self, part: str, why: str) -> None:
        """Say that a part (`store`, `journal`, `disk`) does not work; an empty text says that it does again."""
        with self._lock:
            if why:
                self._troubles[part] = self.last_error = why
            else:
                self._troubles.pop(part, None)

    def note(self, topic: str, path: str, why: str) -> None:
        """Say what is the matter with one path; an empty text takes it back."""
        with self._lock:
            paths = self._paths.setdefault(topic, {})
            self._stale.get(topic, set()).discard(path)
            if why:
                paths[path] = why
            else:
                paths.pop(path, None)

    def forget(self, path: str) -> None:
        """Take back all that was said of a path: it is gone."""
        with self._lock:
            for paths in self._paths.values():
                paths.pop(path, None)

    def clear(self, topic: str) -> None:
        """Take back a whole topic, before it is looked at anew."""
        with self._lock:
            self._paths.pop(topic, None)

    @contextlib.contextmanager
    def renewing(self, topic: str) -> Iterator[None]:
        """Take back at the end of a block what was said of a topic before it, and is not said again in it."""
        with self._lock:
            stale = self._stale[topic] = set(self._paths.get(topic, ()))
        yield
        with self._lock:
            for path in stale:
                self._paths[topic].pop(path, None)

    def count(self, topic: str) -> int:
        """Return of how many paths something is said."""
        with self._lock:
            return len(self._paths.get(topic, ()))

    def reason(self) -> str:
        """Return all that is wrong, for a person; empty if nothing is."""
        with self._lock:
            parts = list(self._troubles.values())
            for topic, paths in sorted(self._paths.items()):
                named = [f"{path!r} ({why})" for path, why in sorted(paths.items())[:_SHOWN]]
                more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
                if named:
                    parts.append(f"{topic}: {', '.join(named)}{more}")
        return "; ".join(parts)
