"""The composition root: puts the parts together and brings the host to what the database says."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Collection
from pathlib import Path

from engine import directories, lockfile
from engine.alone import alone
from engine.api.services import Instance, Services
from engine.api.services.data import JsonObject
from engine.clustering import Clustering
from engine.container.copies import COPY, Copies
from engine.container.creation import Creation, NetworkDefault
from engine.container.environment import Environment, Roots
from engine.container.manager import ContainerManager
from engine.container.mounts import MountResolver
from engine.container.store import ContainerStore
from engine.daemon_options import DaemonOptions
from engine.dns.service import NameService
from engine.doctor import Doctor, note_json
from engine.events import EventBus
from engine.helper.config import HelperConfigs
from engine.image.manager import ImageManager
from engine.network.defaults import parse_pools
from engine.network.manager import NetworkManager
from engine.plugins import Plugins
from engine.reconcile.applier import Tag
from engine.reconcile.appliers import mount_appliers, network_appliers
from engine.reconcile.mounts import make_private
from engine.reconcile.reconciler import Reconciler
from engine.reconcile.settings import Settings
from engine.reconcile.trees import TreeApplier
from engine.reconcile.watch import Watch
from engine.runtime import cgroup
from engine.runtime.conmon import Conmon
from engine.runtime.probe import probe_runtime
from engine.secrets.keys import VolumeKeys
from engine.secrets.store import SecretStore
from engine.spec.errors import Conflict, Forbidden
from engine.state import State
from engine.storage.secrets import Secrets
from engine.storage.stores import Stores
from engine.titles import title_of
from engine.volume.jobs.manager import JobManager
from engine.volume.jobs.operations import VolumeWork
from engine.volume.manager import VolumeManager

_REMOVAL = {"container": "rm", "network": "network rm", "volume": "volume rm"}
"""By kind of a row: the command that removes one, also one that cannot be read."""
HOST_IMAGE = "image:host"
"""Owner of what the built-in image needs, to the reconciler."""


def make_tag(data_root: Path) -> Tag:
    """Return how an engine's things are told from those of others: derived from its data root, so stable."""
    digest = hashlib.sha256(str(data_root.resolve()).encode()).digest()
    instance = digest[:4].hex()
    # Positive as a signed 32-bit number, and away from the small group numbers that people use.
    group = int.from_bytes(digest[4:8], "big") & 0x3FFF_FFFF | 0x4000_0000
    return Tag(instance=instance, link_group=group, table=f"engine_{instance}")


