"""Containers: the operations of the API, on records, lives and files."""

from __future__ import annotations

import builtins
import socket
from collections.abc import Collection, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext, suppress

from engine.alone import alone
from engine.container.attachments import Attachment
from engine.container.config import CreateRequest
from engine.container.connections import Connections
from engine.container.creation import Creation
from engine.container.defaults import DefaultNetworks
from engine.container.environment import Environment
from engine.container.execs import Execs
from engine.container.files import Archive, ContainerFiles
from engine.container.filters import prune_matches
from engine.container.freezer import Freezer
from engine.container.launch import resources
from engine.container.lifecycle import Lifecycle
from engine.container.logs import ContainerLogs, LogQuery
from engine.container.naming import check_name, new_id
from engine.container.presenter import Presenter
from engine.container.publishing import ContainerPorts
from engine.container.record import Container, Endpoint
from engine.container.restart import check_policy
from engine.container.signals import Signals
from engine.container.store import ContainerStore
from engine.container.views import JsonObject
from engine.container.waiters import ExitResult
from engine.events import EventBus
from engine.filters import Filters
from engine.image.manager import ImageManager
from engine.network.manager import NetworkManager
from engine.runtime.archive import Readable
from engine.runtime.conmon import Conmon, resize
from engine.runtime.resources import linux_resources
from engine.runtime.stats import empty_stats, read_stats
from engine.runtime.top import top
from engine.spec.errors import Conflict, InvalidParameter, NotFound
from engine.volume.manager import VolumeManager


