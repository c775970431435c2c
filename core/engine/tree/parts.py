"""What the parts of a tree share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from engine.spec.storage import Store
from engine.spec.trees import UsualAttributes
from engine.tree.beneath import Root
from engine.tree.health import Health
from engine.tree.hydration import Hydration
from engine.tree.journal import Journal
from engine.tree.written import Written


@dataclass(frozen=True)
class Parts:
    """One tree's own things."""

    root: Root
    staging: Path
    """Unfinished files, on the file system of the root; containers do not see it."""
    store: Store
    journal: Journal
    hydration: Hydration
    health: Health
    written: Written
    host: str
    """A short name for conflict copies."""
    usual: UsualAttributes
    """Of files that no sidecar names."""
