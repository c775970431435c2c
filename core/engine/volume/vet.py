"""Checks the plan of a volume driver before anything of it is made: one place, over all fields that are paths.

A driver's mistake must not reach the host: data below the volume's own directory, mount points below its own run
directory, and outside sources only if the operator named them in an option. It is a check of values, against mistakes:
a driver is code in our process.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping

from engine.spec.encryption import SLOTS_FILE, EncryptedDirectory, FscryptKey, GocryptMount, GocryptStore, KeySlots
from engine.spec.errors import DriverFault
from engine.spec.mounts import Bind, Directory, Image, ImageMount, Mount, OverlayMount, Tmpfs
from engine.spec.resource import Plan, Resource, kind_of
from engine.spec.trees import SyncedTree
from engine.spec.volume import Volume, VolumePlan

MAX_RESOURCES = 256
FILESYSTEMS = frozenset({
    "nfs", "nfs4", "cifs", "smb3", "ceph", "9p", "virtiofs", "ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "vfat",
    "exfat", "ntfs3", "iso9660", "udf", "squashfs", "erofs",
})  # fmt: skip
"""What `Mount` may mount: file systems with content. None that shows the kernel (proc, sysfs, cgroup, debugfs)."""
RECORD = "volume.json"
"""The manager's own file in a volume's directory."""
SNAPSHOTS = "snapshots"
"""The directory of a volume's snapshots in its own directory."""


def vet(volume: Volume, answer: object, given: Mapping[str, str]) -> VolumePlan:
    """Return a driver's answer if it may be applied. `given` are the options as the operator wrote them.

    Raises DriverFault that names the resource.
    """

    def fault(why: str) -> DriverFault:
        return DriverFault(f"the plan of volume {volume.name!r} is not valid", driver=volume.driver, why=why)

    if not isinstance(answer, VolumePlan):
        raise fault(f"volume_plan returned {type(answer).__name__} instead of VolumePlan")
    plan = answer.plan
    if len(plan) > MAX_RESOURCES:
        raise fault(f"it has {len(plan)} resources; {MAX_RESOURCES} are allowed")
    if len(set(plan.keys())) != len(plan):
        raise fault("two resources have the same key")
    for resource in plan.resources:
        if type(resource) is not kind_of(resource.kind):
            raise fault(f"{type(resource).__name__} is not the resource of kind {resource.kind!r}")
        for problem in (*_problems(resource, volume, given), *_problems_in_plan(resource, volume, plan)):
            raise fault(f"{'/'.join(resource.key)}: {problem}")
    made = [str(getattr(r, "target", getattr(r, "path", ""))) for r in plan.resources]
    if not any(answer.path == place or _below(answer.path, place) for place in made):
        raise fault(f"containers would see {answer.path}, which nothing in the plan makes")
    try:
        survives = Plan.from_json(plan.to_json()) == plan
    except (ValueError, TypeError) as err:
        raise fault(f"it cannot be written to JSON and read again: {err}") from err
    if not survives:
        raise fault("it does not survive being written to JSON and read again")
    return answer


def _below(path: str, directory: str) -> bool:
    return path.startswith(directory.rstrip("/") + "/")


def _problems(resource: Resource, volume: Volume, given: Mapping[str, str]) -> Iterator[str]:
    match resource:
        case Directory() | Image():
            yield from _data(resource.path, volume)
        case Bind():
            yield from _target(resource.target, volume)
            yield from _source(resource.source, volume, given)
            if resource.subpath.startswith("/") or ".." in resource.subpath.split("/"):
                yield f"the subpath {resource.subpath!r} leads out of the source"
        case Tmpfs():
            yield from _target(resource.target, volume)
        case ImageMount():
            yield from _target(resource.target, volume)
            yield from _source(resource.image, volume, given)
        case OverlayMount():
            yield from _target(resource.target, volume)
            for path in (*resource.lower, *(p for p in (resource.upper, resource.work) if p is not None)):
                yield from _source(path, volume, given)
        case Mount():
            yield from _target(resource.target, volume)
            if resource.fstype not in FILESYSTEMS:
                yield f"file systems of type {resource.fstype!r} are not allowed ({', '.join(sorted(FILESYSTEMS))} are)"
            if resource.source not in given.values():
                yield f"the source {resource.source!r} is not what the operator gave in an option"
        case SyncedTree():
            yield from _tree(resource, volume, given)
        case KeySlots() | FscryptKey() | EncryptedDirectory() | GocryptStore() | GocryptMount():
            return  # below
        case _:
            yield f"resources of kind {resource.kind!r} are not for volumes"


def _problems_in_plan(resource: Resource, volume: Volume, plan: Plan) -> Iterator[str]:
    """What is wrong with a resource beside the others: key slots of another volume, data in no image of this one."""
    slots = (
        resource.path if isinstance(resource, KeySlots) else getattr(resource, "slots", f"{volume.data}/{SLOTS_FILE}")
    )
    if slots != f"{volume.data}/{SLOTS_FILE}":
        yield f"the key slots of a volume are {volume.data}/{SLOTS_FILE}"
    images = [r.target for r in plan.by_kind(ImageMount) if isinstance(r, ImageMount)]
    match resource:
        case GocryptStore():
            yield from _data(resource.path, volume)
        case SyncedTree() if not any(_below(resource.journal, image) for image in images):
            yield from _data(resource.journal, volume)
        case EncryptedDirectory() if not any(_below(resource.path, image) for image in images):
            yield from _data(resource.path, volume)
        case FscryptKey() if resource.path != volume.data and resource.path not in images:
            yield f"{resource.path} is neither the volume's directory nor an image of it"
        case GocryptMount():
            yield from _target(resource.target, volume)
            if not _below(resource.store, volume.data):
                yield f"encrypted files have to be below {volume.data}"


def _data(path: str, volume: Volume) -> Iterator[str]:
    if not _below(path, volume.data):
        yield f"data has to be below {volume.data}"
    elif path.split("/")[volume.data.count("/") + 1] in (RECORD, SNAPSHOTS):
        yield "that name is the engine's"


def _target(path: str, volume: Volume) -> Iterator[str]:
    if not _below(path, volume.run):
        yield f"mount points have to be below {volume.run}"


def _tree(tree: SyncedTree, volume: Volume, given: Mapping[str, str]) -> Iterator[str]:
    if posixpath.dirname(tree.run) != volume.run:  # where helpers that nobody wants are looked for
        yield f"the directory of the helper has to be in {volume.run}"
    if not (_below(tree.path, volume.data) or _below(tree.path, volume.run)):
        yield f"the directory has to be below {volume.data} or {volume.run}"
    for one, other in ((tree.journal, tree.path), (tree.run, tree.path), (tree.path, tree.run)):
        if one == other or _below(one, other):
            yield f"{one} is inside of {other}"
    # Wrappers may stand before the operator's URL; a place of the driver's own choice, on this host or elsewhere, not.
    url = tree.store.url
    if not any(value and (url == value or url.endswith(f"::{value}")) for value in given.values()):
        yield f"the store {url!r} is not what the operator gave in an option"


def _source(path: str, volume: Volume, given: Mapping[str, str]) -> Iterator[str]:
    if not (_below(path, volume.data) or _below(path, volume.run) or _named(path, given)):
        yield f"the source {path} is outside of the volume, and not what the operator gave in an option"


def _named(path: str, given: Mapping[str, str]) -> bool:
    return any(
        value.startswith("/") and posixpath.normpath("/" + value.lstrip("/")) == path for value in given.values()
    )
