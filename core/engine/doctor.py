"""What on the host is not as it should be, and its repair: all reconcilers of an engine together."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from engine.api.services.data import JsonObject
from engine.reconcile.applier import Difference
from engine.reconcile.convergence import Report
from engine.reconcile.reconciler import Reconciler

log = logging.getLogger(__name__)


def difference_json(difference: Difference, title: Callable[[str], str]) -> JsonObject:
    """Return a difference in the API's shape; `title` is what a person calls an owner."""
    return {
        "resource": "/".join(difference.key),
        "state": difference.state,
        "owner": difference.owner,
        "title": title(difference.owner),
        "fields": {name: list(values) for name, values in difference.fields.items()},
    }


def note_json(resource: str, sentence: str) -> JsonObject:
    """Return, in the shape of a difference, what is not as it should be with a part of the engine itself."""
    return {"resource": resource, "state": sentence, "owner": "engine", "title": "engine", "fields": {}}


class Examiner(Protocol):
    """A part of the engine that can compare something other than plans with the host, and repair it."""

    def diff(self) -> list[Difference]: ...  # noqa: D102
    def repair(self) -> Report: ...  # noqa: D102


class Doctor:
    """Compares, repairs and collects. The parts that are not the network's come last: see `Engine`."""

    def __init__(self, reconcilers: Sequence[Reconciler], title: Callable[[str], str] = str) -> None:
        self._reconcilers = reconcilers
        self._title = title
        self.examiners: list[Examiner] = []
        """Who else compares and repairs."""
        self.notes: list[Callable[[], Sequence[JsonObject]]] = []
        """Who tells further things that are not as they should be, which no repair of the host can change."""

    def diff(self) -> list[JsonObject]:
        """Return all differences, in sandboxes too; nothing is changed."""
        found = [difference for part in self._reconcilers for difference in part.diff(sandboxes=True)]
        found += [difference for examiner in self.examiners for difference in examiner.diff()]
        return [*(difference_json(d, self._title) for d in found), *self._noted()]

    def repair(self) -> JsonObject:
        """Repair, and return what was done and what is left."""
        repaired: list[Difference] = []
        left: list[Difference] = []
        for part in self._reconcilers:
            report = part.repair(sandboxes=True)
            repaired += [*report.fixed, *part.collect()]
            left += report.left
        for examiner in self.examiners:
            report = examiner.repair()
            repaired += report.fixed
            left += report.left
        return {
            "repaired": [difference_json(d, self._title) for d in repaired],
            "left": [*(difference_json(d, self._title) for d in left), *self._noted()],
        }

    def _noted(self) -> list[JsonObject]:
        return [note for source in self.notes for note in source()]

    def collect(self) -> None:
        """Remove what is ours and nobody wants."""
        for part in self._reconcilers:
            for difference in part.collect():
                log.info("removed a leftover: %s", difference)

    def mend(self, lost: Collection[str] = ()) -> Report:
        """Repair the host's side; log and return what was done. `lost` are links that went away meanwhile."""
        whole = Report()
        for part in self._reconcilers:
            report = part.repair(lost=lost)
            for difference in report.fixed:
                log.info("repaired: %s", difference)
            for difference in report.left:
                log.warning("not repaired: %s", difference)
            whole = Report(whole.fixed + report.fixed, whole.left + report.left, whole.errors + report.errors)
        return whole
