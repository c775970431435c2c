"""An applier without a kernel: a dictionary is the host."""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Literal

from engine.reconcile.applier import BatchError, Context, Difference, Sandbox, Tag
from engine.reconcile.reconciler import Reconciler
from engine.spec.links import Extern
from engine.spec.resource import Key, Life, Ns, Resource, Scope

TAG = Tag("0badcafe", 1, "engine_0badcafe")


class Thing(Resource):
    """A resource whose every property a test chooses."""

    PHASE: ClassVar[int] = 50
    FAMILY: ClassVar[str] = "thing"
    ID: ClassVar[tuple[str, ...]] = ("name",)
    MUTABLE: ClassVar[frozenset[str]] = frozenset({"value"})

    kind: Literal["test-thing"] = "test-thing"
    name: str
    ns: Ns = "host"
    value: int = 0
    fixed: int = 0
    needs: tuple[str, ...] = ()

    def requires(self) -> tuple[Key, ...]:
        return tuple(("thing", self.ns, name) for name in self.needs)


class Early(Thing):
    PHASE: ClassVar[int] = 10
    kind: Literal["test-early"] = "test-early"  # type: ignore[assignment]


class Late(Thing):
    PHASE: ClassVar[int] = 90
    kind: Literal["test-late"] = "test-late"  # type: ignore[assignment]


class Shared(Thing):
    SCOPE: ClassVar[Scope] = "shared"
    kind: Literal["test-shared"] = "test-shared"  # type: ignore[assignment]


class Setting(Thing):
    SCOPE: ClassVar[Scope] = "set-only"
    kind: Literal["test-setting"] = "test-setting"  # type: ignore[assignment]


class Data(Thing):
    PHASE: ClassVar[int] = 5
    LIFE: ClassVar[Life] = "data"
    kind: Literal["test-data"] = "test-data"  # type: ignore[assignment]


class FakeApplier:
    """Keeps what was made in `host`, by place; `log` is what was done; `fail` decides about each creation."""

    families: ClassVar[frozenset[str]] = frozenset({"thing", "link"})

    def __init__(self) -> None:
        self.host: dict[tuple[str, Key], Resource] = {}
        self.foreign: set[Key] = set()
        self.absent: set[Key] = set()
        self.log: list[str] = []
        self.batches: list[list[str]] = []
        self.fail: Callable[[Resource], int] = lambda resource: 0
        self.fail_update: Callable[[Resource], int] = lambda resource: 0
        self.stuck: set[str] = set()
        self.observed = 0

    @staticmethod
    def _place(item: Resource, context: Context) -> tuple[str, Key]:
        inside = item.namespace == "sandbox" and context.sandbox
        return (str(context.sandbox.path) if inside and context.sandbox else "", item.key)

    def create(self, batch: Sequence[Resource], context: Context) -> Sequence[Resource]:
        self.batches.append([item.key[-1] for item in batch])
        made: list[Resource] = []
        for item in batch:
            if isinstance(item, Extern):
                if item.key in self.absent:
                    raise BatchError(item, OSError(errno.ENODEV, "absent"), made, errno=errno.ENODEV)
                continue
            number = self.fail(item)
            if not number and (self._place(item, context) in self.host or item.key in self.foreign):
                number = errno.EEXIST
            if number:
                cause = OSError(number, "chosen by the test")
                raise BatchError(item, cause, made, exists=number == errno.EEXIST, errno=number)
            self.log.append(f"+{item.key[-1]}")
            self.host[self._place(item, context)] = item
            made.append(item)
        return made

    def update(self, old: Resource, new: Resource, context: Context) -> None:
        if number := self.fail_update(new):
            raise BatchError(new, OSError(number, "chosen by the test"), (), errno=number)
        self.log.append(f"~{new.key[-1]}")
        self.host[self._place(new, context)] = new

    def remove(self, batch: Sequence[Resource], context: Context) -> list[tuple[Resource, Exception]]:
        failed: list[tuple[Resource, Exception]] = []
        for item in batch:
            if item.key[-1] in self.stuck:
                failed.append((item, OSError(errno.EBUSY, "stuck")))
            elif self.host.pop(self._place(item, context), None):
                self.log.append(f"-{item.key[-1]}")
        return failed

    def diff(self, wanted: Mapping[Key, Resource], contexts: Mapping[Key, Context]) -> list[Difference]:
        self.observed += 1
        return [d for key, item in wanted.items() if (d := self._compare(item, contexts[key]))]

    def _compare(self, item: Resource, context: Context) -> Difference | None:
        if isinstance(item, Extern):
            return Difference(item.key, "waiting", {}, context.owner, item) if item.key in self.absent else None
        if item.key in self.foreign:
            return Difference(item.key, "foreign", {}, context.owner, item)
        seen = self.host.get(self._place(item, context))
        if seen is None:
            return Difference(item.key, "missing", {}, context.owner, item)
        differs = {n for n in type(item).model_fields if getattr(item, n) != getattr(seen, n)}
        if not differs:
            return None
        state = "differs" if differs <= item.MUTABLE else "replace"
        fields = {name: (getattr(item, name), getattr(seen, name)) for name in differs}
        return Difference(item.key, state, fields, context.owner, item)

    def unwanted(self, wanted: Mapping[Key, Resource]) -> list[Difference]:
        return [
            Difference(item.key, "unwanted", resource=item)
            for (sandbox, key), item in self.host.items()
            if not sandbox and key not in wanted
        ]

    def discard(self, difference: Difference) -> None:
        if difference.key[-1] in self.stuck:
            raise OSError(errno.EBUSY, "stuck")
        del self.host[("", difference.key)]

    def names(self) -> set[str]:
        return {key[-1] for _, key in self.host}


class World:
    def __init__(self) -> None:
        self.applier = FakeApplier()
        self.reconciler = Reconciler(TAG, [self.applier])


__all__ = ["TAG", "Data", "Early", "FakeApplier", "Late", "Sandbox", "Setting", "Shared", "Thing", "World"]
