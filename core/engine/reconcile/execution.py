"""Making, changing and removing ordered resources through their appliers, in as few batches as possible."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

from engine.reconcile.applier import Applier, BatchError, Difference
from engine.reconcile.order import removal_order, runs
from engine.reconcile.wanted import Place, Task
from engine.spec.errors import Unsupported
from engine.spec.resource import Resource

log = logging.getLogger("engine.reconcile")


class Execution:
    """The appliers, by family."""

    def __init__(self, appliers: Sequence[Applier]) -> None:
        self.appliers = tuple(appliers)
        self._by_family = {family: applier for applier in appliers for family in applier.families}

    def applier(self, resource: Resource) -> Applier:
        """Return the applier of a resource; Unsupported if there is none."""
        found = self._by_family.get(resource.key[0])
        if found is None:
            raise Unsupported(f"nothing can apply a resource of kind {resource.kind}")
        return found

    def _batches(self, tasks: Sequence[Task]) -> list[Sequence[Task]]:
        return runs(tasks, lambda t: (id(self.applier(t.resource)), _whose(t), t.resource.namespace))

    def make(self, tasks: Sequence[Task], made: list[Task]) -> None:
        """Make things in this order; what is new is appended to `made` also when BatchError is raised."""
        for batch in self._batches(tasks):
            context, task_of = batch[0].claim.context, {task.resource.key: task for task in batch}
            try:
                new = self.applier(batch[0].resource).create([t.resource for t in batch], context)
            except BatchError as err:
                made.extend(task_of[resource.key] for resource in err.created)
                raise
            made.extend(task_of[resource.key] for resource in new)

    def update(self, task: Task) -> None:
        """Give one thing, which exists, the values that are wanted; raises BatchError."""
        self.applier(task.resource).update(task.resource, task.resource, task.claim.context)

    def remove(self, tasks: Iterable[Task]) -> list[Difference]:
        """Remove things, the last made first, and return what could not be removed.

        What hangs on a link that is removed here is not removed singly. A set-only value stays.
        """
        tasks = [task for task in tasks if task.resource.SCOPE != "set-only"]
        links = {place for task in tasks if task.resource.key[0] == "link" for place in task.provides()}
        singly = [task for task in tasks if not hangs_on(task, links)]
        left: list[Difference] = []
        for batch in self._batches(removal_order(singly)):
            context, owner_of = batch[0].claim.context, {task.resource.key: task.claim.owner for task in batch}
            failed = self.applier(batch[0].resource).remove([t.resource for t in batch], context)
            for resource, cause in failed:
                owner = owner_of[resource.key]
                log.warning("cannot remove %s of %s: %s", "/".join(resource.key), owner, cause)
                left.append(Difference(resource.key, "unwanted", {"error": (None, str(cause))}, owner, resource))
        return left


def _whose(task: Task) -> str:
    """Return whose batch a thing belongs in. Nothing shows whose it is of what hangs on a link of the host."""
    return "" if task.resource.ANCHORED and task.resource.namespace == "host" else task.claim.owner


def hangs_on(task: Task, links: set[Place]) -> bool:
    """Tell whether a resource goes by itself with one of these links."""
    return task.resource.ANCHORED and any(place in links for place in task.requires())
