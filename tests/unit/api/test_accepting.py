"""Connections are accepted while descriptors are left, and one that cannot be served is no harm to the others."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket

import pytest

from engine.api import accepting


@pytest.mark.parametrize(
    ("limit", "lowest", "room"), [(1 << 20, 1000, True), (1024, 895, True), (1024, 896, False), (64, 48, False)]
)
def test_the_reserve_fits_the_limit(monkeypatch: pytest.MonkeyPatch, limit: int, lowest: int, room: bool) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(resource, "getrlimit", lambda _: (limit, limit))
        patch.setattr(os, "dup", lambda _: lowest)
        patch.setattr(os, "close", lambda _: None)
        with contextlib.nullcontext() if room else pytest.raises(OSError, match=f"{lowest} of {limit}"):
            accepting.Acceptor._check_room()


class Greeter(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        transport.write(b"hello")
        transport.close()


def test_a_protocol_that_cannot_be_made_costs_one_connection(caplog: pytest.LogCaptureFixture) -> None:
    faults = [RuntimeError("no protocol")]

    def protocol() -> asyncio.Protocol:
        if faults:
            raise faults.pop()
        return Greeter()

    async def serve() -> list[bytes]:
        acceptor = accepting.Acceptor()
        with socket.create_server(("127.0.0.1", 0)) as listening:
            acceptor.serve(listening, protocol)
            said = []
            for _ in range(2):
                reader, writer = await asyncio.open_connection(*listening.getsockname())
                said.append(await reader.read())
                writer.close()
            await acceptor.close()
        return said

    assert asyncio.run(serve()) == [b"", b"hello"]
    assert "could not be served" in caplog.text
