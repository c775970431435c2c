"""What the API asks of containers and execs."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Protocol

from engine.api.services.data import Filters, JsonObject, Readable
from engine.container.record import Endpoint
from engine.container.waiters import ExitResult
from engine.network.model import PortSpan


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
