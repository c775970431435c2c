"""In which order things are made and removed: by phase, and within a phase by what they require."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from graphlib import CycleError, TopologicalSorter
from itertools import groupby
from typing import TypeVar

from engine.reconcile.wanted import Place, Task
from engine.spec.errors import InvalidParameter

T = TypeVar("T")


def creation_order(tasks: Iterable[Task]) -> list[Task]:
    """Return tasks in the order in which their things can be made.

    Only requirements that are among the tasks count: what is elsewhere exists already, or fails when it is missed.
    Raises InvalidParameter when things require each other in a circle.
    """
    ordered: list[Task] = []
    for _, phase in groupby(sorted(tasks, key=_phase), key=_phase):
        ordered.extend(_by_requirement(list(phase)))
    return ordered


def removal_order(tasks: Iterable[Task]) -> list[Task]:
    """Return tasks in the order in which their things can be removed: exposure first, policy last."""
    return creation_order(tasks)[::-1]


def _phase(task: Task) -> int:
    return task.resource.PHASE


def _by_requirement(phase: list[Task]) -> list[Task]:
    home = {place: index for index, task in enumerate(phase) for place in task.provides()}
    needs = [{home[place] for place in task.requires() if place in home} - {i} for i, task in enumerate(phase)]
    if not any(needs):
        return phase
    try:
        return [phase[index] for index in TopologicalSorter(dict(enumerate(needs))).static_order()]
    except CycleError as err:
        circle = " -> ".join("/".join(phase[index].resource.key) for index in err.args[1])
        raise InvalidParameter("the plan cannot be ordered", why=f"resources require each other: {circle}") from err


def dependents(
    roots: Iterable[Task], tasks: Iterable[Task], needs: Callable[[Task], list[Place]] = Task.requires
) -> list[Task]:
    """Return those tasks that need one of `roots`, directly or through others (and are not roots themselves)."""
    remaining = {task.place: task for task in tasks}
    lost: set[Place] = set()
    for root in roots:
        remaining.pop(root.place, None)
        lost.update(root.provides())
    found: list[Task] = []
    while hit := [task for task in remaining.values() if any(place in lost for place in needs(task))]:
        for task in hit:
            del remaining[task.place]
            lost.update(task.provides())
        found.extend(hit)
    return found


def runs(items: Iterable[T], same: Callable[[T], object]) -> list[Sequence[T]]:
    """Split a sequence into runs of neighbours for which `same` is equal."""
    return [list(group) for _, group in groupby(items, key=same)]
