"""The composition root: puts the parts together, brings the host to what the database says, and serves the API."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import json
import logging
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from engine.api.server import build_app, serve
from engine.api.services import Instance, Services
from engine.cli import CLI_SOCKET
from engine.clustering import Clustering
from engine.container.creation import Creation, NetworkDefault
from engine.container.environment import Environment, Roots
from engine.container.manager import ContainerManager
from engine.container.mounts import MountResolver
from engine.container.store import ContainerStore
from engine.daemon_options import DaemonOptions
from engine.dns.service import NameService
from engine.doctor import Doctor
from engine.events import EventBus
from engine.helper.config import HelperConfigs
from engine.image.manager import ImageManager
from engine.logs import configure_logging
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

log = logging.getLogger(__name__)

IDLE_CHECK_SECONDS = 2.0
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
        data, run = options.data_root, options.exec_root
        data.mkdir(mode=0o711, parents=True, exist_ok=True)
        run.mkdir(mode=0o711, parents=True, exist_ok=True)
        self._lock = _take(data)
        self.tag = make_tag(data)
        self.state = State(data / "state.db")
        self.events = EventBus()
        self.plugins = Plugins()
        self.plugins.load_plugins()
        self.events.subscribe(self.plugins.emit)
        make_private(run)
        # Two, each with a thread of its own: a mount that hangs (a dead NFS server) must not hold up the networks.
        self._settings = Settings()
        self.links = Reconciler(self.tag, network_appliers(self.tag, self._settings))
        self.secrets = SecretStore(data / "secrets", lambda name: self.volumes.encryption.users_of_secret(name))
        secrets = Secrets(engine_secrets=self.secrets.read, volume_keys=lambda path: keys.password(path))
        keys = VolumeKeys(secrets.read)
        configs = HelperConfigs(Stores(self.plugins), secrets, host=socket.gethostname())
        self._cgroup = f"/engine-{self.tag.instance}"
        trees = TreeApplier(configs.of_tree, run / "vol", group=f"{self._cgroup}/helpers")
        self.mounts = Reconciler(self.tag, mount_appliers((run,), trees, keys))
        self.doctor = Doctor((self.links, self.mounts), lambda owner: title_of(owner, self.networks, self._store))
        self.runtime = probe_runtime(run, options.runtime or None)
        conmon = Conmon(runtime=self.runtime, exec_root=run, cgroup=f"{self._cgroup}/conmon")
        self.images = ImageManager(
            data / "image",
            exec_root=run,
            insecure_registries=options.insecure_registries,
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
            fixed=lambda network: self._store.fixed_addresses(network),
        )
        self.clustering = Clustering(self.state, self.networks.spanning, data / "cluster", options.cluster)
        self.clustering.open()
        self.doctor.notes = self.clustering.faults
        self.volumes = VolumeManager(
            self.state,
            self.plugins,
            self.mounts,
            root=data / "volumes",
            run_root=run / "vol",
            events=self.events,
            configs=configs,
            keys=keys,
        )
        store = ContainerStore(self.state)
        self.environment = Environment(
            Roots(data / "containers", run / "fs", self._cgroup),
            store,
            self.images,
            self.networks,
            self.volumes,
            self.mounts,
            self.plugins,
            inspect=lambda container: self.containers.inspect(container.id),
        )
        default = NetworkDefault(options.net_driver, tuple(sorted(options.net_opts.items())))
        mounts = MountResolver(store, self.volumes)
        creation = Creation(store, self.images, self.networks, mounts, default, self.runtime.name)
        self.containers = ContainerManager(
            store, creation, self.environment, conmon, self.images, self.networks, self.volumes, self.events
        )
        self.jobs = JobManager(
            self.state, self.volumes, self.plugins, self.secrets, self.containers, data / "jobs", secrets
        )
        self._store = store
        self._watch: Watch | None = None

    def restore(self) -> None:
        """Bring the host to what the database says: adopt what lives, remove what is left over, start what restarts."""
        living = self.containers.restore()
        for id in living:
            container = self._store.get(id)
            self.mounts.adopt(f"rootfs:{id}", self.environment.rootfs_plan(container))
        self.networks.restore(living)
        working = self.jobs.users()
        self.volumes.restore([*living, *working], [*(c.id for c in self._store.all()), *working])
        self.images.collect()
        self.doctor.collect()
        self.doctor.mend()
        self.networks.settle()
        self.clustering.start()
        self.containers.resume(living)
        self.jobs.restore()
        self._watch = Watch(self.links, self._host_changed, self._settings)

    def _host_changed(self, lost: Collection[str]) -> None:
        """Somebody else changed the host's network: repair what is ours, and follow what is not."""
        self.networks.follow_links()
        remade = Doctor((self.links,)).mend(lost)
        self.networks.announce({d.owner for d in remade if d.key[0] == "link"})

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
        self.state.close()
        os.close(self._lock)


