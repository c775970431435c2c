"""What managers' threads give and take as bytes or messages, sent and received by the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import threading
from collections.abc import AsyncGenerator, Callable, Iterable
from concurrent.futures import Future
from typing import Any

from aiohttp import web

from engine.api import errors
from engine.api.requests import WORKERS, call
from engine.api.services.data import JsonObject, Readable
from engine.spec.errors import EngineError

log = logging.getLogger(__name__)

CHUNK = 1 << 18
"""Bytes of an archive that are read and sent at once."""
_MESSAGES = 256
"""Progress messages that wait for a slow client; with more, those that only move a bar are dropped."""


class Channel:
    """Bytes from a thread to the event loop, with few wake-ups and a bound on what waits."""

    def __init__(self, limit: int = 1 << 20) -> None:
        self._loop = asyncio.get_running_loop()
        self._limit = limit
        self._room = threading.Condition()
        self._waiting = bytearray()
        self._ended = False
        self._closed = False
        self._ready = asyncio.Event()

    def put(self, data: bytes) -> bool:
        """Hand over data, from the thread; blocks while too much waits. False when nobody reads any more."""
        with self._room:
            self._room.wait_for(lambda: self._closed or len(self._waiting) < self._limit)
            if self._closed:
                return False
            wake = not self._waiting
            self._waiting += data
        if wake:
            self._wake()
        return True

    def end(self) -> None:
        """Say, from the thread, that nothing follows."""
        with self._room:
            self._ended = True
        self._wake()

    def close(self) -> None:
        """Say, from the loop, that nobody reads any more."""
        with self._room:
            self._closed = True
            self._room.notify_all()

    async def get(self) -> bytes:
        """Return all that waits; empty at the end."""
        while True:
            await self._ready.wait()
            with self._room:
                self._ready.clear()
                data = bytes(self._waiting)
                self._waiting.clear()
                self._room.notify_all()
                if self._ended:
                    self._ready.set()
                    return data
            if data:
                return data

    def _wake(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the daemon ends
            self._loop.call_soon_threadsafe(self._ready.set)


async def from_thread(chunks: Iterable[bytes], close: Callable[[], object]) -> AsyncGenerator[bytes, None]:
    """Iterate over what a blocking iterator yields, in a thread of its own (a follower may take for ever).

    `close` must end the iterator from any thread; it is called when the consumer stops, and at the end.
    """
    channel = Channel()
    failure: list[Exception] = []

    def produce() -> None:
        try:
            for chunk in chunks:
                if not channel.put(chunk):
                    break
        except Exception as err:  # noqa: BLE001 - raised where the consumer is
            failure.append(err)
        finally:
            channel.end()

    thread = threading.Thread(target=produce, name="api-stream", daemon=True)
    thread.start()
    try:
        while data := await channel.get():
            yield data
        if failure:
            raise failure[0]
    finally:
        channel.close()
        close()


async def begin(request: web.Request, content_type: str, headers: dict[str, str] | None = None) -> web.StreamResponse:
    """Send the headers at once: clients wait for them before they go on."""
    response = web.StreamResponse(headers={"Content-Type": content_type, **(headers or {})})
    if request.version >= (1, 1):
        response.enable_chunked_encoding()
    await response.prepare(request)
    return response


async def send_stream(
    request: web.Request, source: Readable, content_type: str, headers: dict[str, str] | None = None
) -> web.StreamResponse:
    """Send a byte stream as the response and close it. A failure in the middle cuts the connection: no end is faked."""
    workers = request.app[WORKERS]
    reading: Future[bytes] = Future()
    reading.set_result(b"")
    try:
        response = await begin(request, content_type, headers)
        while data := await asyncio.wrap_future(reading := workers.submit(source.read, CHUNK)):
            await response.write(data)
        await response.write_eof()
        return response
    except EngineError as err:
        return cut(request, err)
    finally:
        reading.add_done_callback(lambda _: workers.submit(source.close))


def cut(request: web.Request, error: Exception) -> web.StreamResponse:
    """End a response that has begun and cannot be completed."""
    log.warning("%s %s broke off: %s", request.method, request.path, error)
    if request.transport is not None:
        request.transport.abort()
    raise ConnectionResetError("the response broke off") from error


class RequestStream:
    """A request's body as a blocking file for a manager's thread."""

    def __init__(self, request: web.Request) -> None:
        self._loop = asyncio.get_running_loop()
        self._content = request.content

    def read(self, size: int = -1, /) -> bytes:
        """Return at most `size` bytes. Raises ConnectionAbortedError when the client went away in the middle."""
        if size < 0:
            return b"".join(iter(lambda: self.read(CHUNK), b""))
        try:
            return asyncio.run_coroutine_threadsafe(self._content.read(size), self._loop).result()
        except Exception as err:
            raise ConnectionAbortedError("the client broke off") from err

    def close(self) -> None:
        """Nothing to release: the connection is the server's."""


