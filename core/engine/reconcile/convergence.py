"""Making the host agree with what is wanted: observe, remove what must be replaced, observe, make; until all is well.

Removing changes what was observed (an address that goes takes routes with it), hence the second look. Three rounds
are enough for every case that is known.

On the host the wanted state is maintained. Inside a sandbox it is only ensured when that is asked for, when a link was
made anew, or when a parent came back: what a container changes in its own namespace is its own business.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from engine.reconcile.applier import Applier, BatchError, Context, Difference
from engine.reconcile.execution import Execution, log
from engine.reconcile.failures import explain
from engine.reconcile.order import creation_order, dependents
from engine.reconcile.wanted import Place, Task, Wanted
from engine.spec.errors import EngineError
from engine.spec.links import link_key
from engine.spec.resource import Key, Resource

ROUNDS = 3
_CORRECTABLE = frozenset({"missing", "differs", "replace"})


@dataclass(frozen=True)
class Report:
    """What a repair did: the differences that it corrected, those that are left, and why."""

    fixed: tuple[Difference, ...] = ()
    left: tuple[Difference, ...] = ()
    errors: tuple[EngineError, ...] = ()

    @property
    def ok(self) -> bool:
        """Nothing is left. (What waits for a link that is not ours is left, without an error.)"""
        return not self.left and not self.errors


@dataclass
class _View:
    """What to look at in one call of an applier."""

    wanted: dict[Key, Resource] = field(default_factory=dict)
    contexts: dict[Key, Context] = field(default_factory=dict)
    tasks: dict[Key, Task] = field(default_factory=dict)


@dataclass
class _Run:
    """The state of one convergence."""

    owners: set[str] | None
    inside: set[str]
    made: list[Task]
    fixed: dict[Place, Difference] = field(default_factory=dict)
    failures: dict[Place, EngineError] = field(default_factory=dict)


Found = list[tuple[Task | None, Difference]]
"""Differences, with the task that they are about; None for what an applier keeps for itself."""


class Convergence:
    """The one piece of code that turns differences into changes."""

    def __init__(self, wanted: Wanted, execution: Execution) -> None:
        self._wanted = wanted
        self._execution = execution
        self._look_inside: set[str] = set()

    def parents_lost(self, names: Collection[str]) -> None:
        """Note that host links went: what hung on them inside sandboxes is looked for when they are back."""
        if names:
            self._look_inside |= self._wanted.needing({("", link_key("host", name)) for name in names})

    def differences(self, owners: Collection[str] | None, sandboxes: bool) -> list[Difference]:
        """Compare what owners want (all, if None) with the host and, if asked for, with the sandboxes."""
        inside = set(self._wanted.claims) if sandboxes else set()
        return [difference for _, difference in self._observe(owners, inside)]

    def run(self, owners: Collection[str] | None, sandboxes: bool, made: list[Task] | None = None) -> Report:
        """Correct differences; what is new is also appended to `made`. Errors are collected, not raised."""
        run = _Run(
            owners=None if owners is None else set(owners),
            inside=set(self._wanted.claims) if sandboxes else set(self._look_inside),
            made=[] if made is None else made,
        )
        # A run for some owners only says nothing about the others, which stay to be looked into.
        self._look_inside -= run.inside if run.owners is None else run.owners
        found = self._observe(run.owners, run.inside)
        for _ in range(ROUNDS):
            todo = self._correctable(found, run)
            if not todo:
                break
            if replaced := [task for task, difference in todo if difference.state == "replace"]:
                self._replace(replaced, run)
                run.fixed.update((task.place, difference) for task, difference in todo)
                todo = self._correctable(self._observe(run.owners, run.inside), run)
            self._correct([(task, d) for task, d in todo if d.state != "replace"], run)
            found = self._observe(run.owners, run.inside)
        if run.failures:  # when it is tried again, the same sandboxes are looked into
            self._look_inside |= {task.claim.owner for task, _ in found if task} & run.inside
        left = tuple(difference for _, difference in found)
        return Report(tuple(run.fixed.values()), left, tuple(run.failures.values()))

    def _observe(self, owners: Collection[str] | None, inside: Collection[str]) -> Found:
        views: dict[tuple[Applier, str], _View] = {}
        for claim in self._wanted.claims.values():
            if owners is None or claim.owner in owners:
                for extern in claim.externs:
                    view = views.setdefault((self._execution.applier(extern), f"extern of {claim.owner}"), _View())
                    _see(view, Task(claim, extern), claim.context)
        for task in self._wanted.tasks(owners):
            look = task.claim.owner in inside
            if look or task.resource.namespace == "host":
                view = views.setdefault((self._execution.applier(task.resource), task.place[0]), _View())
                _see(view, task, task.claim.context if look else Context(task.claim.owner))
        found: Found = []
        for (applier, _), view in views.items():
            differences = applier.diff(view.wanted, view.contexts)
            found.extend((view.tasks.get(d.key) or self._applier_s_own(d), d) for d in differences)
        if waiting := {("", d.key) for _, d in found if d.state == "waiting"}:
            self._look_inside |= self._wanted.needing(waiting)
        return found

    def _applier_s_own(self, difference: Difference) -> Task | None:
        """Return the task for a thing that no plan contains, but that an applier needs for what plans contain."""
        claim = self._wanted.claims.get(difference.owner)
        return Task(claim, difference.resource) if claim and difference.resource else None

    def _correctable(self, found: Found, run: _Run) -> list[tuple[Task, Difference]]:
        blocked = {("", difference.key) for _, difference in found if difference.state in ("waiting", "foreign")}
        blocked |= run.failures.keys()
        return [
            (task, difference)
            for task, difference in found
            if task is not None and difference.state in _CORRECTABLE and task.resource.LIFE == "session"
            and not any(place in blocked for place in (task.place, *task.requires()))
        ]  # fmt: skip

    def _replace(self, doomed: list[Task], run: _Run) -> None:
        """Remove what cannot be changed in place, with all that needs it, whoever wants that."""
        cascade = dependents(doomed, self._wanted.tasks(), Task.lives_on)
        cascade = [task for task in cascade if task.resource.LIFE == "session"]
        self._execution.remove([*doomed, *cascade])
        self._widen({task.claim.owner for task in cascade}, run)

    def _correct(self, todo: list[tuple[Task, Difference]], run: _Run) -> None:
        changes = {task.place for task, difference in todo if difference.state == "differs"}
        queue = {task.place: task for task, _ in todo}
        links = [task for task, d in todo if d.state == "missing" and task.resource.key[0] == "link"]
        # A pair that was lost on the host takes with it what hung on its end in the sandbox.
        for task in dependents(links, [task for link in links for task in link.claim.tasks()], Task.lives_on):
            if task.resource.namespace == "sandbox" and task.claim.owner not in run.inside:
                queue.setdefault(task.place, task)
        new: list[Task] = []
        remaining = creation_order(queue.values())
        while remaining:
            remaining = self._attempt(remaining, changes, new, run)
        run.made.extend(new)
        run.fixed.update((task.place, d) for task, d in todo if task.place not in run.failures)
        remade = {place for task in new if task.resource.key[0] == "link" for place in task.provides()}
        self._widen(self._wanted.needing(remade) - {task.claim.owner for task in new} if remade else (), run)

    def _attempt(self, tasks: list[Task], changes: set[Place], new: list[Task], run: _Run) -> list[Task]:
        """Make and change things in order; return what is still to be done after the first failure."""
        done: set[Place] = set()
        start = len(new)
        pending: list[Task] = []
        current = tasks
        try:
            for task in tasks:
                if task.place not in changes:
                    pending.append(task)
                    continue
                current, pending = pending, []
                self._execution.make(current, new)
                current = [task]
                self._execution.update(task)
                done.add(task.place)
            current = pending
            self._execution.make(pending, new)
        except BatchError as err:
            culprit = next((task for task in current if task.resource == err.failed), current[0])
            run.failures[culprit.place] = explain(err, culprit.claim.owner)
            log.warning("cannot correct %s of %s: %s", "/".join(err.failed.key), culprit.claim.owner, err.cause)
            done |= {task.place for task in new[start:]} | {culprit.place}
            done |= {task.place for task in dependents([culprit], tasks)}
            return [task for task in tasks if task.place not in done]
        return []

    def _widen(self, affected: Collection[str], run: _Run) -> None:
        """Look also at owners whose things hang on a link that was made anew, and into their sandboxes."""
        run.inside.update(affected)
        if run.owners is not None:
            run.owners.update(affected)


def _see(view: _View, task: Task, context: Context) -> None:
    key = task.resource.key
    view.wanted[key], view.contexts[key], view.tasks[key] = task.resource, context, task
