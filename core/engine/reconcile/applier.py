"""What the reconciler asks of the code that changes the host, one applier for each family of resources."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Protocol, runtime_checkable

from engine.spec.resource import Key, Resource


@dataclass(frozen=True)
class Tag:
    """How this engine's things are told from everybody else's: several engines run side by side on one host.

    `instance` (8 hex digits) is derived from the data root; `link_group` marks links (IFLA_GROUP), `table` is the
    name of the nftables table, `proto` marks addresses, routes and neighbours (IFA_PROTO, rtm_protocol, NDA_PROTOCOL).
    """

    instance: str
    link_group: int
    table: str
    proto: int = 201


@dataclass(frozen=True)
class Sandbox:
    """The network namespace of a plan's resources with `ns="sandbox"`: a path that can be opened for setns(2)."""

    path: Path


@dataclass(frozen=True)
class Context:
    """What an applier needs besides the resource: whose it is, and where "sandbox" is."""

    owner: str
    sandbox: Sandbox | None = None


@dataclass(frozen=True)
class Difference:
    """What is wrong with one resource on the host.

    state is one of: "missing"; "differs" (correctable in place: `fields` says what, wanted and seen); "replace" (must
    be removed and made again); "foreign" (a thing of that name is there and not ours); "waiting" (an Extern is absent);
    "unwanted" (ours, and nobody wants it).
    """

    key: Key
    state: str
    fields: Mapping[str, tuple[object, object]] = field(default_factory=dict)
    owner: str = ""
    resource: Resource | None = None

    def __str__(self) -> str:
        changes = ", ".join(f"{name} {seen!r} instead of {want!r}" for name, (want, seen) in self.fields.items())
        return f"{'/'.join(self.key)}: {self.state}" + (f" ({changes})" if changes else "")


class BatchError(Exception):
    """A batch failed. `created` are the resources that were new and are there now; `cause` says why `failed` is not.

    `exists` is set when the cause is that something of that name is there already (EEXIST).
    """

    def __init__(
        self, failed: Resource, cause: Exception, created: Sequence[Resource], *, exists: bool = False, errno: int = 0
    ) -> None:
        super().__init__(f"{'/'.join(failed.key)}: {cause}")
        self.failed = failed
        self.cause = cause
        self.created = tuple(created)
        self.exists = exists
        self.errno = errno


class Applier(Protocol):
    """Makes, changes, removes and observes the resources of some families.

    A batch is a run of resources of this applier in one namespace, in order. All methods run in the
    reconciler's thread.
    """

    families: ClassVar[frozenset[str]]

    def create(self, batch: Sequence[Resource], context: Context) -> Sequence[Resource]:
        """Make things that must not exist yet, and return those that are new: only they may be undone.

        Raises BatchError at the first failure (what comes after it in the batch may or may not have been made, and is
        then in `created`).
        """

    def update(self, old: Resource, new: Resource, context: Context) -> None:
        """Change fields of an existing thing that are in its kind's MUTABLE."""

    def remove(self, batch: Sequence[Resource], context: Context) -> list[tuple[Resource, Exception]]:
        """Remove things, and return what could not be; one that is gone (or whose namespace is) is no error."""

    def diff(self, wanted: Mapping[Key, Resource], contexts: Mapping[Key, Context]) -> list[Difference]:
        """Compare wanted resources with the host. Only fields that a resource sets are compared."""

    def unwanted(self, wanted: Mapping[Key, Resource]) -> list[Difference]:
        """Return what carries our tag on the host (never inside sandboxes) and is not wanted."""

    def discard(self, difference: Difference) -> None:
        """Remove one thing that `unwanted` returned."""


@runtime_checkable
class TransactionalApplier(Applier, Protocol):
    """One that can put things in the place of others so that at no moment there is neither."""

    def exchange(self, old: Sequence[Resource], new: Sequence[Resource]) -> None:
        """Remove `old` and make `new` in one transaction; what is in both stays. Raises BatchError: nothing is done."""
