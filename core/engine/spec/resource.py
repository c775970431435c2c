"""Resources and plans: what must exist, as values.

A **resource** is one thing on the host: a link, an address, a mount. A **plan** is a set of them. A driver returns
plans; the reconciler (and nothing else) makes the host agree with them.

Identity
    `key` names the thing: its family, the namespace it lives in and its natural name there. Two resources with one key
    are the same thing; if their other fields differ they contradict each other, and the second one is refused.
Order
    `PHASE` orders the kinds; within a phase `requires()` does. Authors never write an order: it follows from the names
    that a resource mentions (its parent, its master, its link).
Life
    `LIFE` is "session" (exists while its owner is in use: made, repaired, undone, collected) or "data" (made once, when
    its volume is created; missing later is an error; never corrected, recreated, undone or collected).
Sharing
    `SCOPE` is "exclusive" (one owner), "shared" (equal definitions from several owners are one thing, which goes with
    the last owner) or "set-only" (a value that is set and never restored, such as a global sysctl).

JSON
    A resource always says its `kind` and version `v`. An unknown kind, or a newer version, loads as `Opaque`: it is
    kept and written back byte for byte, and never applied.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, Literal, cast

from pydantic import SerializeAsAny, field_validator

from engine.spec.values import Frozen

Ns = Literal["host", "sandbox"]
"""The namespace that a resource lives in. A plan can name no other: the core binds "sandbox" to a container's."""
Key = tuple[str, ...]
"""(family, namespace, name, ...)"""
Life = Literal["session", "data"]
"""How long a thing lives: see the top of this module."""
Scope = Literal["exclusive", "shared", "set-only"]
"""Who may want a thing: see the top of this module."""

_registry: dict[str, type[Resource]] = {}


class Resource(Frozen):
    """One thing that must exist. Subclasses give `kind` a default of their own; that registers them."""

    PHASE: ClassVar[int] = 50
    """Kinds of a lower phase are made earlier and removed later."""
    FAMILY: ClassVar[str] = ""
    """The key space. All kinds of links share one, so that a bridge and a veth of one name collide."""
    ID: ClassVar[tuple[str, ...]] = ()
    """The fields that, with the family and the namespace, make the key."""
    MUTABLE: ClassVar[frozenset[str]] = frozenset()
    """Fields that can be changed in place; a difference in any other means replacing the thing."""
    LIFE: ClassVar[Life] = "session"
    SCOPE: ClassVar[Scope] = "exclusive"
    ANCHORED: ClassVar[bool] = False
    """It goes by itself when a link that it requires goes, and has to be made again with that link."""

    kind: str
    v: int = 1

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        default = cls.model_fields["kind"].default
        if isinstance(default, str):
            known = _registry.get(default)
            if known is not None and known.__qualname__ != cls.__qualname__:
                raise TypeError(f"resource kind {default!r} is taken by {known.__module__}.{known.__qualname__}")
            _registry[default] = cls

    @property
    def key(self) -> Key:
        """What this thing is called, unique on the host (or in its sandbox)."""
        return (self.FAMILY or self.kind, self.namespace, *(str(getattr(self, name)) for name in self.ID))

    @property
    def namespace(self) -> Ns:
        """Where it lives: the field `ns` where the kind has one, else the host."""
        return cast(Ns, self.__dict__.get("ns", "host"))  # getattr costs ten times as much where there is no such field

    def requires(self) -> Iterable[Key]:
        """Return the keys of what must exist before this: derived from names, never written by an author."""
        return ()

    def provides(self) -> tuple[Key, ...]:
        """Return every key that this occupies: its own, and of what comes with it (the other end of a pair)."""
        return (self.key,)


class Opaque(Resource):
    """A resource that this version cannot read: kept as it was, shown, never applied."""

    kind: str
    data: Mapping[str, Any]
    """The whole JSON object as it was read."""

    @property
    def key(self) -> Key:
        """An opaque thing is only equal to itself."""
        return ("opaque", "host", self.kind, repr(sorted(self.data.items())))


def kind_of(kind: str) -> type[Resource] | None:
    """Return the class that is registered for a kind."""
    return _registry.get(kind)


def load_resource(data: Mapping[str, Any]) -> Resource:
    """Read one resource from its JSON object; an unknown kind or a newer version becomes `Opaque`."""
    cls = _registry.get(str(data.get("kind")))
    if cls is None or int(data.get("v", 1)) > int(cls.model_fields["v"].default):
        return Opaque(kind=str(data.get("kind")), v=int(data.get("v", 1)), data=dict(data))
    return cls.model_validate(data)


class Plan(Frozen):
    """What must exist, in any order. Plans are values: compare them, print them, write them to JSON."""

    resources: tuple[SerializeAsAny[Resource], ...] = ()
    """In any order: the engine finds the order in which they are made."""

    @field_validator("resources", mode="before")
    @classmethod
    def _read(cls, value: Any) -> Any:
        return tuple(load_resource(item) if isinstance(item, Mapping) else item for item in value)

    @classmethod
    def of(cls, *items: Resource | Iterable[Resource]) -> Plan:
        """Build a plan from resources and from iterables of them."""
        flat: list[Resource] = []
        for item in items:
            if isinstance(item, Resource):
                flat.append(item)
            else:
                flat.extend(item)
        return cls(resources=tuple(flat))

    def __add__(self, other: Plan) -> Plan:
        return type(self)(resources=self.resources + other.resources)

    def __len__(self) -> int:
        return len(self.resources)

    def keys(self) -> tuple[Key, ...]:
        """Return the keys of all resources, in the plan's order."""
        return tuple(r.key for r in self.resources)

    def by_kind(self, *kinds: type[Resource]) -> Iterator[Resource]:
        """Iterate over the resources that are of one of these classes."""
        return (r for r in self.resources if isinstance(r, kinds))

    def to_json(self) -> str:
        """Return the plan as JSON text, from which `from_json` makes an equal plan."""
        return dump_resources(self.resources)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Read a plan from the text that `to_json` wrote."""
        return cls.model_validate_json(text)


def dump_resources(resources: Iterable[Resource]) -> str:
    """Return resources as the JSON text of a plan; an `Opaque` is written as it was read."""
    import json

    items = [dict(r.data) if isinstance(r, Opaque) else r.model_dump(mode="json") for r in resources]
    return json.dumps({"resources": items}, separators=(",", ":"))
