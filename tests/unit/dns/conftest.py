"""A name server in this process, without namespaces: its sockets are on 127.0.0.1, and so are the servers it asks."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import dns.message
import dns.query
import dns.rcode
import dns.rrset
import pytest

from engine.dns.cache import Cache
from engine.dns.directory import Directory
from engine.dns.forwarder import Forwarder
from engine.dns.members import Member
from engine.dns.server import NameServer
from engine.dns.upstream import HostServers, Server
from engine.reconcile.namesockets import NameSockets

Reply = Callable[[dns.message.Message, bool], bytes | None]
SECONDS = 5.0


def positive(query: dns.message.Message, over_tcp: bool) -> bytes:
    response = dns.message.make_response(query)
    response.answer.append(dns.rrset.from_text(query.question[0].name, 60, "IN", "A", "192.0.2.99"))
    return response.to_wire()


def bound() -> tuple[socket.socket, socket.socket]:
    while True:
        udp, tcp = socket.socket(type=socket.SOCK_DGRAM), socket.socket()
        udp.bind(("127.0.0.1", 0))
        try:
            tcp.bind(udp.getsockname())
        except OSError:
            udp.close()
            tcp.close()
            continue
        tcp.listen()
        return udp, tcp


class Upstream:
    """A name server that says what a test wants; counts what it is asked, by UDP and by TCP."""

    def __init__(self, reply: Reply = positive) -> None:
        self.reply = reply
        self.asked: list[bytes] = []
        self.ports: list[int] = []
        self.by_tcp = 0
        self._udp, self._tcp = bound()
        self.server = Server("127.0.0.1", port=self._udp.getsockname()[1])
        for target in (self._serve_udp, self._serve_tcp):
            threading.Thread(target=target, daemon=True).start()

    def _serve_udp(self) -> None:
        while True:
            try:
                query, address = self._udp.recvfrom(65535)
            except OSError:
                return
            if not query:
                return
            self.asked.append(query)
            self.ports.append(address[1])
            threading.Thread(target=self._reply_udp, args=(query, address), daemon=True).start()

    def _reply_udp(self, query: bytes, address: object) -> None:
        response = self.reply(dns.message.from_wire(query), False)
        if response is not None:
            self._udp.sendto(response, address)  # type: ignore[arg-type]

    def _serve_tcp(self) -> None:
        while True:
            try:
                connection, _ = self._tcp.accept()
            except OSError:
                return
            with connection:
                self.by_tcp += 1
                query, _ = dns.query.receive_tcp(connection)
                response = self.reply(query, True)
                if response is not None:
                    connection.sendall(len(response).to_bytes(2, "big") + response)

    def close(self) -> None:
        for sock in (self._udp, self._tcp):
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        with socket.socket(type=socket.SOCK_DGRAM) as waker:
            waker.sendto(b"", ("127.0.0.1", self.server.port))
        self._udp.close()
        self._tcp.close()


class World:
    """The name server, in a thread; two containers, `one` and `two`, that are on one network."""

    def __init__(self, path: Path, patience: float = 0.3) -> None:
        self.directory = Directory()
        self.servers: list[Server] = []
        self.upstreams: list[Upstream] = []
        self.forwarder = Forwarder(Cache(), patience=patience)
        self.loop = asyncio.new_event_loop()
        self.host = HostServers(path / "resolv.conf")
        self.host.now = lambda: tuple(self.servers)  # type: ignore[method-assign]
        self.server = NameServer(self.loop, self.directory, self.host, self.forwarder)
        self.problems: list[dict[str, object]] = []
        self.loop.set_exception_handler(lambda _, context: self.problems.append(context))
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        self.addresses: dict[str, tuple[str, int]] = {}
        for number, name in enumerate(("one", "two"), 1):
            self.add(name, f"10.1.0.{number}")

    def add(self, name: str, *addresses: str, **fields: object) -> None:
        values: dict[str, object] = {"names": (name,), **fields}
        self.directory.put(Member(
            endpoint=name, network="net", network_name="net", container=name, addresses=addresses, **values
        ))  # type: ignore[arg-type]  # fmt: skip
        if name in self.addresses:
            return
        udp, tcp = bound()
        udp.setblocking(False)
        tcp.setblocking(False)
        self.addresses[name] = udp.getsockname()
        sockets = NameSockets(udp, tcp, os.open("/proc/self/ns/net", os.O_RDONLY))
        self.run(lambda: self.server.serve(name, sockets))

    def run(self, function: Callable[[], object]) -> None:
        done = threading.Event()

        def work() -> None:
            function()
            done.set()

        self.loop.call_soon_threadsafe(work)
        assert done.wait(SECONDS)

    def upstream(self, reply: Reply = positive) -> Upstream:
        upstream = Upstream(reply)
        self.upstreams.append(upstream)
        self.servers.append(upstream.server)
        return upstream

    def ask(
        self, name: str, kind: str = "A", *, by: str = "one", tcp: bool = False, edns: bool = False, **options: object
    ) -> dns.message.Message:
        query = dns.message.make_query(name, kind, use_edns=0 if edns else False, **options)  # type: ignore[arg-type]
        address, port = self.addresses[by]
        ask = dns.query.tcp if tcp else dns.query.udp
        return ask(query, address, port=port, timeout=SECONDS)

    def raw(self, data: bytes, *, by: str = "one", seconds: float = SECONDS) -> bytes | None:
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            sock.settimeout(seconds)
            sock.connect(self.addresses[by])
            sock.send(data)
            try:
                return sock.recv(65535)
            except TimeoutError:
                return None

    def close(self) -> None:
        self.run(self.server.stop_all)
        for upstream in self.upstreams:
            upstream.close()

        async def drain() -> None:
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(drain(), self.loop).result(SECONDS)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(SECONDS)
        self.loop.close()
        assert self.problems == []


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    try:
        yield world
    finally:
        world.close()
