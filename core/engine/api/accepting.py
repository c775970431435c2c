"""Accepts connections while descriptors are left, so that no number of clients takes those that the engine works with.

asyncio's own server accepts until there are none, and then logs each of hundreds of attempts a second.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import resource
import socket
import time
from collections.abc import Callable

log = logging.getLogger(__name__)

RESERVE = 128
"""Descriptors that connections leave to the engine; at a low limit, a quarter of it."""
RETRY_SECONDS = 0.05
"""After which it is looked again whether there are enough."""
SAID_SECONDS = 60.0
"""How often it is said that connections wait."""
_NO_DESCRIPTOR = (errno.EMFILE, errno.ENFILE)
_SHORTAGE = (*_NO_DESCRIPTOR, errno.ENOBUFS, errno.ENOMEM)


def out_of_descriptors(err: BaseException) -> bool:
    """Tell whether something failed because this process, or the host, has as many descriptors as it may have."""
    return isinstance(err, OSError) and err.errno in _NO_DESCRIPTOR


class Acceptor:
    """Accepts connections on listening sockets, each served by a new protocol; all in one event loop."""

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[None]] = []
        self._said = -SAID_SECONDS

    def serve(self, listening: socket.socket, protocol: Callable[[], asyncio.Protocol]) -> None:
        """Accept on a socket until `close`."""
        listening.setblocking(False)
        self._tasks.append(asyncio.get_running_loop().create_task(self._accept(listening, protocol)))

    async def close(self) -> None:
        """Accept no more; the sockets are the caller's."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, listening: socket.socket, protocol: Callable[[], asyncio.Protocol]) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                self._check_room()
                connection, _ = await loop.sock_accept(listening)
            except OSError as err:
                if err.errno in _SHORTAGE:
                    self._say(err)
                    await asyncio.sleep(RETRY_SECONDS)
                elif err.errno != errno.ECONNABORTED:  # the client has gone already
                    log.error("a connection could not be accepted: %s", err)
                    await asyncio.sleep(RETRY_SECONDS)
                continue
            try:
                await loop.connect_accepted_socket(protocol, connection)
            except Exception:  # a bug, which is to cost one connection and not all that come after
                log.exception("a connection could not be served")
                connection.close()

    @staticmethod
    def _check_room() -> None:
        """Raise OSError (EMFILE) when so few descriptors are left that the engine needs them itself.

        The kernel gives the lowest number that is free: it tells how many are in use at least.
        """
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        lowest = os.dup(0)
        os.close(lowest)
        if lowest >= limit - min(RESERVE, limit // 4):
            raise OSError(errno.EMFILE, f"{lowest} of {limit} descriptors are in use, and the others are kept for work")

    def _say(self, err: OSError) -> None:
        now = time.monotonic()
        if now - self._said >= SAID_SECONDS:
            self._said = now
            log.warning("new connections wait: %s. For more of them, raise the daemon's hard limit of open files", err)
