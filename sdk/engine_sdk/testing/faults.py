"""Faults at a chosen step: an applier that lets a number of resources pass, and then fails, or kills its process."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from engine.reconcile.applier import Applier, Context, Difference
    from engine_sdk import Key, Resource

KILLED = 137
"""Exit status of a process that ended in the middle of its work (128 + SIGKILL)."""


class Fault:
    """What happens when `passes` resources were made: a "failure" with EIO, or the end of the process ("kill")."""

    def __init__(self, kind: Literal["failure", "kill"], passes: int) -> None:
        self._kind = kind
        self._left = passes
        self.happened = False

    def rearm(self, passes: int) -> None:
        """Begin to count anew."""
        self._left = passes

    def admit(self, wanted: int) -> int:
        """Return how many of the next resources may pass."""
        admitted = min(wanted, self._left)
        self._left -= admitted
        return admitted

    def strike(self) -> OSError:
        """Happen: return the error to fail with, or end the process here and now."""
        if self._kind == "kill":
            os._exit(KILLED)
        self.happened = True
        return OSError(errno.EIO, "injected by the conformance kit")


class FaultyApplier:
    """An applier with a fault in front of it. The appliers of a reconciler share one: steps count over all of them."""

    def __init__(self, inner: Applier, fault: Fault) -> None:
        self._inner = inner
        self._fault = fault

    @property
    def families(self) -> frozenset[str]:
        """The families of the applier behind it."""
        return self._inner.families

    def create(self, batch: Sequence[Resource], context: Context) -> Sequence[Resource]:
        """Make what the fault admits; then fail as the kernel would."""
        from engine.reconcile.applier import BatchError

        admitted = self._fault.admit(len(batch))
        made = self._inner.create(batch[:admitted], context) if admitted else ()
        if admitted == len(batch):
            return made
        cause = self._fault.strike()
        raise BatchError(batch[admitted], cause, made, errno=errno.EIO)

    def update(self, old: Resource, new: Resource, context: Context) -> None:
        """Change in place, if the fault admits it."""
        if not self._fault.admit(1):
            raise self._fault.strike()
        self._inner.update(old, new, context)

    def remove(self, batch: Sequence[Resource], context: Context) -> list[tuple[Resource, Exception]]:
        """Remove: the way back is never obstructed."""
        return self._inner.remove(batch, context)

    def diff(self, wanted: Mapping[Key, Resource], contexts: Mapping[Key, Context]) -> list[Difference]:
        """Look at the host."""
        return self._inner.diff(wanted, contexts)

    def unwanted(self, wanted: Mapping[Key, Resource]) -> list[Difference]:
        """Look for leftovers."""
        return self._inner.unwanted(wanted)

    def discard(self, difference: Difference) -> None:
        """Remove a leftover."""
        self._inner.discard(difference)
