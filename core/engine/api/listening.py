"""Where the API is listened for: sockets that are taken before anything else is done, and served later.

Who connects meanwhile waits. A daemon that finds its sockets busy has touched nothing.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from engine import directories
from engine.spec.errors import Conflict, InvalidParameter, Unavailable

BACKLOG = 512
"""Connections that may wait to be accepted."""


class Listener:
    """One listening socket, of an address as `hosts` has it."""

    def __init__(self, host: str) -> None:
        """Listen on `unix://PATH` (mode 0660; a dead socket of that path is replaced) or `tcp://HOST:PORT`.

        Raises Conflict when another daemon listens there, InvalidParameter, Unavailable.
        """
        self.host = host
        self.path: Path | None = None
        """The file of a unix socket."""
        self.hostname = ""
        """The host of a TCP address, as it was given."""
        scheme, _, rest = host.partition("://")
        if scheme == "unix" and rest:
            self.path = Path(rest)
            self.socket = _bind_unix(self.path)
            self._inode = self.path.stat().st_ino
        elif scheme == "tcp" and rest:
            self.socket = _bind_tcp(host)
            self.hostname = urlsplit(host).hostname or ""
        else:
            raise InvalidParameter(f"invalid host {host!r}", hint="Hosts are unix:///PATH and tcp://ADDRESS:PORT")

    @property
    def address(self) -> str:
        """The address with the port that `tcp://HOST:0` got."""
        if self.path is not None:
            return self.host
        address, port = self.socket.getsockname()[:2]
        return f"tcp://[{address}]:{port}" if ":" in address else f"tcp://{address}:{port}"

    def close(self) -> None:
        """Listen no more, and remove the socket file if it is still ours; once more is no error."""
        self.socket.close()
        if self.path is not None:
            with contextlib.suppress(FileNotFoundError):
                if self.path.stat().st_ino == self._inode:
                    self.path.unlink()
                    self._inode = 0


@contextmanager
def listening(hosts: Sequence[str]) -> Iterator[list[Listener]]:
    """Listen on all addresses while the block runs. Raises what `Listener` raises."""
    with contextlib.ExitStack() as stack:
        listeners: list[Listener] = []
        for host in hosts:
            listeners.append(Listener(host))
            stack.callback(listeners[-1].close)
        yield listeners


def _bind_unix(path: Path) -> socket.socket:
    if path.exists():
        if not stat.S_ISSOCK(path.stat().st_mode):
            raise Conflict(f"cannot listen on {path}", why="a file that is no socket is there")
        if _is_live(path):
            raise Conflict(f"cannot listen on {path}", why="socket is busy", hint="Another daemon serves it")
        path.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        directories.make_public(path.parent)
        listening.bind(str(path))
        path.chmod(0o660)  # before listen(2): nobody can have connected
        listening.listen(BACKLOG)
    except OSError as err:
        listening.close()
        raise Unavailable(f"cannot listen on {path}", why=err.strerror or str(err)) from err
    return listening


def _is_live(path: Path) -> bool:
    """Whether somebody listens on a unix socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(2)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError as err:
            if err.errno in (errno.EAGAIN, errno.ETIMEDOUT):  # a full backlog
                return True
            raise Unavailable(f"cannot listen on {path}", why=err.strerror or str(err)) from err
        return True


def _bind_tcp(host: str) -> socket.socket:
    try:
        parts = urlsplit(host)
        port = parts.port
    except ValueError as err:
        raise InvalidParameter(f"invalid host {host!r}", why=str(err)) from err
    if not parts.hostname or port is None or parts.path not in ("", "/"):
        raise InvalidParameter(f"invalid host {host!r}", hint="Write tcp://ADDRESS:PORT")
    try:
        family, _, _, _, address = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except OSError as err:
        error = Conflict if err.errno == errno.EADDRINUSE else Unavailable
        raise error(f"cannot listen on {host}", why=err.strerror or str(err)) from err
