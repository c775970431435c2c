"""What the API asks of the managers: protocols, so that it imports none of them.

Rules for all of them:
- Methods are synchronous and thread-safe; the API calls them on worker threads. They raise the kinds of
  `engine.spec.errors`.
- `ref` is what a client wrote: an id, a unique prefix of one, or a name (with or without the leading slash).
- `JsonObject` is docker-shaped JSON (API v1.44), in and out; a summary or an inspection is returned complete.
- `Filters` are parsed: name -> values in the order given (`{"label": ["a=b"], "label!": ["c"]}`). Who gets a filter
  that it does not know raises InvalidParameter `invalid filter 'x'`.
- A Future that the API no longer wants is cancelled: who completes it calls `set_running_or_notify_cancel()` first, and
  drops it on False.
- Byte streams (`Readable`) are closed by the API, on a worker thread, when no read is under way. Log readers are closed
  at any time: whoever blocks in them then returns.
- Progress callbacks may be called on any thread, and raise `ConnectionAbortedError` when the client went away: the work
  is given up, and the exception passes through.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol

from engine.container.record import Endpoint
from engine.container.waiters import ExitResult
from engine.image.model import HistoryEntry, Image, ProgressSink, Removal
from engine.network.model import NetworkRecord, PortSpan
from engine.plugins import Plugins
from engine.secrets.store import Secret
from engine.spec.plugin import Event
from engine.spec.resource import Key, Plan
from engine.spec.trees import TreeStatus
from engine.volume.encryption import NewKey
from engine.volume.jobs.record import JobRecord
from engine.volume.record import VolumeRecord
from engine.volume.snapshots import Snapshot

JsonObject = dict[str, Any]
Filters = Mapping[str, Sequence[str]]
Auth = Mapping[str, str]
"""docker's AuthConfig."""


class Readable(Protocol):
    """A stream of bytes, such as a tar archive: an open file, a pipe, or the body of a request."""

    def read(self, size: int = -1, /) -> bytes:
        """Return at most `size` bytes, or all with -1; empty at the end.

        Raises OSError when the other side broke off.
        """

    def close(self) -> None:
        """Release what is behind it."""


class Attachment(Protocol):
    """A client's way to a container's streams.

    `connection` becomes the monitor's SEQPACKET socket: each message read is a stream byte (2 stdout, 3 stderr) and
    data; at most 8192 raw bytes are sent as one message of stdin; shutting down the write side ends stdin. The API owns
    and closes the socket. For a container that runs the future is done at once. For one that does not it is completed
    when the container starts, after the monitor is there and before the process runs, so that no output is lost; it
    fails with an EngineError if the start fails or the container is removed before.
    """

    @property
    def tty(self) -> bool:
        """Whether the container has a terminal."""

    @property
    def open_stdin(self) -> bool:
        """Whether it was created with OpenStdin; otherwise nothing is sent and the write side is never shut down."""

    @property
    def connection(self) -> Future[socket.socket]:
        """The monitor's socket, now or later."""


class ContainerPorts(Protocol):
    """Published ports: what the API uses of `engine.container.publishing.ContainerPorts`, where they are described."""

    def add(self, ref: str, bindings: Mapping[str, Any]) -> JsonObject: ...  # noqa: D102
    def remove(self, ref: str, which: Sequence[PortSpan]) -> None: ...  # noqa: D102
    def move(self, ref: str, to: str, span: PortSpan, target: int) -> None: ...  # noqa: D102


