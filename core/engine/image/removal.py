"""Docker's rules for removing an image: which names go, whether the image goes, and what forbids it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from engine.image.model import Image, Removal
from engine.image.reference import Reference
from engine.spec.errors import Conflict, InvalidParameter


@dataclass(frozen=True)
class Plan:
    """Names to drop; then the image is deleted, hidden (a stopped container still needs its layers), or stays."""

    names: Sequence[Reference] = ()
    delete: bool = False
    hide: bool = False
    report: list[Removal] = field(default_factory=list)


def plan(image: Image, names: Sequence[Reference], ref: str, users: Sequence[tuple[str, bool]], *, force: bool) -> Plan:
    """What removing `ref`, which means `image`, does; `users`: containers (name, whether it runs). Raises Conflict."""
    wanted = _named(names, ref)
    if wanted is not None:
        remaining = [name for name in names if name != wanted]
        if any(not name.digest for name in remaining) or (wanted.digest and remaining):
            drop = [wanted, *_orphaned_digests(wanted, remaining)]
            return Plan(drop, report=[Removal("Untagged", name.familiar) for name in drop])
        if users and not force:
            raise Conflict(
                f"conflict: unable to remove repository reference {ref!r} (must force)",
                why=f"container {users[0][0]} is using its referenced image {short(image.id)}",
            )
        if users:  # docker only untags then, so that the image stays for its containers
            return Plan(names, report=[Removal("Untagged", name.familiar) for name in names])
        return everything(image, names)
    repositories = {name.name for name in names}
    if len(repositories) > 1 and not force:
        raise _conflict(image, "must be forced", "image is referenced in multiple repositories")
    running = [name for name, runs in users if runs]
    if running:
        raise _conflict(image, "cannot be forced", f"image is being used by running container {running[0]}")
    if users and not force:
        raise _conflict(image, "must be forced", f"image is being used by stopped container {users[0][0]}")
    return everything(image, names, hide=bool(users))


def everything(image: Image, names: Sequence[Reference], *, hide: bool = False) -> Plan:
    """Drop all names and the image."""
    untagged = [Removal("Untagged", name.familiar) for name in names]
    return Plan(names, not hide, hide, [*untagged, Removal("Deleted", image.id)])


def _named(names: Sequence[Reference], ref: str) -> Reference | None:
    try:
        reference = Reference.parse(ref).with_default_tag()
    except InvalidParameter:
        return None  # a full id
    wanted = reference.at(reference.digest) if reference.digest else reference
    return next((name for name in names if name == wanted), None)


def _orphaned_digests(wanted: Reference, remaining: Sequence[Reference]) -> list[Reference]:
    """With the last tag of a repository go the digests that were pulled for it."""
    same = [name for name in remaining if name.name == wanted.name]
    return [] if wanted.digest or any(not name.digest for name in same) else same


def short(id: str) -> str:
    """The 12 digits that messages show."""
    return id.removeprefix("sha256:")[:12]


def _conflict(image: Image, force: str, why: str) -> Conflict:
    return Conflict(f"conflict: unable to delete {short(image.id)} ({force})", why=why)
