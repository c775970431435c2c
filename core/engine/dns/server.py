"""The name server of all sandboxes: one event loop, in a thread of its own.

Nobody can take it away from the others. A container that asks faster than its turns allow loses queries (in its own
socket's buffer); questions that wait for another server, and connections, are limited for each container and in all.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
import time
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import Any

import dns.exception
import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype

from engine.dns import wire
from engine.dns.answers import Answer, Answers
from engine.dns.directory import Directory
from engine.dns.forwarder import Forwarder, Overloaded
from engine.dns.upstream import HostServers, Server, servers_for
from engine.reconcile.namesockets import NameSockets

log = logging.getLogger("engine.dns")

TURN = 8
"""Queries of a container that are answered before others have their turn."""
RATE, BURST = 2000, 1000
"""Queries a second that a container may ask for long, and how many it may ask beyond that at once."""
PAUSE = 0.005
"""Seconds for which a container is not listened to after that."""
WAITING = 128
"""Questions of one container that may wait for other servers."""
CONNECTIONS, ALL_CONNECTIONS = 16, 256
"""TCP connections, of one container and in all."""
IDLE = 10.0
"""Seconds after which a connection without a query is closed (RFC 7766: a few)."""
LONGEST_QUERY = 4096
PAYLOAD = 1232
"""Bytes of a datagram that we announce (DNS flag day 2020)."""
OPCODE = 0x78
"""Where the third byte of a message says what it is for; QUERY is 0."""
_TRANSFERS = frozenset({dns.rdatatype.AXFR, dns.rdatatype.IXFR})
MALFORMED = (dns.exception.DNSException, ValueError, struct.error, IndexError)
"""What reading a stranger's message may raise."""


@dataclass
class _Client:
    """A sandbox that is served."""

    container: str
    sockets: NameSockets
    allowance: float = BURST
    """Queries that it may ask now."""
    counted: float = field(default_factory=time.monotonic)
    """When that was so."""
    waiting: int = 0
    connections: set[socket.socket] = field(default_factory=set)
    served: bool = True

    def may_ask(self) -> bool:
        """Return whether it may ask more at the moment."""
        now = time.monotonic()
        self.allowance = min(self.allowance + (now - self.counted) * RATE, BURST)
        self.counted = now
        return self.allowance >= 1


