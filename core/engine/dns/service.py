"""The name service as the rest of the engine sees it. What is slow to import is imported in its thread, when needed."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from engine.cluster.model import ClusterEndpoint
from engine.dns.directory import Directory
from engine.dns.members import member_of, remote_member
from engine.dns.upstream import RESOLV_CONF, HostServers, is_loopback, nameservers
from engine.network.model import Attachment, NetworkRecord
from engine.reconcile.applier import Sandbox
from engine.reconcile.namesockets import NameSockets, open_sockets
from engine.spec.errors import ApplyFailed

if TYPE_CHECKING:
    from engine.dns.server import NameServer

log = logging.getLogger("engine.dns")


class NameService:
    """Keeps the directory, and serves sandboxes. Thread-safe."""

    def __init__(self, resolv_conf: Path = RESOLV_CONF) -> None:
        self._resolv_conf = resolv_conf
        self._directory = Directory()
        self._lock = threading.Lock()
        self._open: dict[str, NameSockets] = {}
        self._closed = False
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self._ending = asyncio.Event()
        self._thread: threading.Thread | None = None
        self._server: NameServer | None = None

    def put(self, endpoint: Attachment, network: NetworkRecord) -> None:
        """Know an endpoint, or what has become of it."""
        self._directory.put(member_of(endpoint, network))

    def remove(self, endpoint: Attachment) -> None:
        """Forget an endpoint."""
        self._directory.remove(endpoint.id)

    def put_remote(self, endpoint: ClusterEndpoint, network: NetworkRecord) -> None:
        """Know an endpoint on another host, or what has become of it."""
        self._directory.put(remote_member(endpoint, network))

    def remove_remote(self, id: str) -> None:
        """Forget an endpoint on another host."""
        self._directory.remove(id)

    def serves(self, container: str) -> bool:
        """Return whether a container is to ask at 127.0.0.11."""
        with self._lock:
            return container in self._open

    def attached(self, container: str, sandbox: Sandbox) -> None:
        """Serve a container if it needs it, now that it is on one more network. Raises ApplyFailed."""
        if self._needed(container):
            self.serve(container, sandbox)

    def _needed(self, container: str) -> bool:
        """Where containers have no names they ask the host's servers directly, if these can be reached from there."""
        memberships = self._directory.of(container)
        if any(m.named for m in memberships):
            return True
        return bool(memberships) and not memberships[0].servers and not self._direct()

    def _direct(self) -> bool:
        try:
            text = self._resolv_conf.read_text(errors="replace")
        except OSError:
            return True  # there is nobody to ask anyway
        servers = nameservers(text)
        return not servers or any(not is_loopback(server) for server in servers)

    def serve(self, container: str, sandbox: Sandbox) -> None:
        """Serve a container; one that is served already is no error. Raises ApplyFailed."""
        with self._lock:
            if container in self._open:
                return
        try:
            sockets = open_sockets(sandbox)
        except OSError as err:
            raise ApplyFailed(
                "the name server of a container could not be made", why=str(err), details={"errno": err.errno}
            ) from err
        with self._lock:
            if container in self._open or self._closed:  # meanwhile, by another thread
                sockets.close()
                return
            self._open[container] = sockets
            self._tell(lambda server: server.serve(container, sockets))

    def stop(self, container: str) -> None:
        """End it, before the container's network namespace goes. One that is not served is no error."""
        with self._lock:
            if self._open.pop(container, None) is not None:
                self._tell(lambda server: server.stop(container))

    def close(self) -> None:
        """Let go of all containers: until another daemon serves them, they get no answers."""
        with self._lock:
            thread, self._closed = self._thread, True
            self._open.clear()
            if thread is None:
                return
            loop = self._runner.get_loop()
            loop.call_soon_threadsafe(self._do, lambda server: server.stop_all())
            loop.call_soon_threadsafe(self._ending.set)
        thread.join()

    def _tell(self, what: Callable[[NameServer], None]) -> None:
        """Have the server do something, in its thread, which is started when it is needed. The caller has the lock."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="names", daemon=True)
            self._thread.start()
        self._runner.get_loop().call_soon_threadsafe(self._do, what)

    def _do(self, what: Callable[[NameServer], None]) -> None:
        assert self._server is not None  # made before the loop runs
        what(self._server)

    def _run(self) -> None:
        from engine.dns.cache import Cache
        from engine.dns.forwarder import Forwarder
        from engine.dns.server import NameServer

        host = HostServers(self._resolv_conf)
        self._server = NameServer(self._runner.get_loop(), self._directory, host, Forwarder(Cache()))
        with self._runner:
            self._runner.run(self._until_closed())

    async def _until_closed(self) -> None:
        await self._ending.wait()
