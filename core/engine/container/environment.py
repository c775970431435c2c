"""What a container runs in: network namespace, root file system, volumes, files of /etc."""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from engine import directories
from engine.container import etc
from engine.container.copies import COPY, Copies
from engine.container.launch import container_spec
from engine.container.ports import requested_ports
from engine.container.record import Container, Endpoint, MountPoint
from engine.container.store import ContainerStore
from engine.image.manager import ImageManager
from engine.network.manager import NetworkManager
from engine.network.model import Attachment, ContainerRef, EndpointSettings
from engine.plugins import Plugins
from engine.reconcile.applier import Sandbox
from engine.reconcile.namesockets import ADDRESS as NAME_SERVER
from engine.reconcile.reconciler import Reconciler
from engine.runtime import leftovers
from engine.runtime.conmon import Conmon
from engine.runtime.model import HOST, PRIVATE, Mount
from engine.runtime.oci_spec import oci_config, oci_config_text
from engine.runtime.rootfs import directory_in_root
from engine.spec.errors import Conflict, EngineError, NotFound
from engine.spec.mounts import OverlayMount
from engine.spec.resource import Plan, Resource
from engine.treewalk import remove_tree
from engine.volume.manager import VolumeManager

log = logging.getLogger(__name__)

HOST_RESOLV_CONF = Path("/etc/resolv.conf")


@dataclass(frozen=True)
class Roots:
    """Where containers lie: `data` outlives a reboot, `run` does not. `cgroup` is the parent of their cgroups."""

    data: Path
    run: Path
    cgroup: str