def _take(data_root: Path) -> int:
    """Take the lock of a data root. Raises Conflict when another daemon has it."""
    fd = os.open(data_root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as err:
        os.close(fd)
        raise Conflict(
            f"the data root {data_root} is in use", why="another daemon has it", hint="Give another --data-root."
        ) from err
    return fd


async def _serve(engine: Engine, started: float) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    app = build_app(engine.services())
    async with serve(app, engine.options.hosts, engine.options.tls_context()) as addresses:
        log.info("ready after %.0f ms on %s", (time.monotonic() - started) * 1000, ", ".join(addresses))
        # Only now: where we may not listen, the warm command line beside the socket is another daemon's.
        with _warm_cli(engine.options) if engine.options.cli_server else contextlib.nullcontext():
            if engine.options.idle_exit is not None:
                await _until_idle(engine, app, stop, engine.options.idle_exit)
            else:
                await stop.wait()
    log.info("stopping; containers go on")


async def _until_idle(engine: Engine, app: Any, stop: asyncio.Event, seconds: float) -> None:
    """Wait until asked to stop, or until there was nothing to do for so long."""
    from engine.api.activity import ACTIVITY

    busy_at = time.monotonic()
    while not stop.is_set():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), IDLE_CHECK_SECONDS)
        if app[ACTIVITY].busy or not engine.idle():
            busy_at = time.monotonic()
        elif time.monotonic() - busy_at > seconds:
            log.info("idle for %.0f s", seconds)
            return


@contextlib.contextmanager
def _warm_cli(options: DaemonOptions) -> Iterator[None]:
    """Keep the command line warm meanwhile: a process that ends when the pipe to its standard input closes."""
    address = next((h for h in options.hosts if h.startswith("unix://")), None)
    if address is None:
        yield
        return
    socket = Path(address.removeprefix("unix://")).parent / CLI_SOCKET
    process = subprocess.Popen(
        [sys.executable, "-I", "-m", "engine.cli.warm", str(socket), address], stdin=subprocess.PIPE
    )
    try:
        yield
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _take_all_descriptors() -> None:
    """Raise the soft limit of open files to the hard one: every container takes a few (names, its monitor).

    Containers have the same limit, unless they are given another, as with Docker.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def run(options: DaemonOptions) -> int:
    """Run the daemon until it is told to stop. Returns the exit code."""
    started = time.monotonic()
    configure_logging(options.log_level, options.log_format)
    _take_all_descriptors()
    engine = Engine(options)
    with contextlib.ExitStack() as ending:
        ending.callback(engine.close)
        engine.restore()
        if options.pidfile is not None:
            options.pidfile.write_text(f"{os.getpid()}\n")
            ending.callback(options.pidfile.unlink, missing_ok=True)
        asyncio.run(_serve(engine, started))
    return 0


def main() -> int:
    """Entry of a daemon that the command line starts by itself: options as JSON in the only argument."""
    return run(DaemonOptions.from_json(json.loads(sys.argv[1])))


if __name__ == "__main__":
    sys.exit(main())
