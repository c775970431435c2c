"""`GET /events`: what happened since, and what happens until, filtered."""

from __future__ import annotations

import asyncio
import json
import re
import time
from typing import Any

from aiohttp import web

from engine.api.requests import filters, services, timestamp_ns
from engine.api.services.data import Filters, JsonObject
from engine.api.transfer import begin
from engine.spec.errors import InvalidParameter
from engine.spec.plugin import Event

FILTERS = frozenset({
    *("type", "event", "container", "image", "label", "network", "volume", "daemon", "scope", "driver", "plugin"),
    *("config", "node", "secret", "service"),  # of a swarm: nothing here has them
})  # fmt: skip
_BACKLOG = 4096
"""Events that wait for a slow client; with more it is cut off rather than shown a part."""


def as_json(event: Event) -> JsonObject:
    """Return an event in docker's shape; those of containers and images also have the fields of old."""
    answer: JsonObject = {}
    if event.type in ("container", "image"):
        answer = {"status": event.action, "id": event.id}
        if event.type == "container" and "image" in event.attributes:
            answer["from"] = event.attributes["image"]
    return answer | {
        "Type": event.type,
        "Action": event.action,
        "Actor": {"ID": event.id, "Attributes": dict(event.attributes)},
        "scope": "local",
        "time": event.time_ns // 10**9,
        "timeNano": event.time_ns,
    }


class EventFilter:
    """Decides which events a client sees: all names must match, and of each name's values one."""

    def __init__(self, wanted: Filters) -> None:
        """Raise InvalidParameter for an unknown name."""
        for name in wanted:
            if name not in FILTERS:
                raise InvalidParameter(f"invalid filter {name!r}")
        self._wanted = {name: values for name, values in wanted.items() if values}

    def __call__(self, event: Event) -> bool:
        """Whether to show an event."""
        return all(any(self._matches(event, name, value) for value in values) for name, values in self._wanted.items())

    def _matches(self, event: Event, name: str, value: str) -> bool:
        attributes = event.attributes
        if name == "type":
            return event.type == value
        if name == "event":  # "exec_start: sh" is an exec_start
            return event.action == value or event.action.startswith(f"{value}:")
        if name == "scope":
            return value == "local"
        if name == "label":
            key, equals, wanted = value.partition("=")
            return key in attributes and (not equals or attributes[key] == wanted)
        if name == "image":
            return _same_image(value, event.id if event.type == "image" else attributes.get("image", ""))
        if event.type == name:
            return event.id.startswith(value) or attributes.get("name") == value.removeprefix("/")
        return name in ("container", "network") and value == attributes.get(name, "")


def _same_image(wanted: str, seen: str) -> bool:
    """Whether an image's name is the wanted one, which may be without a tag."""
    return bool(seen) and (seen == wanted or re.sub(r"(:[^:/]+)?(@.*)?$", "", seen) == wanted)


async def events(request: web.Request) -> web.StreamResponse:
    """Stream events; ends at `until`, at once if that has passed."""
    shown = EventFilter(filters(request))
    since, until = timestamp_ns(request, "since"), timestamp_ns(request, "until")
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[Event] = asyncio.Queue()
    too_slow = asyncio.Event()

    def keep(event: Event) -> None:
        if queue.qsize() < _BACKLOG:
            queue.put_nowait(event)
        else:
            too_slow.set()

    def listen(event: Event) -> None:
        if shown(event):
            loop.call_soon_threadsafe(keep, event)

    past, stop = services(request).events.subscribe(listen, since_ns=since)
    try:
        response = await begin(request, "application/json")
        for event in past:
            if shown(event) and (until is None or event.time_ns <= until):
                await _send(response, event)
        try:
            async with asyncio.timeout(None if until is None else max(0.0, until / 1e9 - time.time())):
                while not too_slow.is_set():
                    event = await queue.get()
                    if until is not None and event.time_ns > until:
                        break
                    await _send(response, event)
        except TimeoutError:  # that was `until`
            pass
        await response.write_eof()
        return response
    finally:
        stop()


async def _send(response: web.StreamResponse, event: Event) -> Any:
    await response.write(json.dumps(as_json(event)).encode() + b"\n")
