"""Streams of a registry's blobs, through `skopeo experimental-image-proxy` (protocol 0.2, in skopeo since 1.5).

Messages are JSON over a SOCK_SEQPACKET pair; a blob comes through a pipe whose read end is passed along. `skopeo copy`
would tell nothing while it works and end before we can begin to unpack; here a layer is unpacked while it arrives.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import socket
import subprocess
from types import TracebackType
from typing import Any

from engine.image import registry
from engine.image.reference import Reference
from engine.spec.errors import DeadlineExceeded, Internal, Unavailable

_MESSAGE_MAX = 32 * 1024
_PROTOCOL = "0.2."
_F_SETPIPE_SZ, _PIPE_SIZE = 1031, 1 << 20


class BlobProxy:
    """One skopeo process with one image open. A context manager; use it from one thread, one blob after the other."""

    def __init__(self, reference: Reference, options: list[str]) -> None:
        self._what = f"cannot pull {reference.familiar}"
        self._url = registry.url(reference)
        self._options = options
        self._image: Any = None

    def __enter__(self) -> BlobProxy:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.settimeout(registry.DEADLINE)
        argv = [*registry.command(), "experimental-image-proxy", *self._options, "--sockfd", str(theirs.fileno())]
        with theirs:
            try:
                self._process = subprocess.Popen(
                    argv,
                    pass_fds=[theirs.fileno()],
                    env=registry.environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
            except FileNotFoundError as err:
                self._socket.close()
                raise registry.no_skopeo(self._what) from err
        try:
            version = self._call("Initialize")["value"]
            if not str(version).startswith(_PROTOCOL):
                raise Internal(self._what, why=f"skopeo's image proxy speaks version {version}, we speak {_PROTOCOL}x")
            self._image = self._call("OpenImage", self._url)["value"]
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        self._socket.close()
        try:
            self._process.wait(0.2 if self._image is None else 1)
        except subprocess.TimeoutExpired:  # it is amid a transfer that nobody wants any more
            self._process.kill()
            self._process.wait()

    def blob(self, digest: str, size: int) -> Blob:
        """Open a blob. Read it to its end before the next one."""
        self._send("GetBlob", self._image, digest, size)
        reply, descriptors = self._receive()
        blob = Blob(self, descriptors[0])
        # The pipe is closed by the other side, and an error told, only after FinishPipe: ask for it at once.
        self._send("FinishPipe", reply["pipeid"])
        return blob

    def finish(self) -> None:
        """After a blob's end: raises what went wrong on the other side."""
        self._receive()

    def _call(self, method: str, *arguments: Any) -> dict[str, Any]:
        self._send(method, *arguments)
        return self._receive()[0]

    def _send(self, method: str, *arguments: Any) -> None:
        try:
            self._socket.send(json.dumps({"method": method, "args": arguments}).encode())
        except OSError as err:
            raise Unavailable(self._what, why=f"skopeo ended: {err}") from err

    def _receive(self) -> tuple[dict[str, Any], list[int]]:
        try:
            data, descriptors, _, _ = socket.recv_fds(self._socket, _MESSAGE_MAX, 1)
        except TimeoutError as err:
            raise DeadlineExceeded(self._what, why=f"no answer within {registry.DEADLINE:.0f} s") from err
        except OSError as err:
            raise Unavailable(self._what, why=f"skopeo ended: {err}") from err
        if not data:
            raise Unavailable(self._what, why="skopeo ended unexpectedly")
        reply: dict[str, Any] = json.loads(data)
        if not reply["success"]:
            for descriptor in descriptors:
                os.close(descriptor)
            raise registry.error(self._what, reply["error"])
        return reply, descriptors


class Blob:
    """A blob as it arrives. `read` raises when the transfer failed or stalled."""

    def __init__(self, proxy: BlobProxy, descriptor: int) -> None:
        self._proxy = proxy
        self._file = open(descriptor, "rb", buffering=0)  # noqa: SIM115 (a descriptor; closed by close)
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN)
        self._ended = False
        self.broken = False
        """Whether the transfer failed amid (to try again may help)."""
        _enlarge(descriptor)

    def read(self, size: int = -1, /) -> bytes:
        """At most `size` bytes; empty at the end, after the other side confirmed that all went well."""
        if self._ended:
            return b""
        if not self._poll.poll(registry.DEADLINE * 1000):
            raise DeadlineExceeded("the download stalled", why=f"no data within {registry.DEADLINE:.0f} s")
        data = self._file.read(size if size > 0 else _PIPE_SIZE)
        if not data:
            self._ended = True
            try:
                self._proxy.finish()
            except Unavailable:
                self.broken = True
                raise
        return data

    def close(self) -> None:
        """Close the pipe; the transfer, if it is not at its end, is given up."""
        self._file.close()


def _enlarge(pipe: int) -> None:
    try:
        fcntl.fcntl(pipe, _F_SETPIPE_SZ, _PIPE_SIZE)
    except PermissionError:
        pass  # the user's limit of pipe buffers is reached: the pipe works as it is, a little slower
