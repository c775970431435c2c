"""The image manager: what people and containers ask about images."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from engine.events import EventBus
from engine.filters import Filters
from engine.image import archive, host, push, removal
from engine.image.catalogue import Catalogue
from engine.image.changes import apply as apply_changes
from engine.image.child import child_config
from engine.image.compression import Readable
from engine.image.filters import select
from engine.image.host import BUILTIN_HOST, HostRoot
from engine.image.layers import LayerStore
from engine.image.manifest import Platform
from engine.image.metadata import Database
from engine.image.model import HistoryEntry, Image, ProgressSink, Removal, time_text
from engine.image.pull import Pull, Reporter
from engine.image.reference import BUILTIN_REGISTRY, Reference, is_digest
from engine.image.registry import Auth, Registries
from engine.spec.errors import Forbidden, InvalidParameter, NotFound, Unsupported
from engine.spec.resource import Plan, Resource

__all__ = ["BUILTIN_HOST", "ImageManager", "Pruned", "Rootfs"]

_List = list
"""`ImageManager.list` hides the type's name within the class."""


class Pruned(NamedTuple):
    """What a prune removed; `space` in bytes."""

    removed: list[Removal]
    space: int


class Rootfs(NamedTuple):
    """Lower directories of a root file system, top-most first, and what must be mounted for them before."""

    lower: tuple[Path, ...]
    resources: tuple[Resource, ...]


