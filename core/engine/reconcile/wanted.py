"""What should exist: every owner's plan, and for every thing the set of its owners.

Derived from the plans that managers store; kept in memory so that a change costs what it changes. Things in a sandbox
are told apart by the sandbox's path: every container may have an `eth0`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field

from engine.reconcile.applier import Context, Sandbox
from engine.spec.errors import Conflict, InvalidParameter, Unsupported
from engine.spec.links import Extern, Link, link_key
from engine.spec.resource import Key, Opaque, Plan, Resource

Place = tuple[str, Key]
"""("" or the path of a sandbox, key)"""


@dataclass
class Claim:
    """An owner's plan and where its sandbox is."""

    owner: str
    plan: Plan
    sandbox: Sandbox | None
    verified: bool = False
    """Applied in this process (and not merely adopted at start)."""
    context: Context = field(init=False)

    def __post_init__(self) -> None:
        self.context = Context(self.owner, self.sandbox)

    @property
    def own(self) -> tuple[Resource, ...]:
        """The resources that are ours to make: all but Externs."""
        return tuple(r for r in self.plan.resources if not isinstance(r, Extern))

    def tasks(self) -> list[Task]:
        """Return the resources that are ours to make, as tasks; one that the plan names twice comes once."""
        return list({resource.key: Task(self, resource) for resource in self.own}.values())

    @property
    def externs(self) -> tuple[Extern, ...]:
        """What must exist and is not ours."""
        return tuple(r for r in self.plan.resources if isinstance(r, Extern))

    def place(self, key: Key) -> Place:
        """Return where on this host a key of the plan is."""
        return (str(self.sandbox.path) if self.sandbox and key[1] == "sandbox" else "", key)


@dataclass(frozen=True)
class Task:
    """A resource and the claim that wants it."""

    claim: Claim
    resource: Resource

    @property
    def place(self) -> Place:
        """Where on this host the resource is."""
        return self.claim.place(self.resource.key)

    def provides(self) -> list[Place]:
        """Return all places that the resource occupies."""
        return [self.claim.place(key) for key in self.resource.provides()]

    def requires(self) -> list[Place]:
        """Return the places of what it needs."""
        return [self.claim.place(key) for key in self.resource.requires()]

    def lives_on(self) -> list[Place]:
        """Return the places of what it cannot outlive: a port outlives its bridge, and is only put back."""
        link = self.resource
        master = link_key(link.ns, link.master) if isinstance(link, Link) and link.master else None
        return [self.claim.place(key) for key in link.requires() if key != master]


@dataclass
class Entry:
    """A thing that should exist, and who wants it (in the order of their coming)."""

    resource: Resource
    owners: dict[str, None] = field(default_factory=dict)


class Wanted:
    """The index of owners. Not thread-safe: the reconciler's thread alone uses it."""

    def __init__(self) -> None:
        self.claims: dict[str, Claim] = {}
        self._entries: dict[Place, Entry] = {}
        self._externs: Counter[str] = Counter()

    def check(self, claim: Claim) -> None:
        """Refuse a plan that contradicts itself or another owner's: Conflict names both. Nothing is changed."""
        seen: dict[Place, Resource] = {}
        for resource in claim.plan.resources:
            if isinstance(resource, Opaque):
                raise Unsupported(
                    f"a resource of kind {resource.kind} (version {resource.v}) cannot be applied",
                    why="this version of Engine does not know it",
                    hint="Install the package that the kind belongs to, or a newer Engine.",
                )
            if resource.namespace == "sandbox" and claim.sandbox is None:
                raise InvalidParameter(f"{claim.owner}: {'/'.join(resource.key)} needs a sandbox, and there is none")
        for resource in claim.own:
            for key in resource.provides():
                place = claim.place(key)
                twin = seen.setdefault(place, resource)
                if twin != resource:
                    raise Conflict(f"the plan of {claim.owner} has two different definitions of {'/'.join(key)}")
                self._check_owners(claim.owner, resource, key, self._entries.get(place))

    @staticmethod
    def _check_owners(owner: str, resource: Resource, key: Key, entry: Entry | None) -> None:
        others = [name for name in entry.owners if name != owner] if entry else []
        if entry is None or not others or (resource.SCOPE != "exclusive" and entry.resource == resource):
            return
        unequal = "" if entry.resource == resource else ", defined otherwise"
        raise Conflict(
            f"{'/'.join(key)} of {owner} is already used by {others[0]}{unequal}",
            details={"resource": list(key), "owners": [owner, *others]},
        )

    def add(self, claim: Claim) -> list[Task]:
        """Record an owner's plan (in place of its former one) and return what no other owner wants."""
        self.drop(claim.owner)
        self.claims[claim.owner] = claim
        self._externs.update(extern.name for extern in claim.externs)
        fresh: list[Task] = []
        for task in claim.tasks():
            for place in task.provides():
                entry = self._entries.setdefault(place, Entry(task.resource))
                if place == task.place and not entry.owners:
                    fresh.append(task)
                entry.owners[claim.owner] = None
        return fresh

    def drop(self, owner: str) -> list[Task]:
        """Forget an owner and return what nobody wants any more."""
        claim = self.claims.pop(owner, None)
        if claim is None:
            return []
        self._externs.subtract(extern.name for extern in claim.externs)
        orphans: list[Task] = []
        for task in claim.tasks():
            for place in task.provides():
                entry = self._entries[place]
                entry.owners.pop(owner, None)
                if not entry.owners:
                    del self._entries[place]
                    if place == task.place:
                        orphans.append(task)
        return orphans

    def tasks(self, owners: Collection[str] | None = None) -> list[Task]:
        """Return all wanted things (or those that one of `owners` wants), each once, with its first owner's claim."""
        return [
            Task(self.claims[next(iter(entry.owners))], entry.resource)
            for (_, key), entry in self._entries.items()
            if key == entry.resource.key and (owners is None or any(owner in owners for owner in entry.owners))
        ]

    def has(self, place: Place) -> bool:
        """Tell whether anybody wants something there."""
        return place in self._entries

    def relies_on(self, name: str) -> bool:
        """Tell whether a plan relies on a host link of that name that is not ours. May be asked by any thread."""
        return self._externs[name] > 0

    def names_link(self, name: str) -> bool:
        """Tell whether a plan makes, or relies on, the host link of that name. May be asked by any thread."""
        return ("", link_key("host", name)) in self._entries or self._externs[name] > 0

    def on_host(self) -> dict[Key, Resource]:
        """Return what is wanted on the host, by every key that it occupies there."""
        return {key: entry.resource for (sandbox, key), entry in self._entries.items() if not sandbox}

    def needing(self, places: Collection[Place]) -> set[str]:
        """Return the owners of whatever requires one of these places."""
        return {task.claim.owner for task in self.tasks() if any(place in places for place in task.requires())}

    def owners_at(self, places: Collection[Place]) -> set[str]:
        """Return the owners of what is wanted at these places."""
        return {owner for place in places if place in self._entries for owner in self._entries[place].owners}
