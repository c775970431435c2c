"""The streams of containers: logs, attach, and attach over a WebSocket."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import aclosing

from aiohttp import WSCloseCode, web

from engine.api import versions
from engine.api.detach import parse_keys
from engine.api.hijack import MULTIPLEXED, RAW, RawConnection, Taken
from engine.api.requests import acquire, flag, services, timestamp_ns
from engine.api.services.containers import Attachment, LogReader
from engine.api.streams import STDERR, STDOUT, Pump, discard, frame
from engine.api.transfer import begin, cut, from_thread
from engine.spec.errors import EngineError, InvalidParameter

log = logging.getLogger(__name__)

_MULTIPLEXED_SINCE = (1, 42)
"""From this version on the content type says whether a stream is multiplexed."""

_WEBSOCKET_BYTES = 1 << 20
"""Largest message from a WebSocket client."""


def content_type(request: web.Request, tty: bool) -> str:
    """Return the content type of a container's streams, which clients use to tell frames from raw bytes."""
    return MULTIPLEXED if not tty and versions.of(request) >= _MULTIPLEXED_SINCE else RAW


def _streams(request: web.Request) -> frozenset[int]:
    wanted = {STDOUT: flag(request, "stdout"), STDERR: flag(request, "stderr")}
    return frozenset(stream for stream, on in wanted.items() if on)


def _chunks(reader: LogReader) -> Iterator[bytes]:
    for stream, data in reader:
        yield data if reader.tty else frame(stream, data)


async def logs(request: web.Request) -> web.StreamResponse:
    """Send the log, and go on with `follow`."""
    streams = _streams(request)
    if not streams:
        raise InvalidParameter("Bad parameters: you must choose at least one stream")
    reader = await acquire(
        request,
        lambda left: left.close(),
        services(request).containers.logs,
        request.match_info["id"],
        stdout=STDOUT in streams,
        stderr=STDERR in streams,
        since_ns=timestamp_ns(request, "since") or 0,
        until_ns=timestamp_ns(request, "until") or 0,
        tail=_tail(request),
        timestamps=flag(request, "timestamps"),
        details=flag(request, "details"),
        follow=flag(request, "follow"),
    )
    try:
        response = await begin(request, content_type(request, reader.tty))
        async with aclosing(from_thread(_chunks(reader), reader.close)) as chunks:
            async for data in chunks:
                await response.write(data)
    except EngineError as err:
        return cut(request, err)
    finally:
        reader.close()
    await response.write_eof()
    return response


def _tail(request: web.Request) -> int | None:
    """The last so many lines; anything that is no number means all, as docker's daemon has it."""
    value = request.query.get("tail", "")
    return int(value) if value.isascii() and value.isdigit() else None


async def attach(request: web.Request) -> web.StreamResponse:
    """Take the connection over, and connect it to the container's streams."""
    keys = parse_keys(request.query.get("detachKeys", ""))
    streams = _streams(request)
    past = await _past_log(request, streams)
    try:
        attachment = await _attachment(request) if flag(request, "stream") else None
    except BaseException:
        if past is not None:
            past.close()
        raise
    try:
        tty = attachment.tty if attachment is not None else past is not None and past.tty
        connection = RawConnection(request)
        connection.accept(request, content_type(request, tty))
        if past is not None:
            async with aclosing(from_thread(_chunks(past), past.close)) as chunks:
                async for data in chunks:
                    await connection.write(data)
        if attachment is not None:
            stdin = attachment.open_stdin and flag(request, "stdin")
            pump = Pump(connection, tty=tty, stdin=stdin, streams=streams, detach_keys=keys)
            await pump.run(attachment.connection)
    except EngineError as err:  # the container was removed, or could not start: who asked for that is told why
        log.info("attach to %s ended: %s", request.match_info["id"], err)
    finally:
        if past is not None:
            past.close()
        if attachment is not None:
            discard(attachment.connection)
    return Taken()


async def _attachment(request: web.Request) -> Attachment:
    return await acquire(
        request,
        lambda left: discard(left.connection),
        services(request).containers.attach,
        request.match_info["id"],
    )


async def _past_log(request: web.Request, streams: frozenset[int]) -> LogReader | None:
    """What was written so far, if the client wants it (`logs=1`)."""
    if not flag(request, "logs") or not streams:
        return None
    return await acquire(
        request,
        lambda left: left.close(),
        services(request).containers.logs,
        request.match_info["id"],
        stdout=STDOUT in streams,
        stderr=STDERR in streams,
    )


class WebSocketClient:
    """A WebSocket as the client of a pump: messages in are input, output is sent as binary messages without frames."""

    def __init__(self, websocket: web.WebSocketResponse) -> None:
        self._websocket = websocket
        self._input: asyncio.Queue[bytes] = asyncio.Queue(16)
        self._gone = asyncio.Event()

    async def receive(self, *, keep: bool) -> None:
        """Take in messages until the client closes; without `keep` they are dropped."""
        try:
            async for message in self._websocket:
                data = message.data.encode() if isinstance(message.data, str) else bytes(message.data)
                if keep and data:
                    await self._input.put(data)
        finally:
            self._gone.set()

    async def read(self) -> bytes:
        """Return one message."""
        return await self._input.get()

    async def write(self, data: bytes) -> None:
        """Send one message."""
        await self._websocket.send_bytes(data)

    async def hung_up(self) -> None:
        """Wait until the client closed."""
        await self._gone.wait()


async def attach_websocket(request: web.Request) -> web.StreamResponse:
    """Connect a WebSocket to the container's streams."""
    keys = parse_keys(request.query.get("detachKeys", ""))
    attachment = await _attachment(request)
    try:
        websocket = web.WebSocketResponse(max_msg_size=_WEBSOCKET_BYTES)
        await websocket.prepare(request)
        client = WebSocketClient(websocket)
        stdin = attachment.open_stdin and flag(request, "stdin")
        receiving = asyncio.ensure_future(client.receive(keep=stdin))
        streams = _streams(request) or frozenset((STDOUT, STDERR))
        try:
            await Pump(client, tty=True, stdin=stdin, streams=streams, detach_keys=keys).run(attachment.connection)
        except EngineError as err:
            await websocket.close(code=WSCloseCode.INTERNAL_ERROR, message=str(err).encode()[:123])
        finally:
            receiving.cancel()
            await asyncio.wait((receiving,))
        await websocket.close()
        return websocket
    finally:
        discard(attachment.connection)
