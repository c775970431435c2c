"""A container's files from outside: copies in and out, export, changes, and an image made of them."""

from __future__ import annotations

import posixpath
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, Generic, TypeVar

from engine.container import layer
from engine.container.config import Config
from engine.container.environment import Environment
from engine.container.record import Container
from engine.container.store import ContainerStore
from engine.events import EventBus
from engine.image.manager import ImageManager
from engine.runtime import archive
from engine.spec.errors import Forbidden, NotFound

T = TypeVar("T")


class _Held(Generic[T]):
    """Holds a context open in a thread of its own: whoever reads a tar to its end is another thread than the one that
    asked for it, and a lock can be left only by the thread that took it.
    """  # fmt: skip

    def __init__(self, context: AbstractContextManager[T]) -> None:
        """Enter; raises what entering raises."""
        self._leave = threading.Event()
        self._entered: Future[T] = Future()
        self._left: Future[None] = Future()
        threading.Thread(target=self._run, args=(context,), name="container-files", daemon=True).start()
        self.value = self._entered.result()

    def _run(self, context: AbstractContextManager[T]) -> None:
        try:
            with context as value:
                self._entered.set_result(value)
                self._leave.wait()
        except BaseException as err:  # noqa: BLE001 - raised in the thread that asked
            (self._left if self._entered.done() else self._entered).set_exception(err)
        else:
            self._left.set_result(None)

    def close(self) -> None:
        """Leave; raises what leaving raises."""
        self._leave.set()
        self._left.result()


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


def _held(context: AbstractContextManager[T], stack: ExitStack) -> T:
    """Enter a context that any thread may leave through `stack`."""
    held = _Held(context)
    stack.callback(held.close)
    return held.value


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
            root, inner, _ = _held(self._root(container, path), held)
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
            rootfs = _held(self._mounted(container), held)
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
