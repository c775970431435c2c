"""Asking other name servers: by UDP, and by TCP what does not fit; one after the other until one answers."""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
import time
from collections.abc import Hashable, Sequence

import dns.exception

from engine.dns import wire
from engine.dns.cache import Cache
from engine.dns.upstream import Server
from engine.reconcile.namesockets import socket_in

log = logging.getLogger("engine.dns")

PATIENCE = 2.0
"""Seconds to wait for one server. Clients wait for 5 (resolv.conf(5)): so the second server has its chance."""
PROBATION = 30.0
"""Seconds for which a server that did not answer is asked after the others."""
MOST = 1024
"""Different questions that are under way at once."""
_UNHELPFUL = frozenset({wire.SERVFAIL, wire.NOTIMP, wire.REFUSED})
"""Codes upon which another server may know better."""


class Overloaded(Exception):
    """Too many questions are under way."""


class Forwarder:
    """Passes questions on. Runs in one event loop, whose thread is nobody else's (it enters namespaces)."""

    def __init__(self, cache: Cache, *, patience: float = PATIENCE, most: int = MOST) -> None:
        self._cache = cache
        self._patience = patience
        self._most = most
        self._under_way: dict[Hashable, asyncio.Task[bytes | None]] = {}
        self._failed: dict[Server, float] = {}

    def cached(self, query: bytes, servers: Sequence[Server], container: str) -> bytes | None:
        """Return what one of these servers said to this query not long ago."""
        response = self._cache.get(_key(query, servers, container))
        return None if response is None else query[:2] + response[2:]

    async def ask(self, query: bytes, servers: Sequence[Server], container: str, namespace: int) -> bytes | None:
        """Return a response to a query, None if no server gives one. Equal questions are asked once.

        `namespace` is a descriptor of the network namespace of the container. Raises Overloaded.
        """
        key = _key(query, servers, container)
        task = self._under_way.get(key)
        if task is None:
            if len(self._under_way) >= self._most:
                raise Overloaded
            task = asyncio.create_task(self._consult(key, query, servers, namespace))
            self._under_way[key] = task
            task.add_done_callback(lambda _: self._under_way.pop(key, None))
        response = await asyncio.shield(task)  # others may wait for it when this one is given up
        return None if response is None else query[:2] + response[2:]

    async def _consult(self, key: Hashable, query: bytes, servers: Sequence[Server], namespace: int) -> bytes | None:
        last: bytes | None = None
        for server in self._by_merit(servers):
            response = await self._exchange(query, server, namespace)
            if response is None:
                self._failed[server] = time.monotonic()
                continue
            self._failed.pop(server, None)
            last = response
            if wire.rcode(response) not in _UNHELPFUL:
                break
        if last is not None:
            self._cache.put(key, last)
        return last

    def _by_merit(self, servers: Sequence[Server]) -> list[Server]:
        now = time.monotonic()
        self._failed = {s: when for s, when in self._failed.items() if now - when < PROBATION}
        return sorted(servers, key=lambda server: server in self._failed)

    async def _exchange(self, query: bytes, server: Server, namespace: int) -> bytes | None:
        """Ask one server; the id is new and random, and so is the port. None if it does not answer sensibly."""
        query = secrets.token_bytes(2) + query[2:]
        try:
            async with asyncio.timeout(self._patience):
                response = await self._talk(socket.SOCK_DGRAM, query, server, namespace)
            if wire.is_truncated(response):
                async with asyncio.timeout(self._patience):
                    response = await self._talk(socket.SOCK_STREAM, query, server, namespace)
            wire.lifetime(response)  # walks through it: what is malformed goes no further
        except (OSError, EOFError, dns.exception.DNSException) as err:  # TimeoutError is an OSError
            log.debug("name server %s: %s", server.address, err or "no answer")
            return None
        return response

    async def _talk(self, kind: socket.SocketKind, query: bytes, server: Server, namespace: int) -> bytes:
        address = socket.getaddrinfo(server.address, server.port, type=kind, flags=socket.AI_NUMERICHOST)[0]
        with _open(address[0], kind, namespace if server.inside else None) as sock:
            loop = asyncio.get_running_loop()
            await loop.sock_connect(sock, address[4])
            if kind is socket.SOCK_STREAM:
                await loop.sock_sendall(sock, len(query).to_bytes(2, "big") + query)
                length = int.from_bytes(await _exactly(sock, 2), "big")
                response = await _exactly(sock, length)
                if not wire.answers(query, response):
                    raise EOFError("an answer to another question")
                return response
            await loop.sock_sendall(sock, query)
            while True:
                response = await loop.sock_recv(sock, 65535)
                try:
                    if wire.answers(query, response):
                        return response
                except dns.exception.DNSException:
                    continue  # forged or broken: the right one may follow


def _open(family: int, kind: int, namespace: int | None) -> socket.socket:
    if namespace is None:
        return socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    return socket_in(namespace, family, kind)


async def _exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = await asyncio.get_running_loop().sock_recv(sock, size - len(data))
        if not piece:
            raise EOFError("the connection ended in the middle of an answer")
        data += piece
    return data


def _key(query: bytes, servers: Sequence[Server], container: str) -> Hashable:
    """Return what makes two questions equal: all but the id; and the container, for servers in its namespace."""
    return query[2:], tuple(servers), container if any(server.inside for server in servers) else ""