class ImageManager:
    """Images below `root`. Thread-safe; every method blocks. Call `collect` once, before containers start."""

    def __init__(
        self,
        root: Path,
        *,
        exec_root: Path,
        insecure_registries: tuple[str, ...] = (),
        in_use: Callable[[str], Sequence[tuple[str, bool]]] = lambda _: (),
        mount: Callable[[Plan], object] | None = None,
        events: EventBus | None = None,
    ) -> None:
        """`exec_root` is for what need not survive a reboot.

        `insecure_registries` (host, host:port or CIDR) may lack TLS, as loopback ones may. `in_use` tells which
        containers (name, whether it runs) use an image id. `mount` brings about a plan of the host's mounts; only the
        built-in image needs it.
        """
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        root.chmod(0o700)  # layers hold setuid programs that are nobody's business outside of containers
        self._db = Database(root / "images.db")
        self._store = LayerStore(root, self._db)
        self._registries = Registries(exec_root / "image", insecure_registries)
        self._host = host.image()
        self._host_root = HostRoot(exec_root / "host", (root.parent, exec_root))
        self._catalogue = Catalogue(self._db, self._host)
        self._host_lock = threading.Lock()
        self._in_use = in_use
        self._mount = mount or _cannot_mount
        self._events = events

    @property
    def loss(self) -> str:
        """A sentence about the loss of the images' database, until a person has removed the note of it; else empty."""
        return self._db.loss

    def collect(self, *, users_known: bool = True) -> None:
        """At start, while nothing is pulled or loaded: remove what is half-made or unreferenced, repair the damaged.

        `users_known` unless there may be containers that `in_use` does not know.
        """
        if users_known:
            self._drop_unused_hidden()
        self._store.collect()
        shutil.rmtree(self._registries.scratch, ignore_errors=True)  # credentials that a killed pull left

    def close(self) -> None:
        """Wait for background work and close the database."""
        self._store.close()
        self._db.close()

    # -- looking

    def resolve(self, ref_or_id: str) -> Image:
        """The image of a name (tag latest by default), a digest, or a full or short id.

        Raises NotFound, Conflict when a short id means several, InvalidParameter for what can be no name.
        """
        id = self._catalogue.id_of(ref_or_id)
        return self._host if id == self._host.id else self._catalogue.image(id)

    def find(self, id: str) -> Image | None:
        """The image of a full id, also one that was removed by force while a container still uses it."""
        if id == self._host.id:
            return self._host
        row = self._db.image(id)
        return self._catalogue.image_of(row) if row else None

    def count(self) -> int:
        """How many images there are, the built-in one included."""
        return 1 + sum(not row.removed for row in self._db.images())

    def list(self, filters: Filters | None = None) -> _List[Image]:
        """Images, newest first, the built-in one last. Filters: dangling, label, before, since, until, reference."""
        images = [self._catalogue.image_of(row) for row in self._db.images() if not row.removed]
        images.sort(key=lambda image: image.created, reverse=True)
        return select([*images, self._host], filters or {}, self.resolve)

    def history(self, ref: str) -> _List[HistoryEntry]:
        """The steps that made an image, newest first."""
        image = self.resolve(ref)
        sizes = [layer.size for layer in self._db.layers_of(image.id)]
        entries: _List[HistoryEntry] = []
        position = 0
        for step in image.config.get("history") or [{} for _ in sizes]:
            size = 0
            if not step.get("empty_layer") and position < len(sizes):
                size, position = sizes[position], position + 1
            created, by = time_text(step.get("created") or image.created), str(step.get("created_by") or "")
            entries.append(HistoryEntry("<missing>", created, by, size, str(step.get("comment") or "")))
        entries.reverse()
        if entries:
            entries[0] = replace(entries[0], id=image.id, tags=image.repo_tags)
        return entries

    def rootfs(self, id: str) -> Rootfs:
        """What a container's overlay is mounted upon, for a full image id (see `find`).

        For the built-in image this mounts a small tmpfs, once. Raises NotFound.
        """
        if id == self._host.id:
            with self._host_lock:
                self._mount(Plan.of((self._host_root.tmpfs,)))
                self._host_root.write_mask()
            return Rootfs((self._host_root.merged,), (self._host_root.overlay,))
        if self._db.image(id) is None:
            raise NotFound(f"No such image: {id}")
        # A layer that comes twice counts once: the upper one hides the lower, and overlayfs refuses it.
        lowers = dict.fromkeys(self._store.directory(layer) for layer in reversed(self._db.layers_of(id)))
        return Rootfs(tuple(lowers) or (self._store.empty,), ())

    # -- registries

    def pull(
        self, ref: str, *, auth: Auth | None = None, progress: ProgressSink | None = None, platform: str | None = None
    ) -> Image:
        """Pull an image; layers that are here are not fetched again. An exception from `progress` aborts the pull.

        Raises InvalidParameter (name, platform, corrupt image), NotFound, Forbidden (credentials), Unavailable
        (registry, full disk). Nothing is left of a pull that failed.
        """
        report = Reporter(progress)
        reference = Reference.parse(ref).with_default_tag()
        if str(reference) == BUILTIN_HOST:
            report(f"Status: Image is built in: {BUILTIN_HOST}")
            return self._host
        _not_builtin(reference, "pulled")
        with self._store.writing():
            job = Pull(self._db, self._store, self._registries, reference, auth, report)
            pulled = job.run(Platform.parse(platform) if platform else None)
            names = [str(reference.at(pulled.digest))]
            if not reference.digest:
                names.append(str(reference))
            fresh = self._catalogue.name(pulled.id, names)
        report(f"Digest: {pulled.digest}")
        status = "Downloaded newer image for" if fresh else "Image is up to date for"
        report(f"Status: {status} {reference.familiar}")
        self._emit("pull", reference.familiar, {"name": reference.familiar_name})
        return self._catalogue.image(pulled.id)

    def push(self, ref: str, *, auth: Auth | None = None, progress: ProgressSink | None = None) -> str:
        """Push a tagged image to the registry of its name; returns the digest that it has there.

        Raises NotFound, Forbidden (credentials), Unavailable.
        """
        reference = _not_builtin(Reference.parse(ref), "pushed").with_default_tag()
        if reference.digest:
            raise InvalidParameter("cannot push a digest reference", hint="Tag the image and push the tag.")
        id = self._db.image_named(str(reference))
        row = self._db.image(id) if id else None
        if row is None:
            raise NotFound(f"An image does not exist locally with the tag: {reference.familiar}")
        report = Reporter(progress)
        with self._store.writing():  # so that the blobs stay
            layers = self._db.layers_of(row.id)
            digest = push.push(self._store, self._registries, reference, row, layers, auth, report)
            self._catalogue.name(row.id, [str(reference.at(digest))])
        report(f"{reference.tag}: digest: {digest} size: {len(row.manifest or b'')}")
        self._emit("push", reference.familiar, {"name": reference.familiar_name})
        return digest

    def login(self, server: str, username: str, password: str) -> str:
        """Check credentials; returns the registry's name. Raises Forbidden when they are wrong, Unavailable."""
        return self._registries.login(server, username, password)

    # -- names and removal

    def tag(self, src: str, dst: str) -> None:
        """Give an image one more name, taking it from the image that had it. Raises InvalidParameter for a digest."""
        target = _not_builtin(Reference.parse(dst), "tagged").with_default_tag()
        if target.digest:
            raise InvalidParameter(f"refusing to create a tag with a digest reference: {dst!r}")
        id = self._catalogue.id_of(src)
        if id == self._host.id:
            raise Forbidden(f"{BUILTIN_HOST} is built in and cannot be tagged")
        self._catalogue.name(id, [str(target)])
        self._emit("tag", id, {"name": target.familiar})

    def remove(self, ref: str, *, force: bool = False, prune: bool = True) -> _List[Removal]:
        """Remove a name, and with its last name the image, by docker's rules.

        Raises Conflict while a container uses it (a running one also with `force`) or several repositories name it.
        `prune` is docker's: parents of an image are never stored here on their own, so it changes nothing.
        """
        with self._catalogue.lock:
            image = self.resolve(ref)
            if image.builtin:
                raise Forbidden(f"{BUILTIN_HOST} is built in and cannot be removed")
            plan = removal.plan(image, self._catalogue.names_of(image.id), ref, self._in_use(image.id), force=force)
            self._carry_out(image, plan)
        self._store.sweep()
        for done in plan.report:
            self._emit("untag" if done.kind == "Untagged" else "delete", image.id, {"name": done.name})
        return plan.report

    def prune(self, *, all: bool = False, filters: Filters | None = None) -> Pruned:
        """Remove dangling images, or all that no container uses. Filters: label, until."""
        report: _List[Removal] = []
        for image in self.list(filters):
            if image.builtin or not (all or image.dangling):
                continue
            with self._catalogue.lock:
                if self._in_use(image.id):
                    continue
                plan = removal.everything(image, self._catalogue.names_of(image.id))
                self._carry_out(image, plan)
            report += plan.report
        self._drop_unused_hidden()
        space = self._store.sweep()
        self._emit("prune", "", {"reclaimed": str(space)})
        return Pruned(report, space)

    def release(self) -> None:
        """A container is gone: forget images that were removed by force and that nothing uses any more."""
        if self._drop_unused_hidden():
            self._store.sweep()

    # -- archives

    def load(self, source: Readable | Path, *, progress: ProgressSink | None = None) -> _List[str]:
        """Load every image of a docker-archive or OCI archive (a file or a stream, compressed or not): all or none.

        Returns their names, or ids where they have none. Raises InvalidParameter for what is no valid archive.
        """
        report = Reporter(progress)
        with self._store.writing(), self._store.scratch() as scratch:
            if isinstance(source, Path):
                with source.open("rb") as file:
                    path = archive.spool(file, scratch)
            else:
                path = archive.spool(source, scratch)
            with archive.ImageArchive(path) as images:
                loaded = [*images.images(self._store, report)]
            names: _List[str] = []
            with self._catalogue.lock, self._db.transaction():
                for image in loaded:
                    self._db.put_image(image.id, image.config, image.manifest, image.diff_ids)
                    self._catalogue.name(image.id, [str(name) for name in image.names])
                    names += [name.familiar for name in image.names] or [image.id]
        if not names:
            raise InvalidParameter("this is not a valid image archive", why="it holds no image")
        for name in names:
            report(f"Loaded image{' ID' if is_digest(name) else ''}: {name}")
            self._emit("load", name, {"name": name})
        return names

    def save(self, refs: Sequence[str], out: archive.Writable | Path) -> None:
        """Write images as one docker-archive. A name without tag means all tags of that repository, as in docker."""
        chosen: dict[str, _List[Reference]] = {}
        for ref in refs:
            for id, names in self._catalogue.named(ref) or [(self._catalogue.id_of(ref), [])]:
                if id == self._host.id:
                    raise Forbidden(f"{BUILTIN_HOST} is built in and cannot be saved")
                chosen.setdefault(id, []).extend(name for name in names if name not in chosen.get(id, ()))
        with self._store.writing(), contextlib.ExitStack() as stack:
            rows = [(self._catalogue.row(id), names) for id, names in chosen.items()]
            target = stack.enter_context(_new_file(out)) if isinstance(out, Path) else out
            archive.save(rows, self._db.layers_of, self._store, target)
        for ref in refs:
            self._emit("save", ref, {"name": ref})

    def import_(
        self,
        source: Readable,
        ref: str = "",
        *,
        changes: Iterable[str] = (),
        message: str = "",
        platform: str | None = None,
    ) -> Image:
        """Make an image of one root file system tar (compressed or not), named `ref` if given."""
        return self.commit(source, None, ref, changes=changes, comment=message or "Imported from -", platform=platform)

    def commit(
        self,
        layer: Readable,
        parent: Image | None,
        ref: str = "",
        *,
        changes: Iterable[str] = (),
        run: Mapping[str, Any] | None = None,
        comment: str = "",
        author: str = "",
        created_by: str = "",
        platform: str | None = None,
    ) -> Image:
        """Make an image of `parent`'s layers and one more, a tar in the form of image layers (with `.wh.` whiteouts).

        `run` replaces the parent's run section, `changes` (Dockerfile instructions) alter it.
        """
        if parent is not None and parent.builtin:
            raise Forbidden(f"{BUILTIN_HOST} has no layers to build upon")
        target = _not_builtin(Reference.parse(ref), "written").with_default_tag() if ref else None
        section = apply_changes(run if run is not None else (parent.run if parent else {}), changes)
        with self._store.writing():
            added = self._store.add(layer)
            config = child_config(parent, section, added.diff_id, comment, author, created_by, platform)
            data = json.dumps(config).encode()
            id = "sha256:" + hashlib.sha256(data).hexdigest()
            with self._catalogue.lock, self._db.transaction():
                self._db.put_image(id, data, None, config["rootfs"]["diff_ids"])
                self._catalogue.name(id, [str(target)] if target else [])
        self._emit("import" if parent is None else "commit", id, {"name": ref})
        return self._catalogue.image(id)

    # -- inside

    def _emit(self, action: str, id: str, attributes: Mapping[str, str]) -> None:
        if self._events is not None:
            self._events.emit("image", action, id, attributes)

    def _carry_out(self, image: Image, plan: removal.Plan) -> None:
        with self._db.transaction():
            for name in plan.names:
                self._db.drop_name(str(name))
            if plan.hide:
                self._db.hide_image(image.id)
            elif plan.delete:
                self._db.drop_image(image.id)

    def _drop_unused_hidden(self) -> bool:
        gone = [row.id for row in self._db.images() if row.removed and not self._in_use(row.id)]
        for id in gone:
            self._db.drop_image(id)
        return bool(gone)


@contextlib.contextmanager
def _new_file(path: Path) -> Iterator[BinaryIO]:
    """A file that is gone again when writing it fails."""
    with path.open("wb") as file:
        try:
            yield file
        except BaseException:
            path.unlink()
            raise


def _cannot_mount(_: Plan) -> None:
    raise Unsupported(f"{BUILTIN_HOST} cannot be used", why="this image manager cannot mount")


def _not_builtin(reference: Reference, verb: str) -> Reference:
    if reference.registry == BUILTIN_REGISTRY:
        why = f"{BUILTIN_REGISTRY} is reserved for built-in images"
        raise Forbidden(f"{reference.familiar} cannot be {verb}", why=why)
    return reference