class Engine:
    """One engine: all managers on one data root and one exec root."""

    def __init__(self, options: DaemonOptions) -> None:
        """Take the roots (Conflict if another daemon has them) and build the parts; nothing is restored yet."""
        if os.geteuid() != 0:
            raise Forbidden("the daemon needs root", why=f"it runs as uid {os.geteuid()}", hint="Start it with sudo.")
        self.options = options
        self.pools = parse_pools(options.default_address_pools)
        data, run = options.data_root, options.exec_root
        directories.make_private(data)
        directories.make_private(run)
        self._locks = [_take(data, "data root")]
        try:
            self._locks.append(_take(run, "exec root"))
        except Conflict:
            os.close(self._locks[0])
            raise
        self.tag = make_tag(data)
        self._cgroup = f"/engine-{self.tag.instance}"
        self.state = State(data / "state.db", data_there=lambda: _holds_data(data))
        self.events = EventBus()
        self.plugins = Plugins()
        self.plugins.load_plugins()
        self.events.subscribe(self.plugins.emit)
        make_private(run)
        self.runtime = probe_runtime(run, options.runtime or None)
        self._copies = Copies(data / "containers")
        self._store = ContainerStore(self.state, self._copies)
        self._build_hosts_side()
        self._build_managers()
        self.containers = self._container_manager()
        self.doctor.examiners.append(self.containers.freezer)
        self.jobs = JobManager(
            self.state, self.volumes, self.plugins, self.secrets, self.containers, data / "jobs", self._secrets
        )
        self._watch: Watch | None = None
        self._faults: dict[str, str] = {}
        """What could not be taken up at the start, with a sentence why."""

    def _build_hosts_side(self) -> None:
        """Build what changes the host, and the secrets that this needs."""
        run = self.options.exec_root
        self.secrets = SecretStore(
            self.options.data_root / "secrets", lambda name: self.volumes.encryption.users_of_secret(name)
        )
        self._secrets = Secrets(
            engine_secrets=self.secrets.read, volume_keys=lambda path: self._volume_keys.password(path)
        )
        self._volume_keys = VolumeKeys(self._secrets.read)
        self._helpers = HelperConfigs(Stores(self.plugins), self._secrets, host=socket.gethostname())
        trees = TreeApplier(self._helpers.of_tree, run / "vol", group=f"{self._cgroup}/helpers")
        # Two, each with a thread of its own: a mount that hangs (a dead NFS server) must not hold up the networks.
        self._settings = Settings()
        self.links = Reconciler(self.tag, network_appliers(self.tag, self._settings))
        self.mounts = Reconciler(self.tag, mount_appliers((run,), trees, self._volume_keys))
        self.doctor = Doctor((self.links, self.mounts), lambda owner: title_of(owner, self.networks, self._store))

    def _build_managers(self) -> None:
        """Build the managers of all but containers. The lambdas are called when everything is there."""
        data, run = self.options.data_root, self.options.exec_root
        self.images = ImageManager(
            data / "image",
            exec_root=run,
            insecure_registries=self.options.insecure_registries,
            in_use=lambda id: self.containers.users_of_image(id),
            mount=lambda plan: self.mounts.apply(HOST_IMAGE, plan),
            events=self.events,
        )
        self.names = NameService()
        self.networks = NetworkManager(
            self.state,
            self.plugins,
            self.links,
            netns_root=run / "netns",
            events=self.events,
            names=self.names,
            fixed=self._store.fixed_addresses,
            default_pools=self.pools,
        )
        self.clustering = Clustering(self.state, self.networks.spanning, data / "cluster", self.options.cluster)
        self.clustering.open()
        self.doctor.notes += [self.clustering.faults, self._losses, self._odd]
        self.volumes = VolumeManager(
            self.state,
            self.plugins,
            self.mounts,
            root=data / "volumes",
            run_root=run / "vol",
            events=self.events,
            configs=self._helpers,
            keys=self._volume_keys,
        )

    def _container_manager(self) -> ContainerManager:
        """Build the manager of containers, which uses all others."""
        options = self.options
        self.environment = Environment(
            Roots(options.data_root / "containers", options.exec_root / "fs", self._cgroup),
            self._store,
            self._copies,
            self.images,
            self.networks,
            self.volumes,
            self.mounts,
            self.plugins,
            inspect=lambda container: self.containers.inspect(container.id),
        )
        default = NetworkDefault(options.net_driver, tuple(sorted(options.net_opts.items())))
        mounts = MountResolver(self._store, self.volumes)
        creation = Creation(self._store, self.images, self.networks, mounts, default, self.runtime.name)
        conmon = Conmon(runtime=self.runtime, exec_root=options.exec_root, cgroup=f"{self._cgroup}/conmon")
        return ContainerManager(
            self._store, creation, self.environment, conmon, self.images, self.networks, self.volumes, self.events
        )

    def restore(self) -> None:
        """Bring the host to what the database says: adopt what lives, remove what is left over, start what restarts."""
        lost = bool(self.state.loss)
        working = self.jobs.users()
        living = self.containers.restore(complete=not lost, working=working)
        for id in living:
            container = self._store.get(id)
            with alone(f"container {container.name}", self._faults):
                self.mounts.adopt(f"rootfs:{id}", self.environment.rootfs_plan(container))
        self.networks.restore(living)
        self.volumes.restore([*living, *working], [*(c.id for c in self._store.all()), *working])
        self.images.collect(users_known=not lost)
        self.doctor.collect()
        well = not self.doctor.mend().errors
        self.networks.settle()
        self.clustering.start()
        self.containers.resume(living, complete=not lost)
        self.jobs.restore()
        self._watch = Watch(self.links, self._host_changed, self._settings, well=well)

    def _losses(self) -> list[JsonObject]:
        """Return what the doctor says of databases that were lost, and of directories that none knows."""
        found = [note_json("database", text) for text in (self.state.loss, self.images.loss) if text]
        strangers = [p for p in self.environment.strangers() if self.state.loss or (p / COPY).exists()]
        return [*found, *(note_json("directory", f"{path} is of no container that is known") for path in strangers)]

    def _odd(self) -> list[JsonObject]:
        """Return what the doctor says of rows that cannot be read, and of owners that could not be taken up."""
        rows = [
            f"{row}. It can be removed: engine {_REMOVAL[row.kind]} {row.name or row.id}"
            for row in self.state.unreadable()
            if row.kind in _REMOVAL
        ]
        found = [*(note_json("record", text) for text in rows)]
        return found + [note_json("start", text) for text in (*self._faults.values(), *self.networks.faults())]

    def _host_changed(self, lost: Collection[str]) -> bool:
        """Somebody else changed the host's network: repair what is ours, and follow what is not.

        Return whether all of it could be done.
        """
        followed = self.networks.follow_links()
        report = Doctor((self.links,)).mend(lost)
        self.networks.announce({d.owner for d in report.fixed if d.key[0] == "link"})
        return followed and not report.errors

    def services(self) -> Services:
        """Return what the API serves."""
        return Services(
            containers=self.containers,
            images=self.images,
            networks=self.networks,
            volumes=self.volumes,
            secrets=self.secrets,
            volume_work=VolumeWork(self.jobs, self.volumes),
            events=self.events,
            plugins=self.plugins,
            doctor=self.doctor,
            nodes=self.clustering,
            instance=Instance(
                id=self.tag.instance,
                data_root=str(self.options.data_root),
                exec_root=str(self.options.exec_root),
                runtime=self.runtime.name,
                components={self.runtime.name: self.runtime.version},
                address_pools=[{"Base": pool.base, "Size": pool.size} for pool in self.pools],
            ),
        )

    def idle(self) -> bool:
        """Return whether no container runs or will run by itself."""
        return not self._alive()

    def _alive(self) -> bool:
        return bool(self.containers.count().keys() & {"running", "paused", "restarting"})

    def close(self) -> None:
        """Let go of everything; the containers go on."""
        if self._watch is not None:
            self._watch.stop()
        self.jobs.close()
        self.containers.close()
        self.volumes.close()
        self.clustering.close()
        self.networks.close()
        self.names.close()
        if not self._alive():
            self.mounts.remove(HOST_IMAGE)
            self.doctor.collect()
            cgroup.remove(self._cgroup)
        self.links.close()
        self._settings.close()
        self.mounts.close()
        self.events.close()
        self.images.close()
        self.state.close()
        for lock in self._locks:
            os.close(lock)


def _holds_data(data_root: Path) -> bool:
    """Tell whether there are containers or volumes of which a database should know."""
    places = (data_root / "containers", data_root / "volumes")
    return any(place.is_dir() and any(place.iterdir()) for place in places)


def _take(root: Path, what: str) -> int:
    """Take the lock of a root. Raises Conflict when another daemon has it."""
    try:
        return lockfile.take(root / "lock")
    except BlockingIOError as err:
        option = f"--{what.replace(' ', '-')}"
        raise Conflict(
            f"the {what} {root} is in use", why="another daemon has it", hint=f"Give another {option}."
        ) from err
