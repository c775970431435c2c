"""`GET /containers/{id}/stats`.

A sample a second, each with the one before it, as docker's clients compute rates from.
"""

from __future__ import annotations

import asyncio
import json

from aiohttp import web

from engine.api.requests import call, flag, reply, services
from engine.api.services.data import JsonObject
from engine.api.transfer import begin
from engine.spec.errors import EngineError, NotFound

INTERVAL_SECONDS = 1.0
_NEVER = "0001-01-01T00:00:00Z"
_NO_CPU: JsonObject = {
    "cpu_usage": {"total_usage": 0, "usage_in_kernelmode": 0, "usage_in_usermode": 0},
    "throttling_data": {"periods": 0, "throttled_periods": 0, "throttled_time": 0},
}
_BLANK: JsonObject = {
    "read": _NEVER,
    "num_procs": 0,
    "pids_stats": {},
    "blkio_stats": {},
    "storage_stats": {},
    "cpu_stats": _NO_CPU,
    "memory_stats": {},
}
"""What is said of a container that does not run."""


def complete(sample: JsonObject, previous: JsonObject | None) -> JsonObject:
    """Return the sample with `precpu_stats` and `preread` of the one before it."""
    before = previous or {}
    return {
        **_BLANK,
        **sample,
        "preread": before.get("read", _NEVER),
        "precpu_stats": before.get("cpu_stats", _NO_CPU),
    }


async def stats(request: web.Request) -> web.StreamResponse:
    """Send one sample (`stream=0`: of two, unless `one-shot`), or one a second until the container is removed."""
    manager = services(request).containers
    id = request.match_info["id"]
    sample = await call(request, manager.stats, id)
    if not flag(request, "stream", True):
        previous = None
        if not flag(request, "one-shot") and "read" in sample:
            await asyncio.sleep(INTERVAL_SECONDS)
            previous, sample = sample, await call(request, manager.stats, id)
        return reply(complete(sample, previous))
    response = await begin(request, "application/json")
    previous = None
    try:
        while True:
            await response.write(json.dumps(complete(sample, previous)).encode() + b"\n")
            previous = sample
            await asyncio.sleep(INTERVAL_SECONDS)
            sample = await call(request, manager.stats, id)
    except NotFound:  # removed: the end of the stream
        pass
    except EngineError as err:
        await response.write(json.dumps({"message": str(err)}).encode() + b"\n")
    await response.write_eof()
    return response
