"""A container's files from outside: copies in and out, export, changes, and an image made of them."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from engine.container import layer
from engine.container.config import Config
from engine.container.environment import Environment
from engine.container.record import Container
from engine.container.store import ContainerStore
from engine.events import EventBus
from engine.image.manager import ImageManager
from engine.runtime import archive
from engine.spec.errors import Forbidden, NotFound


class Archive:
    """A tar that comes out of a container; what was mounted for it goes when it is closed."""

    def __init__(self, transfer: archive.Transfer, held: ExitStack) -> None:
        self.facts = transfer.facts
        self._transfer = transfer
        self._held = held
        held.callback(transfer.close)

    def read(self, size: int = -1, /) -> bytes:
        """Return at most `size` bytes; empty at the end. Raises OSError if it broke off."""
        return self._transfer.read(size)

    def close(self) -> None:
        """End it."""
        self._held.close()


class ContainerFiles:
    """Files of all containers, whether they run or not."""

    def __init__(self, store: ContainerStore, environment: Environment, images: ImageManager, events: EventBus) -> None:
        self._store = store
        self._environment = environment
        self._images = images
        self._events = events

    def stat(self, container: Container, path: str) -> dict[str, Any]:
        """Return the API's stat of a path."""
        with self._root(container, path) as (root, inner, _):
            return archive.stat(root, inner)

    def get(self, container: Container, path: str) -> Archive:
        """Return a tar of a path."""
        with ExitStack() as held:
            root, inner, _ = held.enter_context(self._root(container, path))
            result = Archive(archive.get(root, inner), held.pop_all())
        self._emit(container, "archive-path")
        return result

    def put(
        self, container: Container, path: str, source: archive.Readable, *, no_overwrite: bool, copy_owner: bool
    ) -> None:
        """Unpack a tar into a directory."""
        with self._root(container, path) as (root, inner, read_only):
            if read_only:
                raise Forbidden(
                    "container rootfs is marked read-only" if root.name == container.id else "mount is read-only"
                )
            archive.put(root, inner, source, no_overwrite=no_overwrite, copy_owner=copy_owner)
        self._emit(container, "extract-to-dir")

    def export(self, container: Container) -> Archive:
        """Return a tar of the whole root file system, without what is mounted in it."""
        with ExitStack() as held:
            rootfs = held.enter_context(self._mounted(container))
            result = Archive(archive.export(rootfs), held.pop_all())
        self._emit(container, "export")
        return result

    def changes(self, container: Container) -> list[dict[str, Any]]:
        """Return what differs from the image."""
        lowers = self._images.rootfs(container.image_id).lower
        return layer.changes(self._environment.upper(container), lowers)

    def commit(self, container: Container, options: dict[str, Any], pause: Callable[[], Any]) -> str:
        """Make an image of a container and return its id; `pause` freezes it meanwhile."""
        repo, tag = options.get("repo") or "", options.get("tag") or ""
        config = Config.parse({**container.config.docker(), **(options.get("config") or {})})
        with pause(), layer.layer_tar(self._environment.upper(container)) as tar:
            image = self._images.commit(
                tar,
                self._images.find(container.image_id),
                f"{repo}:{tag}" if repo and tag else repo,
                changes=options.get("changes") or (),
                run=config.docker() | {"Hostname": "", "Image": ""},
                comment=options.get("comment") or "",
                author=options.get("author") or "",
                created_by=" ".join([container.path, *container.args]),
            )
        self._emit(container, "commit")
        return image.id

    @contextmanager
    def _root(self, container: Container, path: str) -> Iterator[tuple[Path, str, bool]]:
        """Give (directory, path below it, whether it is read-only) for a path of the container.

        A running container's is its own view, with all its mounts. Of one that does not run, a path below a mount is
        looked for in what is mounted there.
        """
        path = "/" + path.lstrip("/")
        if container.state.running:
            root = Path(f"/proc/{container.state.pid}/root")
            if not root.exists():
                raise NotFound(f"container {container.name} has just ended")
            yield root, path, False  # the kernel itself refuses writes to what is read-only in its view
            return
        mount = max(
            (m for m in container.mounts if m.type != "tmpfs" and posixpath.join(path, "").startswith(f"{m.target}/")),
            key=lambda m: len(m.target),
            default=None,
        )
        if mount is not None:
            with self._environment.mounted_volume(container, mount) as source:
                yield source, path[len(mount.target) :] or "/.", mount.read_only
            return
        with self._mounted(container) as rootfs:
            yield rootfs, path, container.host_config.readonly_rootfs

    @contextmanager
    def _mounted(self, container: Container) -> Iterator[Path]:
        """Give the mounted root file system; the container cannot start or end while one that does not run is used."""
        with self._store.lock(container):
            running = container.state.running
            rootfs = self._environment.mount_rootfs(container)
            if not running:
                try:
                    yield rootfs
                finally:
                    self._environment.unmount_rootfs(container)
                return
        yield rootfs

    def _emit(self, container: Container, action: str) -> None:
        self._events.emit("container", action, container.id, container.attributes())