class ContainerManager(Protocol):
    """Containers and execs."""

    @property
    def ports(self) -> ContainerPorts:
        """Published ports, of running containers too."""

    def create(self, config: JsonObject, name: str, platform: str = "") -> tuple[str, list[str]]:
        """Create from docker's body, HostConfig and NetworkingConfig inside, and return (id, warnings).

        An empty `name`: one is made up. Raises NotFound `No such image: X`, on which docker's CLI pulls and tries
        again; Conflict when the name is taken.
        """

    def start_waiting(self, ids: Sequence[str]) -> Sequence[str]:
        """Start those that should have started by themselves and could not, in the background; return their names."""

    def start(self, ref: str) -> bool:
        """Start; False if it runs already (the API answers 304). Raises Conflict when paused or being removed.

        When it fails, attachments that wait for it fail too, and a container with AutoRemove is removed (docker's CLI
        waits for that).
        """

    def stop(self, ref: str, *, timeout: int | None = None, signal: str = "") -> bool:
        """Send `signal` (empty: its StopSignal), and SIGKILL after `timeout` seconds.

        `timeout` None is its StopTimeout or 10, -1 forever. False if it did not run (304).
        """

    def restart(self, ref: str, *, timeout: int | None = None, signal: str = "") -> None:
        """Stop if it runs, then start."""

    def kill(self, ref: str, signal: str = "") -> None:
        """Send a signal by name (`SIGHUP`, `HUP`) or number; empty: SIGKILL. Raises Conflict if it does not run."""

    def pause(self, ref: str) -> None:
        """Freeze. Raises Conflict if it does not run or is paused already."""

    def unpause(self, ref: str) -> None:
        """Thaw. Raises Conflict if it is not paused."""

    def rename(self, ref: str, name: str) -> None:
        """Give another name. Raises Conflict when that is taken."""

    def remove(self, ref: str, *, force: bool = False, volumes: bool = False) -> None:
        """Remove; `force` kills it first; `volumes` removes its anonymous volumes. Raises Conflict while it runs."""

    def update(self, ref: str, config: JsonObject) -> list[str]:
        """Change resource limits and RestartPolicy (docker's flat body); return warnings."""

    def resize(self, ref: str, height: int, width: int) -> None:
        """Set the terminal's size; also before start, where it becomes the first size.

        Raises Conflict when it has none or has ended.
        """

    def wait(self, ref: str, condition: str) -> Future[ExitResult]:
        """Return at once a future of the end.

        `condition`: "not-running" (done already if it does not run), "next-exit", "removed". With "removed" the code is
        that of the last exit. Raises NotFound at once.
        """

    def inspect(self, ref: str, *, size: bool = False) -> JsonObject:
        """Docker's inspection; SizeRw and SizeRootFs with `size`."""

    def top(self, ref: str, ps_args: str = "") -> JsonObject:
        """Return `{"Titles": [...], "Processes": [[...]]}`; empty `ps_args` is `-ef`."""

    def stats(self, ref: str) -> JsonObject:
        """Return one sample in docker's shape, without `precpu_stats` and `preread` (the API fills them in).

        For one that does not run: only `id` and `name`.
        """

    def changes(self, ref: str) -> list[JsonObject]:
        """Return `[{"Path": ..., "Kind": 0 changed | 1 added | 2 deleted}]`."""

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
    ) -> LogReader:
        """Read the log. Times are nanoseconds since the epoch (0: no bound); `tail` None is all.

        `follow` goes on until the container ends.
        """

    def attach(self, ref: str) -> Attachment:
        """Ask for the streams; see `Attachment`. Raises Conflict when it is paused."""

    def connect(self, network: str, ref: str, endpoint: Endpoint) -> None:
        """Attach to a network (name or id): at once if it runs, else when it starts.

        `endpoint.network` is not looked at.
        """

    def disconnect(self, network: str, ref: str, *, force: bool = False) -> None:
        """Detach from a network."""

    def exec_create(self, ref: str, config: JsonObject) -> str:
        """Prepare an exec from docker's ExecConfig and return its id.

        Raises Conflict when the container does not run or is paused.
        """

    def exec_start(self, id: str, *, detach: bool, console_size: tuple[int, int] | None = None) -> socket.socket | None:
        """Run it; return its socket as in `Attachment` (None when detached), connected before the process runs.

        Raises NotFound, Conflict when it was started before or the container does not run, or what the runtime says of
        the command.
        """

    def exec_resize(self, id: str, height: int, width: int) -> None:
        """Set the size of an exec's terminal; also before it runs."""

    def exec_inspect(self, id: str) -> JsonObject:
        """Docker's inspection of an exec; `ProcessConfig.tty` and `OpenStdin` are relied on."""

    def archive_stat(self, ref: str, path: str) -> JsonObject:
        """Return docker's stat of a path in the container.

        It is `{"name", "size", "mode" (Go's os.FileMode bits), "mtime" (RFC 3339), "linkTarget"}`.
        """

    def archive_get(self, ref: str, path: str) -> tuple[JsonObject, Readable]:
        """Return its stat and a tar of it; its name in the tar is the last element of `path`."""

    def archive_put(
        self,
        ref: str,
        path: str,
        archive: Readable,
        *,
        no_overwrite_dir_non_dir: bool = False,
        copy_uid_gid: bool = False,
    ) -> None:
        """Unpack a tar (plain, gzip, bzip2, xz or zstd) into a directory of the container.

        Raises InvalidParameter when that is none.
        """

    def export(self, ref: str) -> Readable:
        """Return a tar of the whole root file system."""

    def commit(self, ref: str, options: JsonObject) -> str:
        """Make an image and return its id. `options`.

        Repo, tag, comment, author, pause (bool), changes (list of Dockerfile lines), config.
        """

    def prune(self, filters: Filters) -> JsonObject:
        """Remove those that do not run; return `{"ContainersDeleted": [...], "SpaceReclaimed": bytes}`. Filters.

        Until, label, label!.
        """

    def list(self, *, all: bool = False, limit: int = 0, size: bool = False, filters: Filters) -> list[JsonObject]:
        """Docker's summaries, newest first. `limit` > 0: the newest so many, ended ones included."""