class ContainerManager:
    """All containers of one engine, from any thread; `engine.api.services.containers` describes the methods."""

    def __init__(
        self,
        store: ContainerStore,
        creation: Creation,
        environment: Environment,
        conmon: Conmon,
        images: ImageManager,
        networks: NetworkManager,
        volumes: VolumeManager,
        events: EventBus,
    ) -> None:
        self._store = store
        self._creation = creation
        self._environment = environment
        self._conmon = conmon
        self._images = images
        self._networks = networks
        self._volumes = volumes
        self._events = events
        self._lifecycle = Lifecycle(store, environment, conmon, events, self._delete)
        self.freezer = Freezer(store, self._lifecycle, conmon, events)
        """What is paused; the doctor compares it with the host."""
        self._signals = Signals(store, self._lifecycle, self.freezer, conmon, events)
        self._connections = Connections(store, environment, networks)
        self._defaults = DefaultNetworks(store, networks, creation.default)
        self._execs = Execs(conmon, events)
        self._presenter = Presenter(store, environment, images, networks)
        self._files = ContainerFiles(store, environment, images, events)
        self.ports = ContainerPorts(store, networks, events)
        """Published ports, of running containers too."""

    # Existence

    def create(self, config: JsonObject, name: str, platform: str = "") -> tuple[str, list[str]]:
        """Create a container from the API's body; return its id and warnings."""
        self._conmon.warm_up()  # a start follows as a rule: 6 ms of it have passed by then
        with self._defaults.choosing():
            container, warnings = self._creation.build(CreateRequest.parse(config), name)
            try:
                self._environment.make_directories(container)
                self._store.add(container)
            except Exception:
                self._environment.remove_directories(container)
                self._environment.dereference_volumes(container)
                self._remove_anonymous_volumes(container)
                raise
        self._emit(container, "create")
        return container.id, warnings

    def remove(self, ref: str, *, force: bool = False, volumes: bool = False) -> None:
        """Remove a container; `force` ends it first; `volumes` takes its anonymous volumes along."""
        container = self._store.get(ref)
        if container.state.running:
            if not force:
                raise Conflict(
                    f"You cannot remove a running container {container.id}",
                    hint="Stop the container before attempting removal or force remove.",
                )
            self._signals.kill_and_wait(container)
        elif force:
            self._lifecycle.give_up_start(container)
        with self._store.lock(container):
            if not self._store.exists(container):
                return  # --rm was quicker
            self._lifecycle.give_up_restart(container)
            if container.state.running:
                raise Conflict(f"container {container.name} was started again meanwhile")
            self._delete(container, volumes=volumes)

    def _delete(self, container: Container, *, volumes: bool | None = None) -> None:
        """Delete an ended container. The row goes last: an interrupted removal is finished by the next daemon."""
        state = container.state
        if state.status == "removing" or self._environment.rootfs(container).exists():
            self._lifecycle.unwind(container)
        if state.status != "removing":
            state.takes_volumes = container.host_config.auto_remove if volumes is None else volumes
            state.status = "removing"
            self._lifecycle.note(container)
        self._environment.remove_directories(container)
        if self._networks.attachments(container.id):  # the disk was too full to note that they went; now there is room
            self._networks.detach_all(container.id)
        self._environment.dereference_volumes(container)
        if state.takes_volumes:
            self._remove_anonymous_volumes(container)
        self._store.delete(container)
        self._execs.forget(container)
        self._emit(container, "destroy")
        self._defaults.left([endpoint.network for endpoint in container.endpoints])
        self._lifecycle.waiters.removed(container.id, ExitResult(state.exit_code))
        self._lifecycle.attachments.fail(container.id, Conflict(f"container {container.name} was removed"))
        self._release_image(container)

    def _release_image(self, container: Container) -> None:
        """Let an image that was removed by force while the container used it go."""
        try:
            self._images.resolve(container.image_id)
        except NotFound:
            self._images.release()

    def _remove_anonymous_volumes(self, container: Container) -> None:
        for mount in container.mounts:
            if mount.anonymous:
                with suppress(NotFound, Conflict):  # another container took it over with --volumes-from
                    self._volumes.remove(mount.source)

    def prune(self, filters: Filters) -> JsonObject:
        """Remove all that do not run."""
        deleted: list[str] = []
        freed = 0
        for container in self._store.all():
            if container.state.running or not prune_matches(container, filters):
                continue
            size = self._presenter.size(container)
            try:
                self.remove(container.id)
            except Conflict:
                continue  # started or removed meanwhile
            deleted.append(container.id)
            freed += size
        return {"ContainersDeleted": deleted, "SpaceReclaimed": freed}

    def rename(self, ref: str, name: str) -> None:
        """Give a container another name."""
        container = self._store.get(ref)
        with self._store.lock(container):
            old = container.name
            self._store.rename(container, check_name(name))
            self._networks.rename(self._environment.ref(container))
        self._events.emit("container", "rename", container.id, {**container.attributes(), "oldName": f"/{old}"})

    # Life

    def start(self, ref: str) -> bool:
        """Start a container; False if it runs already."""
        return self._lifecycle.start(self._store.get(ref))

    def stop(self, ref: str, *, timeout: int | None = None, signal: str = "") -> bool:
        """Stop a container; False if it does not run."""
        return self._signals.stop(self._store.get(ref), timeout=timeout, signal=signal)

    def restart(self, ref: str, *, timeout: int | None = None, signal: str = "") -> None:
        """Stop a container if it runs, then start it."""
        container = self._store.get(ref)
        self._signals.stop(container, timeout=timeout, signal=signal)
        self._lifecycle.start(container)
        self._emit(container, "restart")

    def kill(self, ref: str, signal: str = "") -> None:
        """Send a signal; SIGKILL if none is given."""
        self._signals.kill(self._store.get(ref), signal)

    def pause(self, ref: str, work: str = "") -> None:
        """Freeze a container, for the time of some work if it is named."""
        self.freezer.pause(self._store.get(ref), work)

    def unpause(self, ref: str) -> None:
        """Thaw a container."""
        self.freezer.unpause(self._store.get(ref))

    def end_pause(self, ref: str, work: str) -> None:
        """Thaw a container if it is paused for that work."""
        self.freezer.end_pause(self._store.get(ref), work)

    def wait(self, ref: str, condition: str) -> Future[ExitResult]:
        """Return a future of the end."""
        container = self._store.get(ref)
        with self._store.lock(container):
            return self._lifecycle.waiters.wait(container, condition)

    def update(self, ref: str, config: JsonObject) -> list[str]:
        """Change limits and the restart policy."""
        container = self._store.get(ref)
        with self._store.lock(container):
            old, host = container.host_config, container.host_config.changed(config)
            policy = host.restart_policy
            check_policy(policy.name, policy.maximum_retry_count, auto_remove=host.auto_remove)
            limits = resources(host)
            if container.state.running and limits != resources(old):
                self._conmon.runtime.update(container.id, linux_resources(limits))
            container.host_config = host
            self._store.save(container)
        self._emit(container, "update")
        return []

    # Streams

    def resize(self, ref: str, height: int, width: int) -> None:
        """Set the size of the terminal; before the start, the first size."""
        container = self._store.get(ref)
        if not container.config.tty:
            raise Conflict(f"container {container.name} has no terminal")
        if container.state.running:
            resize(self._conmon.bundle(container.id), height, width)
        elif container.state.status == "created":
            container.host_config.console_size = (height, width)
        else:
            raise Conflict(f"Container {container.id} is not running")

    def attach(self, ref: str) -> Attachment:
        """Ask for the streams."""
        container = self._store.get(ref)
        with self._store.lock(container):
            if container.state.status == "paused":
                raise Conflict(f"Container {container.id} is paused, unpause the container before attach.")
            self._emit(container, "attach")
            return self._lifecycle.attachments.ask(container)

    def logs(
        self,
        ref: str,
        *,
        stdout: bool,
        stderr: bool,
        since_ns: int = 0,
        until_ns: int = 0,
        tail: int | None = None,
        timestamps: bool = False,
        details: bool = False,
        follow: bool = False,
    ) -> ContainerLogs:
        """Read the log."""
        container = self._store.get(ref)
        if container.host_config.log_config.type == "none":
            raise InvalidParameter("configured logging driver does not support reading")
        ended = self._conmon.pidfd(self._conmon.bundle(container.id)) if container.state.running else None
        query = LogQuery(stdout, stderr, since_ns, until_ns, tail, timestamps, follow)
        return ContainerLogs(self._environment.log_path(container), query, tty=container.config.tty, ended=ended)

    def exec_create(self, ref: str, config: JsonObject) -> str:
        """Prepare an exec."""
        return self._execs.create(self._store.get(ref), config)

    def exec_start(self, id: str, *, detach: bool, console_size: tuple[int, int] | None = None) -> socket.socket | None:
        """Run an exec."""
        return self._execs.start(id, detach=detach, console_size=console_size)

    def exec_resize(self, id: str, height: int, width: int) -> None:
        """Set the size of an exec's terminal."""
        self._execs.resize(id, height, width)

    def exec_inspect(self, id: str) -> JsonObject:
        """Return an exec's inspection."""
        return self._execs.inspect(id)

    # Files

    def archive_stat(self, ref: str, path: str) -> JsonObject:
        """Return the API's stat of a path in the container."""
        return self._files.stat(self._store.get(ref), path)

    def archive_get(self, ref: str, path: str) -> tuple[JsonObject, Archive]:
        """Return the stat of a path and a tar of it."""
        result = self._files.get(self._store.get(ref), path)
        return result.facts, result

    def archive_put(
        self,
        ref: str,
        path: str,
        archive: Readable,
        *,
        no_overwrite_dir_non_dir: bool = False,
        copy_uid_gid: bool = False,
    ) -> None:
        """Unpack a tar into a directory of the container."""
        container = self._store.get(ref)
        self._files.put(container, path, archive, no_overwrite=no_overwrite_dir_non_dir, copy_owner=copy_uid_gid)

    def export(self, ref: str) -> Archive:
        """Return a tar of the whole root file system."""
        return self._files.export(self._store.get(ref))

    def changes(self, ref: str) -> list[JsonObject]:
        """Return what differs from the image."""
        return self._files.changes(self._store.get(ref))

    def commit(self, ref: str, options: JsonObject) -> str:
        """Make an image of a container and return its id."""
        container = self._store.get(ref)
        freeze = container.state.status == "running" and options.get("pause", True)
        return self._files.commit(container, options, lambda: self._frozen(container) if freeze else nullcontext())

    @contextmanager
    def _frozen(self, container: Container) -> Iterator[None]:
        work = f"commit-{new_id()}"
        self.freezer.pause(container, work)
        try:
            yield
        finally:
            self.freezer.end_pause(container, work)

    # Views

    def inspect(self, ref: str, *, size: bool = False) -> JsonObject:
        """Return the API's inspection."""
        container = self._store.get(ref)
        return self._presenter.inspect(container, self._execs.of(container), size=size)

    def list(self, *, all: bool = False, limit: int = 0, size: bool = False, filters: Filters) -> list[JsonObject]:
        """Return the API's summaries, newest first."""
        return self._presenter.list(all=all, limit=limit, size=size, filters=filters)

    def top(self, ref: str, ps_args: str = "") -> JsonObject:
        """Return the processes."""
        container = self._store.get(ref)
        if not container.state.running:
            raise Conflict(f"Container {container.id} is not running")
        listing = top(self._cgroup(container), ps_args or "-ef")
        return {"Titles": list(listing.titles), "Processes": [list(row) for row in listing.processes]}

    def stats(self, ref: str) -> JsonObject:
        """Return one sample."""
        container = self._store.get(ref)
        base = {"id": container.id, "name": f"/{container.name}"}
        if not container.state.running:
            return empty_stats() | base
        return read_stats(self._cgroup(container), container.state.pid) | base

    def _cgroup(self, container: Container) -> str:
        return self._conmon.bundle(container.id).cgroup()

    # Networks

    def connect(self, network: str, ref: str, endpoint: Endpoint) -> None:
        """Attach a container to a network: at once, or when it starts."""
        with self._defaults.choosing():
            self._connections.connect(network, self._store.get(ref), endpoint)

    def disconnect(self, network: str, ref: str, *, force: bool = False) -> None:
        """Detach a container from a network; `force` also one that is being removed or was left behind."""
        id = self._networks.get(network).id
        self._connections.disconnect(id, ref, force=force)
        self._defaults.left([id])

    # For other managers and the composition root

    def users_of_image(self, image_id: str) -> builtins.list[tuple[str, bool]]:
        """Return (name, runs) of the containers made from an image."""
        return [(c.name, c.state.running) for c in self._store.all() if c.image_id == image_id]

    def running(self, ids: Collection[str]) -> builtins.list[str]:
        """Return those of the ids whose containers run and are not paused."""
        return [c.id for c in self._store.all() if c.id in ids and c.state.status == "running"]

    def count(self) -> dict[str, int]:
        """Return how many containers there are by status."""
        result: dict[str, int] = {}
        for container in self._store.all():
            result[container.state.status] = result.get(container.state.status, 0) + 1
        return result

    def restore(self, *, complete: bool, working: Collection[str]) -> builtins.list[str]:
        """First half of a daemon's start: find what runs, and thaw and freeze it; see `Lifecycle` and `Freezer`.

        `complete` unless there may be containers that the database has lost; `working` is the work for which some of
        them are paused and which goes on.
        """
        living = self._lifecycle.restore()
        self.freezer.restore(living, working)
        for volume in self._volumes.list() if complete else ():
            # Made for a container whose creation was interrupted before the container's own row was written.
            if volume.anonymous and volume.references and not any(map(self._store.has, volume.references)):
                for user in volume.references:
                    self._volumes.dereference(volume.name, user)
                self._volumes.remove(volume.name)
        return living

    def resume(self, living: builtins.list[str], *, complete: bool) -> None:
        """Second half, after the other managers and the reconciler: see `Lifecycle.resume`."""
        self._environment.sweep(living, keep_strangers=not complete)
        if not complete:
            for container in self._store.all():
                with alone(f"container {container.name}"):
                    self._connections.find_again(container)
        for id in living:
            with alone(f"container {id}"):
                self._connections.finish(self._store.get(id))
        self._lifecycle.resume(living)
        self._defaults.restore()

    def start_waiting(self, ids: Collection[str]) -> builtins.list[str]:
        """Start those that should have started by themselves and could not; see `Lifecycle.start_waiting`."""
        return self._lifecycle.start_waiting(ids)

    def close(self) -> None:
        """Stop watching; the containers go on."""
        self._lifecycle.close()
        self._execs.close()

    def _emit(self, container: Container, action: str) -> None:
        self._events.emit("container", action, container.id, container.attributes())