class Environment:
    """Prepares and releases what a container runs in. The caller holds the container's lock."""

    def __init__(
        self,
        roots: Roots,
        store: ContainerStore,
        copies: Copies,
        images: ImageManager,
        networks: NetworkManager,
        volumes: VolumeManager,
        reconciler: Reconciler,
        plugins: Plugins,
        inspect: Callable[[Container], Mapping[str, object]],
    ) -> None:
        """`inspect` gives plugins that edit the OCI specification what they may want to know."""
        self._roots = roots
        self._store = store
        self._copies = copies
        self._images = images
        self._networks = networks
        self._volumes = volumes
        self._reconciler = reconciler
        self._plugins = plugins
        self._inspect = inspect

    def directory(self, container: Container) -> Path:
        """Return the directory of a container's own files."""
        return self._roots.data / container.id

    def rootfs(self, container: Container) -> Path:
        """Return where its root file system is mounted while it is in use."""
        return self._roots.run / container.id

    def upper(self, container: Container) -> Path:
        """Return where its changes to the image lie."""
        return self.directory(container) / "upper"

    def log_path(self, container: Container) -> Path | None:
        """Return its log file, or None if nothing is logged."""
        return None if container.host_config.log_config.type == "none" else self.directory(container) / "log"

    def make_directories(self, container: Container) -> None:
        """Make the directories of a new container."""
        directory = self.directory(container)
        directory.mkdir(mode=0o710, parents=True)
        for name in ("upper", "work"):
            directories.make_public(directory / name)

    def remove_directories(self, container: Container) -> None:
        """Remove its directories and all in them."""
        self._copies.drop(container.id)
        for directory in (self.directory(container), self.rootfs(container)):
            _remove(directory)

    def end_leftovers(self, conmon: Conmon, running: Collection[str]) -> None:
        """At a daemon's start: end all processes of containers but those that are recorded as running."""
        leftovers.collect(conmon, self._roots.cgroup, running)

    def strangers(self) -> list[Path]:
        """Return the directories of containers that the database does not know."""
        return self._copies.strangers({c.id for c in self._store.all()})

    def sweep(self, living: Collection[str], *, keep_strangers: bool) -> None:
        """At a daemon's start, when nothing unwanted is mounted any more: remove directories that a kill left.

        `keep_strangers` if the database may not know all containers; one with a record of its own stays in any case.
        """
        for directory in () if keep_strangers else self.strangers():
            if not (directory / COPY).exists():
                _remove(directory)
        for directory in _entries(self._roots.run):
            if directory.name not in living:
                try:
                    directory.rmdir()
                except OSError as err:
                    log.warning("a root file system is left: %s", err)

    def prepare(self, container: Container, undo: ExitStack) -> str:
        """Make everything and return the OCI configuration; `undo` takes it away again."""
        network, attachments = self._network(container, undo)
        undo.callback(self.unmount_rootfs, container)
        rootfs = self.mount_rootfs(container)
        mounts = [*self._mounts(container, rootfs, undo), *self._etc(container, attachments)]
        spec = container_spec(
            container,
            rootfs=rootfs,
            mounts=mounts,
            network=network,
            namespaces={
                kind: self._namespace(container, kind, mode)
                for kind, mode in (
                    ("ipc", container.host_config.ipc_mode),
                    ("pid", container.host_config.pid_mode),
                    ("uts", container.host_config.uts_mode),
                )
            },
            cgroup=f"{container.host_config.cgroup_parent or self._roots.cgroup}/{container.id}",
        )
        if not self._plugins.edits_oci_spec:
            return oci_config_text(spec)
        config = oci_config(spec)
        self._plugins.edit_oci_spec(config, self._inspect(container))
        return json.dumps(config)

    def release(self, container: Container) -> None:
        """Take everything away; go on after an error, and raise the first one at the end."""
        first: EngineError | None = None
        for step in (self._release_network, self._release_volumes, self.unmount_rootfs):
            try:
                step(container)
            except EngineError as err:
                first = first or err
        if first is not None:
            raise first

    # Root file system

    def rootfs_plan(self, container: Container) -> Plan:
        """Return what must be mounted for a container's root file system."""
        directory = self.directory(container)
        layers = self._images.rootfs(container.image_id)
        overlay: Resource = OverlayMount(
            target=str(self.rootfs(container)),
            lower=tuple(str(path) for path in layers.lower),
            upper=str(directory / "upper"),
            work=str(directory / "work"),
        )
        return Plan.of(layers.resources, overlay)

    def mount_rootfs(self, container: Container) -> Path:
        """Mount the root file system and return where; once more is no error."""
        self._reconciler.apply(f"rootfs:{container.id}", self.rootfs_plan(container))
        return self.rootfs(container)

    def unmount_rootfs(self, container: Container) -> None:
        """Unmount it. Raises Conflict when something holds it."""
        left = self._reconciler.remove(f"rootfs:{container.id}")
        if left:
            raise Conflict(
                f"the root file system of container {container.name} is in use", why="; ".join(map(str, left))
            )
        with suppress(FileNotFoundError):
            self.rootfs(container).rmdir()

    # Network

    def _network(self, container: Container, undo: ExitStack) -> tuple[str, Sequence[Attachment]]:
        if container.sandbox == "host":
            return HOST, []
        if container.sandbox == "container":
            return f"/proc/{self._running(container.joined, 'network').state.pid}/ns/net", []
        undo.callback(self._networks.sandbox_remove, container.id)
        sandbox = self._networks.sandbox_create(container.id)
        undo.callback(self._networks.detach_all, container.id)
        return str(sandbox.path), self._attach(container, sandbox)

    def _attach(self, container: Container, sandbox: Sandbox) -> Sequence[Attachment]:
        ref = self.ref(container)
        ports = requested_ports(container.config, container.host_config)
        wishes = [(e.network, endpoint_settings(e)) for e in container.endpoints]
        return self._networks.attach_all(ref, sandbox, wishes, ports)

    def ref(self, container: Container) -> ContainerRef:
        """Return how the network manager knows a container."""
        config, host = container.config, container.host_config
        return ContainerRef(
            id=container.id,
            name=container.name,
            hostname=config.hostname,
            labels=config.labels,
            exposed=tuple(config.exposed_ports),
            dns=tuple(host.dns),
            ndots=etc.ndots(host.dns_options),
        )

    def _release_network(self, container: Container) -> None:
        if container.sandbox == PRIVATE:
            # Another container may have joined the namespace, and lives on in it.
            shared = any(c.joined == container.id and c.state.running for c in self._store.all())
            self._networks.detach_all(container.id, shared=shared)
            self._networks.sandbox_remove(container.id)

    def _namespace(self, container: Container, kind: str, mode: str) -> str:
        if mode == HOST:
            return HOST
        if mode.startswith("container:"):
            return f"/proc/{self._running(mode.removeprefix('container:'), kind).state.pid}/ns/{kind}"
        return PRIVATE

    def _running(self, ref: str, namespace: str) -> Container:
        other = self._store.get(ref)
        if not other.state.running:
            raise Conflict(f"cannot join {namespace} of a non running container: {other.id}")
        return other

    # Mounts

    def _mounts(self, container: Container, rootfs: Path, undo: ExitStack) -> list[Mount]:
        undo.callback(self._release_volumes, container)
        result = []
        # Outer targets first, so that an inner one is not hidden by what is mounted over it later.
        for mount in sorted(container.mounts, key=lambda m: m.target.count("/")):
            if mount.type == "tmpfs":  # the runtime makes it anew at each start
                continue
            options = (
                "rbind" if mount.recursive else "bind",
                "ro" if mount.read_only else "rw",
                mount.propagation or "rprivate",
            )
            result.append(Mount(target=mount.target, source=self._source(container, mount, rootfs), options=options))
        return result

    def _source(self, container: Container, mount: MountPoint, rootfs: Path) -> str:
        if mount.type == "bind":
            return mount.source
        path = self._volumes.mount(mount.source, container.id, subpath=mount.subpath)
        if not mount.no_copy and not mount.subpath:
            source = directory_in_root(rootfs, mount.target)
            if source is not None:
                self._volumes.populate(mount.source, source)
        return str(path)

    def descriptors(self, container: Container, undo: ExitStack) -> list[int]:
        """Return what the monitor of a container holds open as long as it lives: what its volumes ask for.

        `undo` closes our own copies.
        """
        found = []
        for name in sorted(_volumes(container)):
            for descriptor in self._volumes.descriptors(name):
                undo.callback(os.close, descriptor)
                found.append(descriptor)
        return found

    def mount_source(self, mount: MountPoint) -> str:
        """Return the host path that a mount shows, for inspect."""
        if mount.type != "volume":
            return mount.source
        try:
            return str(self._volumes.inspect(mount.source)["Mountpoint"])
        except NotFound:  # removed by force, with the container left
            return ""

    @contextmanager
    def mounted_volume(self, container: Container, mount: MountPoint) -> Iterator[Path]:
        """Give the host path of a mount of a container that does not run, mounted while the block runs."""
        if mount.type == "bind":
            yield Path(mount.source)
            return
        user = f"{container.id}-files"
        path = self._volumes.mount(mount.source, user, subpath=mount.subpath)
        try:
            yield path
        finally:
            self._volumes.unmount(mount.source, user)

    def dereference_volumes(self, container: Container) -> None:
        """Forget that a container uses its volumes."""
        for name in _volumes(container):
            self._volumes.dereference(name, container.id)

    def _release_volumes(self, container: Container) -> None:
        for name in _volumes(container):
            self._volumes.unmount(name, container.id)

    # /etc

    def _etc(self, container: Container, attachments: Sequence[Attachment]) -> list[Mount]:
        if container.sandbox == "container":
            other = self.directory(self._store.get(container.joined))
            paths = [other / name for name in ("hosts", "hostname", "resolv.conf")]
        else:
            paths = self._write_etc(container, attachments)
        taken = {m.target for m in container.mounts}
        mode = "ro" if container.host_config.readonly_rootfs else "rw"
        return [
            Mount(target=f"/etc/{path.name}", source=str(path), options=("rbind", mode, "rprivate"))
            for path in paths
            if path.exists() and f"/etc/{path.name}" not in taken
        ]

    def _write_etc(self, container: Container, attachments: Sequence[Attachment]) -> list[Path]:
        directory, config, host = self.directory(container), container.config, container.host_config
        names = _own_names(container)
        own = [(address, names) for a in attachments for address in _addresses(a)]
        if container.sandbox == "host":
            own = []
        gateway = next((g for a in attachments for g in a.gateways), "127.0.0.1")
        extra = [etc.parse_extra_host(value, gateway) for value in host.extra_hosts]
        base = Path("/etc/hosts").read_text() if container.sandbox == "host" else None
        return [
            etc.write(directory, "hosts", etc.hosts(own, extra, base=base)),
            etc.write(directory, "hostname", (config.hostname or socket.gethostname()) + "\n"),
            etc.write(directory, "resolv.conf", self._resolv_conf(container)),
        ]

    def _resolv_conf(self, container: Container) -> str:
        host, given = HOST_RESOLV_CONF, container.host_config
        text = host.read_text(errors="replace") if host.exists() else ""
        if self._networks.serves_names(container.id):
            return etc.served_resolv_conf(text, NAME_SERVER, search=given.dns_search, options=given.dns_options)
        return etc.resolv_conf(
            text,
            servers=given.dns,
            search=given.dns_search,
            options=given.dns_options,
            own_loopback=container.sandbox != "host",
        )

    def connected(self, container: Container, attachment: Attachment) -> None:
        """Tell a running container that it is on one more network: in hosts, and in resolv.conf who knows its names.

        The latter stays as it is when it names the engine already: the container may have changed it since.
        """
        self._change_hosts(container, came=attachment)
        path = self.directory(container) / "resolv.conf"
        if self._networks.serves_names(container.id) and NAME_SERVER not in path.read_text(errors="replace"):
            etc.write(path.parent, path.name, self._resolv_conf(container))

    def disconnected(self, container: Container, attachment: Attachment) -> None:
        """Tell a running container that it is no longer on a network."""
        self._change_hosts(container, went=attachment)

    def _change_hosts(
        self, container: Container, *, came: Attachment | None = None, went: Attachment | None = None
    ) -> None:
        directory, names = self.directory(container), _own_names(container)
        text = (directory / "hosts").read_text(errors="surrogateescape")
        etc.write(directory, "hosts", etc.hosts_changed(text, names, _addresses(came), _addresses(went)))


def _remove(directory: Path) -> None:
    try:
        remove_tree(directory)
    except OSError as err:
        log.warning("%s is left, and removed at the next start: %s", directory, err)


def _entries(directory: Path) -> list[Path]:
    return list(directory.iterdir()) if directory.is_dir() else []


def _own_names(container: Container) -> list[str]:
    config = container.config
    full = f"{config.hostname}.{config.domainname}" if config.domainname else ""
    return [name for name in (full, config.hostname) if name]


def _addresses(attachment: Attachment | None) -> list[str]:
    return [address.partition("/")[0] for address in attachment.addresses] if attachment else []


def _volumes(container: Container) -> set[str]:
    return {m.source for m in container.mounts if m.type == "volume"}


def endpoint_settings(endpoint: Endpoint) -> EndpointSettings:
    """Return what a container wishes for on a network, in the network manager's words."""
    settings = endpoint.settings
    return EndpointSettings(
        ip=settings.ipam_config.ipv4_address,
        ip6=settings.ipam_config.ipv6_address,
        mac=settings.mac_address,
        aliases=tuple(settings.aliases),
        driver_opts=settings.driver_opts,
        gw_priority=settings.gw_priority,
    )