class LogReader(Protocol):
    """An iterator of (stream, bytes), 1 stdout and 2 stderr, each a line with its timestamp if asked for.

    `tty` says whether the container has a terminal: then the API sends the bytes alone.
    """

    @property
    def tty(self) -> bool:
        """Whether the container has a terminal."""

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        """Iterate; blocks for more while following."""

    def close(self) -> None:
        """End it, from any thread."""


class Writable(Protocol):
    """Where bytes are written to, such as a response."""

    def write(self, data: bytes, /) -> Any:
        """Take all of `data`. Raises ConnectionAbortedError when the client went away."""


class ImageManager(Protocol):
    """Images: what the API uses of `engine.image.manager.ImageManager`, where the methods are described."""

    def resolve(self, ref_or_id: str) -> Image: ...  # noqa: D102
    def history(self, ref: str) -> Sequence[HistoryEntry]: ...  # noqa: D102
    def pull(  # noqa: D102
        self, ref: str, *, auth: Auth | None, progress: ProgressSink | None, platform: str | None
    ) -> Image: ...
    def push(self, ref: str, *, auth: Auth | None, progress: ProgressSink | None) -> str: ...  # noqa: D102
    def login(self, server: str, username: str, password: str) -> str: ...  # noqa: D102
    def tag(self, src: str, dst: str) -> None: ...  # noqa: D102
    def remove(self, ref: str, *, force: bool, prune: bool) -> Sequence[Removal]: ...  # noqa: D102
    def prune(self, *, all: bool, filters: Filters | None) -> tuple[Sequence[Removal], int]: ...  # noqa: D102
    def load(self, source: Readable, *, progress: ProgressSink | None) -> Sequence[str]: ...  # noqa: D102
    def save(self, refs: Sequence[str], out: Writable) -> None: ...  # noqa: D102
    def import_(  # noqa: D102
        self, source: Readable, ref: str, *, changes: Iterable[str], message: str, platform: str | None
    ) -> Image: ...
    def list(self, filters: Filters | None = None) -> Sequence[Image]: ...  # noqa: D102


class Difference(Protocol):
    """What the API uses of `engine.reconcile.applier.Difference`."""

    @property
    def key(self) -> Key: ...  # noqa: D102
    @property
    def state(self) -> str: ...  # noqa: D102
    @property
    def fields(self) -> Mapping[str, tuple[object, object]]: ...  # noqa: D102


class OwnerPlan(Protocol):
    """What the API uses of `engine.network.manager.OwnerPlan`."""

    @property
    def title(self) -> str: ...  # noqa: D102
    @property
    def plan(self) -> Plan: ...  # noqa: D102
    @property
    def differences(self) -> Sequence[Difference]: ...  # noqa: D102
    @property
    def in_use(self) -> bool: ...  # noqa: D102


