"""The reconciler: the only way in which a plan reaches the host.

A new plan is applied without looking first, since everything is made so that it must not exist yet; only what was new
is undone when something fails. Whenever that does not do (something exists, a plan changes, the daemon was restarted),
the host is observed and the difference applied (see `convergence`).

All work on the kernel happens in one thread of the reconciler's own: it enters network namespaces, which no thread of
a pool may ever do. Callers from any thread wait for it.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from engine.reconcile.applier import Applier, BatchError, Difference, Sandbox, Tag, TransactionalApplier
from engine.reconcile.convergence import Convergence, Report
from engine.reconcile.execution import Execution, log
from engine.reconcile.failures import explain
from engine.reconcile.order import creation_order, dependents
from engine.reconcile.wanted import Claim, Task, Wanted
from engine.spec.errors import Conflict, EngineError, Unavailable
from engine.spec.resource import Key, Plan

P = ParamSpec("P")
T = TypeVar("T")
_ABSENT = frozenset({errno.ENODEV, errno.ENOENT, errno.ENXIO, errno.ENETUNREACH, errno.ENETDOWN})


class Reconciler:
    """Keeps the host as the plans of all owners say. Thread-safe; calls are served one after the other."""

    def __init__(self, tag: Tag, appliers: Sequence[Applier]) -> None:
        self.tag = tag
        self._wanted = Wanted()
        self._execution = Execution(appliers)
        self._convergence = Convergence(self._wanted, self._execution)
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="reconcile", initializer=self._enter)
        self._thread: threading.Thread | None = None

    def _enter(self) -> None:
        self._thread = threading.current_thread()

    @property
    def thread_id(self) -> int:
        """The kernel's number of the reconciler's thread, 0 before its first work."""
        return (self._thread.native_id if self._thread else None) or 0

    def concerns(self, link: str) -> bool:
        """Tell whether a plan makes, or relies on, the host link of that name. Callable from any thread."""
        return self._wanted.names_link(link)

    def relies_on(self, link: str) -> bool:
        """Tell whether a plan relies on a host link of that name that is not ours. Callable from any thread."""
        return self._wanted.relies_on(link)

    def _in_worker(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        if threading.current_thread() is self._thread:
            return function(*args, **kwargs)
        return self._worker.submit(function, *args, **kwargs).result()

    def close(self) -> None:
        """End the reconciler's thread. The host stays as it is."""
        self._worker.shutdown()

    def apply(self, owner: str, plan: Plan, *, sandbox: Sandbox | None = None, creating: bool = False) -> None:
        """Make what the owner's plan says, all or nothing; in place of what its former plan said.

        With `creating`, data is made; otherwise it must exist. Raises Conflict if another owner has a different (or
        an exclusive) definition of one of the things or if something on the host is in the way, Unavailable if a
        link or data that the plan relies on is absent, Unsupported, InvalidParameter for a plan that cannot be
        ordered, and ApplyFailed, with `details["left"]` naming what could not be undone.
        """
        self._in_worker(self._apply, Claim(owner, plan, sandbox), creating)

    def remove(self, owner: str, *, namespace_gone: bool = False) -> list[Difference]:
        """Remove what only this owner wants, and return what could not be removed; data stays.

        With `namespace_gone` the owner's sandbox was destroyed, or is about to be: what lives in it, and the host end
        of a pair into it, goes by itself (the kernel needs some 50 ms) and is not removed singly.
        """
        return self._in_worker(self._remove, owner, namespace_gone)

    def apply_all(self, plans: Mapping[str, Plan]) -> dict[str, EngineError]:
        """Apply the plans, by owner, of many that have no sandbox, each all or nothing; return what failed, by owner.

        What hangs on links of the host is made in few batches: for thousands of owners that is what costs.
        """
        return self._in_worker(self._apply_all, plans)

    def remove_all(self, owners: Sequence[str]) -> list[Difference]:
        """Remove what only these owners want, and return what could not be removed; data stays."""
        return self._in_worker(self._remove_all, owners)

    def exchange(self, plans: Mapping[str, Plan]) -> None:
        """Give several owners, which have plans, other ones that differ only in things of one transactional applier.

        All of it is one transaction: what passes from one owner to another is at no moment without one. Raises what
        `apply` raises, and then nothing has changed.
        """
        return self._in_worker(self._exchange, plans)

    def adopt(self, owner: str, plan: Plan, *, sandbox: Sandbox | None = None) -> None:
        """Want a plan that an earlier process applied, without touching the host."""
        claim = Claim(owner, plan, sandbox)

        def adopt() -> None:
            self._wanted.check(claim)
            self._wanted.add(claim)

        self._in_worker(adopt)

    def plan_of(self, owner: str) -> Plan | None:
        """Return the plan that is wanted for an owner."""
        claim = self._wanted.claims.get(owner)
        return claim.plan if claim else None

    def owners(self) -> list[str]:
        """Return all owners."""
        return list(self._wanted.claims)

    def diff(self, owner: str | None = None, *, sandboxes: bool = False) -> list[Difference]:
        """Return what on the host (and in the sandboxes) is not as it should be. Nothing is changed."""
        return self._in_worker(self._convergence.differences, _only(owner), sandboxes)

    def repair(self, owner: str | None = None, *, sandboxes: bool = False, lost: Collection[str] = ()) -> Report:
        """Correct every difference that can be corrected.

        `lost` are names of links that went away meanwhile: what hung on them in sandboxes is made again when they are
        back, also without `sandboxes`.
        """

        def repair() -> Report:
            self._convergence.parents_lost(lost)
            report = self._convergence.run(_only(owner), sandboxes)
            if report.ok and sandboxes:
                for claim in self._wanted.claims.values():
                    claim.verified = claim.verified or owner in (None, claim.owner)
            return report

        return self._in_worker(repair)

    def collect(self) -> list[Difference]:
        """Remove what carries our tag on the host and nobody wants.

        Returns what was found; a thing that could not be removed has the reason in `fields["error"]`.
        """
        return self._in_worker(self._collect)

    def _apply(self, claim: Claim, creating: bool) -> None:
        former = self._wanted.claims.get(claim.owner)
        if former and former.verified and former.plan == claim.plan and former.sandbox == claim.sandbox:
            return
        self._wanted.check(claim)
        for resource in claim.plan.resources:
            self._execution.applier(resource)
        order = creation_order(claim.tasks())
        if former and former.sandbox != claim.sandbox:
            raise Conflict(f"{claim.owner} is applied in another sandbox", hint="Remove it there first.")
        self._check_presence(claim, creating)
        if former:
            self._change(former, claim)
        else:
            self._apply_new(claim, order, creating)
        claim.verified = True

    def _apply_all(self, plans: Mapping[str, Plan]) -> dict[str, EngineError]:
        claims = [Claim(owner, plan, None) for owner, plan in plans.items()]
        together = [
            c for c in claims if c.owner not in self._wanted.claims and all(r.ANCHORED for r in c.plan.resources)
        ]
        done = {claim.owner for claim in together} if self._apply_together(together) else set()
        errors: dict[str, EngineError] = {}
        for claim in (claim for claim in claims if claim.owner not in done):
            try:
                self._apply(claim, False)
            except EngineError as err:
                errors[claim.owner] = err
        return errors

    def _apply_together(self, claims: Sequence[Claim]) -> bool:
        """Apply new plans as one; False, with nothing changed, if anything fails: one by one then shows what."""
        fresh: list[Task] = []
        made: list[Task] = []
        try:
            for claim in claims:
                self._wanted.check(claim)
                fresh += self._wanted.add(claim)
            self._execution.make(creation_order(fresh), made)
        except (BatchError, EngineError) as err:
            log.debug("many plans at once fail, and are applied one by one: %s", err)
            self._undo(made)
            for claim in claims:
                self._wanted.drop(claim.owner)
            return False
        for claim in claims:
            claim.verified = True
        return True

    def _check_presence(self, claim: Claim, creating: bool) -> None:
        """Refuse a plan that relies on a link, or on data, that is not there."""
        for extern in claim.externs:
            try:
                self._execution.applier(extern).create([extern], claim.context)
            except BatchError as err:
                raise explain(err, claim.owner) from err.cause
        if not creating:
            self._check_data(claim, inside=False)

    def _check_data(self, claim: Claim, *, inside: bool) -> None:
        """Raise Unavailable for missing data; with `inside`, for what lies in a mount of the plan that is there now."""
        for resource in (task.resource for task in _data_of(claim, inside=inside)):
            view = {resource.key: resource}
            for difference in self._execution.applier(resource).diff(view, {resource.key: claim.context}):
                if difference.state in ("missing", "foreign", "replace"):
                    raise Unavailable(
                        f"data is missing: {resource.kind} {resource.key[-1]}", why=str(difference),
                        hint="It was made when its volume was, and is never made anew. Is its disk mounted?",
                        details={"resource": list(resource.key), "owner": claim.owner},
                    )  # fmt: skip

    def _apply_new(self, claim: Claim, order: list[Task], creating: bool) -> None:
        fresh = {task.place for task in self._wanted.add(claim)}
        order = [task for task in order if task.place in fresh and (creating or task.resource.LIFE == "session")]
        made: list[Task] = []
        try:
            try:
                self._execution.make(order, made)
            except BatchError as err:
                left = self._undo(made)
                made.clear()
                if left or not (err.exists or self._repair_foundation(claim, err)):
                    raise explain(err, claim.owner, left) from err.cause
                self._settle(claim, made, creating)
            self._check_data(claim, inside=True)
        except BaseException as err:
            # A thing that exists was refused, the second way failed as well, or an applier has a fault.
            left = self._undo(made)
            self._wanted.drop(claim.owner)
            if left and isinstance(err, EngineError):
                err.details["left"] = [list(key) for key in left]
            raise

    def _repair_foundation(self, claim: Claim, err: BatchError) -> bool:
        """After a failure for want of something: repair what other owners should have there; tell whether it helped."""
        if err.errno not in _ABSENT:
            return False
        needed = [place for task in claim.tasks() for place in task.requires() if not place[0]]
        others = self._wanted.owners_at(needed) - {claim.owner}
        return bool(others) and bool(self._convergence.run(others, False).fixed)

    def _settle(self, claim: Claim, made: list[Task], creating: bool) -> None:
        """Apply a plan by its difference to the host."""
        if creating:
            self._make_absent(claim, made, inside=False)
        report = self._convergence.run({claim.owner}, True, made)
        if report.errors:
            raise report.errors[0]
        own = {task.resource.key for task in claim.tasks() if task.resource.LIFE == "session"}
        for difference in report.left:
            if difference.key not in own or difference.owner not in ("", claim.owner):
                continue
            foreign = difference.state == "foreign"
            raise Conflict(
                f"{' '.join(difference.key[2:])} exists already" if foreign else f"cannot make {difference}",
                why="it is not Engine's" if foreign else "something on this host changes it back",
                hint="Remove or rename it, or choose another name.", details={"resource": list(difference.key)},
            )  # fmt: skip
        if creating:
            self._make_absent(claim, made, inside=True)

    def _make_absent(self, claim: Claim, made: list[Task], *, inside: bool) -> None:
        """Make the data that is absent; with `inside`, what lies in a mount of the plan, which is there."""
        absent = {d.key for d in self._convergence.differences({claim.owner}, True) if d.state == "missing"}
        data = [task for task in _data_of(claim, inside=inside) if task.resource.key in absent]
        try:
            self._execution.make(creation_order(data), made)
        except BatchError as err:
            raise explain(err, claim.owner) from err.cause

    def _change(self, former: Claim, claim: Claim) -> None:
        """Go from one plan of an owner to another; if that fails, back."""
        made: list[Task] = []
        try:
            self._switch(former, claim)
            self._settle(claim, made, False)
        except BaseException as err:
            self._switch(claim, former)
            report = self._convergence.run({former.owner}, True)
            if isinstance(err, EngineError) and report.left:
                err.details["left"] = [list(difference.key) for difference in report.left]
            raise

    def _switch(self, old: Claim, new: Claim) -> None:
        self._wanted.add(new)
        gone = [t for t in old.tasks() if not self._wanted.has(t.place) and t.resource.LIFE == "session"]
        if gone:
            lost = dependents(gone, old.tasks(), Task.lives_on)
            self._execution.remove([*gone, *(t for t in lost if t.resource.LIFE == "session")])

    def _exchange(self, plans: Mapping[str, Plan]) -> None:
        formers = [self._wanted.claims[owner] for owner in plans]
        claims = [Claim(f.owner, plans[f.owner], f.sandbox, f.verified) for f in formers]
        gone, new = _changed(formers, claims), _changed(claims, formers)
        appliers = {self._execution.applier(task.resource) for task in (*gone, *new)}
        if not appliers:
            return
        applier = appliers.pop()
        if appliers or not isinstance(applier, TransactionalApplier):
            raise TypeError("plans can be exchanged where only things of one transactional applier differ")
        try:
            self._put(claims)
            try:
                applier.exchange([task.resource for task in gone], [task.resource for task in new])
            except BatchError as err:
                if err.errno != errno.ENOENT:
                    raise explain(err, claims[0].owner) from err.cause
                self._execution.remove(gone)  # somebody had removed one of them: then the host is looked at
                report = self._convergence.run({claim.owner for claim in claims}, False)
                if report.errors:
                    raise report.errors[0] from err.cause
        except BaseException:
            self._put(formers)
            self._convergence.run({former.owner for former in formers}, False)
            raise

    def _put(self, claims: Sequence[Claim]) -> None:
        """Want these plans in the place of their owners' former ones."""
        for claim in claims:
            self._wanted.drop(claim.owner)
        for claim in claims:
            self._wanted.check(claim)
            self._wanted.add(claim)

    def _undo(self, made: Sequence[Task]) -> list[Key]:
        """Remove what is new and return what is left."""
        return [difference.key for difference in self._execution.remove(made)]

    def _remove(self, owner: str, namespace_gone: bool) -> list[Difference]:
        claim = self._wanted.claims.get(owner)
        if claim is None:
            return []
        orphans = [task for task in self._wanted.drop(owner) if task.resource.LIFE == "session"]
        if namespace_gone:
            inside = [t for t in orphans if any(key[1] == "sandbox" for key in t.resource.provides())]
            gone = {t.place for t in (*inside, *dependents(inside, orphans, Task.lives_on))}
            orphans = [task for task in orphans if task.place not in gone]
        return self._execution.remove(orphans)

    def _remove_all(self, owners: Sequence[str]) -> list[Difference]:
        orphans = [task for owner in owners for task in self._wanted.drop(owner)]
        return self._execution.remove(task for task in orphans if task.resource.LIFE == "session")

    def _collect(self) -> list[Difference]:
        wanted = self._wanted.on_host()
        found: list[Difference] = []
        for applier in self._execution.appliers:
            for difference in applier.unwanted(wanted):
                try:
                    applier.discard(difference)
                except (OSError, EngineError) as err:
                    log.warning("cannot remove %s: %s", "/".join(difference.key), err)
                    fields = {**difference.fields, "error": (None, str(err))}
                    difference = Difference(difference.key, "unwanted", fields, difference.owner, difference.resource)
                found.append(difference)
        return found


def _data_of(claim: Claim, *, inside: bool) -> list[Task]:
    """Return the data of a plan: that which needs nothing of its session, or that which lies in a mount of it."""
    tasks = claim.tasks()
    data = [task for task in tasks if task.resource.LIFE == "data"]
    if not data:
        return []
    sessions = {task.place for task in tasks if task.resource.LIFE == "session"}
    return [task for task in data if inside is any(place in sessions for place in task.requires())]


def _changed(claims: Sequence[Claim], others: Sequence[Claim]) -> list[Task]:
    """Return what plans have and the others, of the same owners, do not."""
    found = []
    for claim, other in zip(claims, others, strict=True):
        known = set(other.own)
        found += [Task(claim, resource) for resource in dict.fromkeys(claim.own) if resource not in known]
    return found


def _only(owner: str | None) -> set[str] | None:
    return None if owner is None else {owner}