class Messages:
    """JSON messages from a manager's threads; what a slow client would only see superseded is left out."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[JsonObject | None] = asyncio.Queue()
        self._aborted = False

    def put(self, message: JsonObject) -> None:
        """Take a message, from any thread. Raises ConnectionAbortedError when the client is gone."""
        if self._aborted:
            raise ConnectionAbortedError("the client is gone")
        if message.get("progressDetail") and self._queue.qsize() > _MESSAGES:
            return
        self._loop.call_soon_threadsafe(self._queue.put_nowait, message)

    def end(self) -> None:
        """Nothing follows."""
        self._loop.call_soon_threadsafe(self._queue.put_nowait, None)

    def abort(self) -> None:
        """Let the work end at its next message."""
        self._aborted = True

    async def get(self) -> JsonObject | None:
        """Return the next message, None at the end."""
        return await self._queue.get()


async def send_messages(
    request: web.Request, work: Callable[[Callable[[JsonObject], None]], object]
) -> web.StreamResponse:
    """Run work on a worker thread and stream the messages that it gives to its argument as JSON, one a line.

    An error before the first message is an ordinary error response; later it is docker's `{"errorDetail": ...}`.
    A client that goes away makes the work's next message raise ConnectionAbortedError.
    """
    messages = Messages()

    def run() -> object:
        try:
            return work(messages.put)
        finally:
            messages.end()

    done = asyncio.ensure_future(call(request, run))
    try:
        message = await messages.get()
        if message is None:
            await done  # raises, or had nothing to say
        response = await begin(request, "application/json")
        while message is not None:
            await response.write(json.dumps(message).encode() + b"\r\n")
            message = await messages.get()
        try:
            await done
        except Exception as err:  # noqa: BLE001 - the status is sent: the error travels as a message
            error = err if isinstance(err, EngineError) else errors.unexpected(err, request)
            await response.write(json.dumps(_error_message(error)).encode() + b"\r\n")
        await response.write_eof()
        return response
    finally:
        messages.abort()
        done.add_done_callback(_forget)


class ChannelWriter:
    """A channel as a file that is written."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def write(self, data: bytes) -> int:
        """Hand data on; blocks while the client is slow. Raises ConnectionAbortedError when it is gone."""
        if not self._channel.put(data):
            raise ConnectionAbortedError("the client is gone")
        return len(data)


async def send_written(
    request: web.Request, work: Callable[[ChannelWriter], object], content_type: str
) -> web.StreamResponse:
    """Run work on a worker thread and send what it writes. An error before that is an ordinary error response."""
    channel = Channel()

    def run() -> object:
        try:
            return work(ChannelWriter(channel))
        finally:
            channel.end()

    done = asyncio.ensure_future(call(request, run))
    response: web.StreamResponse | None = None
    try:
        data = await channel.get()
        if not data:
            await done
        response = await begin(request, content_type)
        while data:
            await response.write(data)
            data = await channel.get()
        await done
        await response.write_eof()
        return response
    except EngineError as err:
        if response is None:
            raise
        return cut(request, err)
    finally:
        channel.close()
        done.add_done_callback(_forget)


def _error_message(error: EngineError) -> dict[str, Any]:
    return {"errorDetail": {"code": error.status, "message": str(error)}, "error": str(error)}


def _forget(done: asyncio.Future[Any]) -> None:
    """Take note of the result of work that nobody waits for any more."""
    if not done.cancelled() and done.exception() is not None:
        log.info("given up by the client: %s", done.exception())