class NetworkManager(Protocol):
    """Networks: what the API uses of `engine.network.manager.NetworkManager`, where the methods are described."""

    def create(  # noqa: D102
        self,
        name: str,
        driver: str,
        *,
        options: Mapping[str, str] | None,
        ipam: Sequence[Mapping[str, Any]],
        ipam_driver: str,
        ipam_options: Mapping[str, str] | None,
        labels: Mapping[str, str] | None,
        internal: bool,
        ipv4: bool,
        ipv6: bool,
        attachable: bool,
    ) -> NetworkRecord: ...
    def default_network(  # noqa: D102
        self, driver: str, options: Mapping[str, str] | None = None
    ) -> NetworkRecord: ...
    def get(self, ref: str) -> NetworkRecord: ...  # noqa: D102
    def inspect(self, record: NetworkRecord) -> JsonObject: ...  # noqa: D102
    def remove(self, ref: str) -> None: ...  # noqa: D102
    def prune(self, filters: Filters | None = None, until: float | None = None) -> Sequence[str]: ...  # noqa: D102
    def plan(self, ref: str) -> Sequence[OwnerPlan]: ...  # noqa: D102
    def verify(self, ref: str) -> JsonObject: ...  # noqa: D102
    def list(self, filters: Filters | None = None) -> Sequence[NetworkRecord]: ...  # noqa: D102


class SecretStore(Protocol):
    """The engine's own secrets: what the API uses of `engine.secrets.store.SecretStore`."""

    def create(self, name: str, data: bytes, labels: Mapping[str, str] | None) -> Secret: ...  # noqa: D102
    def get(self, ref: str) -> Secret: ...  # noqa: D102
    def remove(self, ref: str) -> None: ...  # noqa: D102
    def list(self, filters: Filters | None = None) -> Sequence[Secret]: ...  # noqa: D102


class Encryption(Protocol):
    """Keys of volumes: what the API uses of `engine.volume.encryption.Encryption`, where the methods are described."""

    def unlock(self, name: str, key: bytes) -> str: ...  # noqa: D102
    def lock(self, name: str) -> None: ...  # noqa: D102
    def slots(self, name: str) -> Sequence[Mapping[str, str]]: ...  # noqa: D102
    def rekey(  # noqa: D102
        self, name: str, new: NewKey | None, remove: str = "", old: bytes | None = None
    ) -> Sequence[Mapping[str, str]]: ...
    def password(self, name: str) -> bytes: ...  # noqa: D102


class VolumeManager(Protocol):
    """Volumes: what the API uses of `engine.volume.manager.VolumeManager`, where the methods are described."""

    @property
    def encryption(self) -> Encryption: ...  # noqa: D102
    def create(  # noqa: D102
        self,
        name: str | None,
        driver: str,
        options: Mapping[str, str] | None,
        labels: Mapping[str, str] | None,
        *,
        key: bytes | None,
    ) -> VolumeRecord: ...
    def users(self, name: str) -> Sequence[str]: ...  # noqa: D102
    def describe(self, record: VolumeRecord) -> JsonObject: ...  # noqa: D102
    def inspect(self, name: str) -> JsonObject: ...  # noqa: D102
    def usage(self, name: str) -> tuple[int, int]: ...  # noqa: D102
    def sync(  # noqa: D102
        self, name: str, seconds: float, progress: Callable[[TreeStatus], object] | None = None
    ) -> int: ...
    def remove(self, name: str, force: bool = False) -> None: ...  # noqa: D102
    def prune(self, filters: Filters | None = None) -> tuple[Sequence[str], int]: ...  # noqa: D102
    def list(self, filters: Filters | None = None) -> Sequence[VolumeRecord]: ...  # noqa: D102