class NameServer:
    """Serves sandboxes. All methods are called in the thread of the event loop."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, directory: Directory, host: HostServers, forwarder: Forwarder
    ) -> None:
        self._loop = loop
        self._directory = directory
        self._answers = Answers(directory)
        self._host = host
        self._forwarder = forwarder
        self._clients: dict[str, _Client] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._connections = 0

    def serve(self, container: str, sockets: NameSockets) -> None:
        """Begin to answer a container."""
        client = _Client(container, sockets)
        self._clients[container] = client
        self._listen(client)
        self._loop.add_reader(sockets.tcp, self._accept, client)

    def stop(self, container: str) -> None:
        """End it, and close the sockets. A container that is not served is no error."""
        client = self._clients.pop(container, None)
        if client is None:
            return
        client.served = False
        self._loop.remove_reader(client.sockets.udp)
        self._loop.remove_reader(client.sockets.tcp)
        client.sockets.close()
        for connection in client.connections:
            with suppress(OSError):  # its end is there already
                connection.shutdown(socket.SHUT_RDWR)

    def stop_all(self) -> None:
        """End all."""
        for container in list(self._clients):
            self.stop(container)

    # Datagrams

    def _listen(self, client: _Client) -> None:
        if client.served:
            self._loop.add_reader(client.sockets.udp, self._datagrams, client)

    def _datagrams(self, client: _Client) -> None:
        for _ in range(TURN):
            try:
                query, address = client.sockets.udp.recvfrom(LONGEST_QUERY)
            except OSError:  # nothing more, or an error that the kernel reports of an earlier answer
                return
            client.allowance -= 1
            self._datagram(client, query, address)
        if not client.may_ask():
            self._loop.remove_reader(client.sockets.udp)
            self._loop.call_later(PAUSE, self._listen, client)

    def _datagram(self, client: _Client, query: bytes, address: Any) -> None:
        message, response = self._read(query)
        if message is not None:
            answer = self._answer(client, message)
            if answer is None:
                self._start(self._forward_datagram(client, query, message, address))
                return
            response = _render(message, answer, _room(message))
        self._send(client, response, address)

    async def _forward_datagram(
        self, client: _Client, query: bytes, message: dns.message.Message, address: Any
    ) -> None:
        response = await self._forward(client, query, message)
        self._send(client, None if response is None else wire.fitted(response, _room(message)), address)

    def _send(self, client: _Client, response: bytes | None, address: Any) -> None:
        if response is None or not client.served:
            return
        try:
            client.sockets.udp.sendto(response, address)
        except OSError as err:  # its buffer is full: it reads no answers, or asks too fast
            log.debug("an answer to container %s is lost: %s", client.container[:12], err)

    # Connections

    def _accept(self, client: _Client) -> None:
        try:
            sock, _ = client.sockets.tcp.accept()
        except BlockingIOError:
            return
        except OSError as err:  # no descriptors: the connection stays in the queue, so look again later
            log.warning("a connection of container %s cannot be accepted: %s", client.container[:12], err)
            self._loop.remove_reader(client.sockets.tcp)
            self._loop.call_later(1.0, self._accept_again, client)
            return
        if len(client.connections) >= CONNECTIONS or self._connections >= ALL_CONNECTIONS:
            sock.close()
            return
        sock.setblocking(False)
        client.connections.add(sock)
        self._connections += 1
        self._start(self._converse(client, sock))

    def _accept_again(self, client: _Client) -> None:
        if client.served:
            self._loop.add_reader(client.sockets.tcp, self._accept, client)

    async def _converse(self, client: _Client, sock: socket.socket) -> None:
        try:
            reader, writer = await asyncio.open_connection(sock=sock)
            with closing(writer):
                while client.served and (response := await self._respond(client, await _message(reader))):
                    writer.write(len(response).to_bytes(2, "big") + response)
                    async with asyncio.timeout(IDLE):
                        await writer.drain()
        except (OSError, EOFError):  # it went away, or was silent for too long
            pass
        finally:
            client.connections.discard(sock)
            self._connections -= 1

    async def _respond(self, client: _Client, query: bytes) -> bytes | None:
        message, response = self._read(query)
        if message is None:
            return response
        answer = self._answer(client, message)
        if answer is not None:
            return _render(message, answer, 65535)
        return await self._forward(client, query, message)

    # Answers

    def _read(self, query: bytes) -> tuple[dns.message.Message | None, bytes | None]:
        """Return a query understood, or else what is to be said of it: nothing, if it is not even a query."""
        if len(query) < wire.HEADER.size or query[2] & 0x80:
            return None, None
        if query[2] & OPCODE != dns.opcode.QUERY:
            return None, _refusal(query, dns.rcode.NOTIMP)
        try:
            message = dns.message.from_wire(query)
        except MALFORMED:
            return None, _refusal(query, dns.rcode.FORMERR)
        if len(message.question) != 1:
            return None, _refusal(query, dns.rcode.FORMERR)
        return message, None

    def _answer(self, client: _Client, message: dns.message.Message) -> Answer | None:
        """Return the answer that we have; None if others must be asked."""
        question = message.question[0]
        if message.edns > 0:
            return Answer(dns.rcode.BADVERS)
        if question.rdclass != dns.rdataclass.IN or question.rdtype in _TRANSFERS:
            return Answer(dns.rcode.REFUSED)
        return self._answers.find(client.container, question.name, question.rdtype)

    async def _forward(self, client: _Client, query: bytes, message: dns.message.Message) -> bytes | None:
        servers = self._servers(client)
        if not servers:
            return _render(message, Answer(dns.rcode.REFUSED), 65535)
        if cached := self._forwarder.cached(query, servers, client.container):
            return cached
        if client.waiting >= WAITING:
            return None
        client.waiting += 1
        try:
            response = await self._forwarder.ask(query, servers, client.container, client.sockets.namespace)
        except Overloaded:
            return None
        finally:
            client.waiting -= 1
        return response or _render(message, Answer(dns.rcode.SERVFAIL), 65535)

    def _servers(self, client: _Client) -> tuple[Server, ...]:
        return servers_for(self._directory.of(client.container), self._host)

    def _start(self, work: Any) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _message(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(IDLE):
        return await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))


def _room(message: dns.message.Message) -> int:
    return max(message.payload, wire.MINIMUM) if message.edns >= 0 else wire.MINIMUM


def _render(message: dns.message.Message, answer: Answer, room: int) -> bytes:
    response = dns.message.make_response(message, recursion_available=True, our_payload=PAYLOAD)
    response.set_rcode(answer.rcode)
    response.answer.extend(answer.records)
    response.additional.extend(answer.additional)
    return response.to_wire(max_size=min(room, 65535), prefer_truncation=True)


def _refusal(query: bytes, code: dns.rcode.Rcode) -> bytes:
    """Return a response to what could not be understood: its id, its operation, and the code."""
    id, flags, *_ = wire.HEADER.unpack_from(query)
    return wire.HEADER.pack(id, wire.QR | flags & 0x7900 | code, 0, 0, 0, 0)
