"""A helper with a tree of the tests' own: small, and as broken as a test wants it.

The directory that FAKE_TREE names has what a test wants: a file `refuse` (opening fails, with its text), `slow`
(seconds that opening takes), `stuck` (nothing is uploaded).
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path

from engine.helper import process
from engine.spec.errors import Unavailable
from engine.spec.storage import Store
from engine.spec.trees import SyncedTree, TreeProgress, TreeStatus

Seen = dict[str, list[int]]


class FakeTree:
    """Copies everything; knows by size and time what is uploaded."""

    def __init__(self, resource: SyncedTree, store: Store, *, host: str) -> None:
        self.root, self.journal = Path(resource.path), Path(resource.journal)
        self.store = store
        self.control = Path(os.environ["FAKE_TREE"])
        self.state = TreeStatus(state="loading")
        self.uploading = threading.Lock()

    def _said(self, name: str) -> str:
        path = self.control / name
        return path.read_text() if path.exists() else ""

    def _confirmed(self) -> Seen:
        return dict(json.loads(self.journal.read_text())) if self.journal.exists() else {}

    def _here(self) -> Seen:
        files = [path for path in self.root.rglob("*") if path.is_file()]
        return {str(p.relative_to(self.root)): [p.stat().st_size, p.stat().st_mtime_ns] for p in files}

    def _note(self, confirmed: Seen) -> None:
        new = self.journal.with_name(self.journal.name + ".new")
        new.write_text(json.dumps(confirmed))
        new.rename(self.journal)

    def open(self) -> None:
        if text := self._said("refuse"):
            raise Unavailable(text)
        end = time.monotonic() + float(self._said("slow") or 0)
        while (left := end - time.monotonic()) > 0:
            self.state = TreeStatus(state="loading", progress=TreeProgress(step="fetching", done=int(-left * 1000)))
            time.sleep(0.01)
        known = self._confirmed()
        for stat in self.store.list():
            path = self.root / stat.key
            if stat.key not in known:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(self.store.get(stat.key))
                known[stat.key] = self._here()[stat.key]
        self._note(known)
        self.state = TreeStatus(state="ready")
        threading.Thread(target=self._upload_in_background, daemon=True).start()

    def _upload_in_background(self) -> None:
        while True:
            time.sleep(0.2)
            self.barrier(0.0)

    def _pending(self) -> list[str]:
        here, known = self._here(), self._confirmed()
        return sorted(path for path in here.keys() | known.keys() if here.get(path) != known.get(path))

    def status(self) -> TreeStatus:
        if self.state.state != "ready":
            return self.state
        pending = self._pending()
        only_here = int(self._said("unstorable") or 0)
        found = {"files": len(self._here()), "pending_files": len(pending), "unstorable_files": only_here}
        return self.state.model_copy(update=found | ({"reason": "not stored: 'x'"} if only_here else {}))

    def descriptors(self) -> list[int]:
        return []

    def barrier(self, deadline: float) -> int:
        end = time.monotonic() + deadline
        while self._said("stuck"):
            if time.monotonic() > end:
                return len(self._pending())
            time.sleep(0.01)
        with self.uploading:
            self._upload()
        return int(self._said("unstorable") or 0)

    def _upload(self) -> None:
        for path in self._pending():
            here, known = self._here(), self._confirmed()
            if path in here:
                self.store.put(path, (self.root / path).read_bytes())
                known[path] = here[path]
            else:
                self.store.delete(path)
                del known[path]
            self._note(known)

    def close(self, deadline: float) -> int:
        return self.barrier(deadline) if deadline else len(self._pending())


if __name__ == "__main__":
    if sys.argv[1] == "check":
        os._exit(process.check(int(sys.argv[2]), print))
    os._exit(process.serve(*map(int, sys.argv[2:5]), FakeTree))  # type: ignore[call-arg, arg-type]