class VolumeJobs(Protocol):
    """What the API uses of `engine.volume.jobs.manager.JobManager`, where the methods are described."""

    def get(self, id: str) -> JobRecord: ...  # noqa: D102
    def cancel(self, id: str) -> JobRecord: ...  # noqa: D102
    def follow(self, id: str, report: Callable[[Mapping[str, Any]], object]) -> JobRecord: ...  # noqa: D102
    def show_backup_key(self) -> str: ...  # noqa: D102
    def list(self, volume: str = "") -> Sequence[JobRecord]: ...  # noqa: D102


class VolumeWork(Protocol):
    """What the API uses of `engine.volume.jobs.operations.VolumeWork`, where the methods are described."""

    @property
    def jobs(self) -> VolumeJobs: ...  # noqa: D102
    def backup(self, name: str, url: str, options: Mapping[str, str], password: str) -> JobRecord: ...  # noqa: D102
    def restore(  # noqa: D102
        self, name: str, url: str, options: Mapping[str, str], password: str, *, snapshot: str, of: str, force: bool
    ) -> JobRecord: ...
    def export(self, name: str) -> Readable: ...  # noqa: D102
    def import_(self, name: str, source: Readable) -> JobRecord: ...  # noqa: D102
    def snapshot(self, name: str, tag: str, consistency: str) -> JobRecord: ...  # noqa: D102
    def snapshots(self, name: str) -> Sequence[Snapshot]: ...  # noqa: D102
    def remove_snapshot(self, name: str, ref: str) -> Snapshot: ...  # noqa: D102
    def rollback(self, name: str, ref: str) -> JobRecord: ...  # noqa: D102
    def clone(self, name: str, new: str, consistency: str) -> JobRecord: ...  # noqa: D102
    def rename(self, name: str, new: str) -> VolumeRecord: ...  # noqa: D102
    def relabel(self, name: str, add: Mapping[str, str], remove: Sequence[str]) -> VolumeRecord: ...  # noqa: D102
    def scrub(self, name: str, *, accept: bool) -> JobRecord: ...  # noqa: D102
    def usage(self, name: str) -> JobRecord: ...  # noqa: D102


class EventBus(Protocol):
    """What happens, as it happens, and the recent past: `engine.events.EventBus`."""

    def subscribe(
        self, listener: Callable[[Event], None], *, since_ns: int | None = None
    ) -> tuple[list[Event], Callable[[], None]]:
        """Listen from now on; return the remembered events since `since_ns`, and how to stop.

        Filtering and `until` are the API's.
        """


class Doctor(Protocol):
    """The difference between what should be on the host and what is."""

    def diff(self) -> list[JsonObject]:
        """Return `[{"resource": "veth/…", "state": ..., "owner": ..., "fields": {...}}]`; empty when all is well."""

    def repair(self) -> JsonObject:
        """Repair; return `{"repaired": [...], "left": [...]}`, both of the shape of `diff`."""


class Nodes(Protocol):
    """The cluster: what the API uses of `engine.clustering.Clustering`, where the methods are described."""

    def list(self) -> Sequence[JsonObject]: ...  # noqa: D102
    def inspect(self, name: str) -> JsonObject: ...  # noqa: D102
    def remove(self, name: str) -> None: ...  # noqa: D102
    def token(self) -> str: ...  # noqa: D102
    def join(self, token: str, *, advertise: str, node: str) -> JsonObject: ...  # noqa: D102
    def leave(self) -> None: ...  # noqa: D102


@dataclass(frozen=True)
class Instance:
    """What `/version` and `/info` say of this daemon beside what the API finds out itself (host, counts, drivers)."""

    id: str
    """Stable over the life of a data root."""
    data_root: str
    exec_root: str
    runtime: str
    """Name of the OCI runtime in use: crun or runc."""
    components: Mapping[str, str] = field(default_factory=dict)
    """Versions: `{"crun": "1.8.1", "conmon": "2.1.6"}`."""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Services:
    """All that the API needs; made by the composition root."""

    containers: ContainerManager
    images: ImageManager
    networks: NetworkManager
    volumes: VolumeManager
    secrets: SecretStore
    volume_work: VolumeWork
    events: EventBus
    plugins: Plugins
    doctor: Doctor
    nodes: Nodes
    instance: Instance
