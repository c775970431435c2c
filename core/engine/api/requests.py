"""What handlers share: reading a request's parameters as docker's daemon does, and calling managers on threads."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import re
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, ParamSpec, TypeVar

from aiohttp import web

from engine import strict_json
from engine.api.services import Services
from engine.api.services.data import Filters, JsonObject
from engine.spec.errors import DeadlineExceeded, InvalidParameter
from engine.strict_json import NUMBER_LIMIT

SERVICES = web.AppKey("services", Services)
WORKERS = web.AppKey("workers", ThreadPoolExecutor)

BODY_BYTES = 4 << 20
"""Largest JSON body that is read."""
BODY_SECONDS = 60.0
"""In which a JSON body must have arrived."""

P = ParamSpec("P")
T = TypeVar("T")


def services(request: web.Request) -> Services:
    """Return the managers."""
    return request.app[SERVICES]


async def call(request: web.Request, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a manager on a worker thread. When the client goes away meanwhile, the call runs to its end all the same."""
    return await asyncio.get_running_loop().run_in_executor(request.app[WORKERS], partial(function, *args, **kwargs))


async def acquire(
    request: web.Request, dispose: Callable[[T], object], function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
) -> T:
    """Like `call`, for a result that must be released: if the client went away meanwhile, `dispose` gets it."""
    pending = request.app[WORKERS].submit(function, *args, **kwargs)
    waiting = asyncio.wrap_future(pending)
    try:
        return await asyncio.shield(waiting)
    except asyncio.CancelledError:
        pending.add_done_callback(lambda done: dispose(done.result()) if _succeeded(done) else None)
        waiting.add_done_callback(_succeeded)  # looks at the exception, which asyncio would complain about otherwise
        raise


def _succeeded(done: Any) -> bool:
    return not done.cancelled() and done.exception() is None


def reply(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """Return a JSON response. Without a charset in its type: docker's client would not take its errors for JSON."""
    body = json.dumps(value, separators=(",", ":")).encode()
    return web.Response(body=body, status=status, headers=headers, content_type="application/json")


def flag(request: web.Request, name: str, default: bool = False) -> bool:
    """Return a boolean parameter: docker takes everything but "", 0, no, false and none as true."""
    value = request.query.get(name)
    return default if value is None else value.strip().lower() not in ("", "0", "no", "false", "none")


_NUMBER = re.compile(r"[+-]?\d{1,19}", re.ASCII)


def number(request: web.Request, name: str) -> int | None:
    """Return an integer parameter, None if it is absent or empty. Raises InvalidParameter."""
    value = request.query.get(name, "")
    if not value:
        return None
    if not _NUMBER.fullmatch(value) or not -NUMBER_LIMIT <= (found := int(value)) < NUMBER_LIMIT:
        raise InvalidParameter(f"invalid value for {name}: {value[:40]!r} is not a number of 64 bits")
    return found


def required(request: web.Request, name: str) -> str:
    """Return a parameter that must be there. Raises InvalidParameter."""
    value = request.query.get(name, "")
    if not value:
        raise InvalidParameter(f"missing parameter {name!r}")
    return value


_TIMESTAMP = re.compile(r"(-?\d{1,12})(?:\.(\d{1,9}))?", re.ASCII)


def timestamp_ns(request: web.Request, name: str) -> int | None:
    """Return a time (`seconds[.fraction]` since the epoch) in nanoseconds, None if it is absent, empty or 0."""
    value = request.query.get(name, "")
    if value in ("", "0"):
        return None
    match = _TIMESTAMP.fullmatch(value)
    if match is None:
        raise InvalidParameter(f"invalid value for {name}: {value!r} is not a time in seconds since the epoch")
    return int(match[1]) * 10**9 + int((match[2] or "").ljust(9, "0"))


def filters(request: web.Request) -> Filters:
    """Return the parameter `filters`: JSON, name -> {value: true} or (older) name -> [value].

    Raises InvalidParameter.
    """
    return parse_filters(request.query.get("filters", ""))


def check(request: web.Request) -> None:
    """Raise InvalidParameter for a path or parameters that no text can be. The middleware calls it for each request."""
    try:
        for text in (*request.match_info.values(), *request.query.keys(), *request.query.values()):
            strict_json.check_text(text)
    except ValueError as err:
        raise InvalidParameter("the request's path or parameters are malformed", why=str(err)) from err


def parse_filters(source: str) -> Filters:
    """Parse docker's filters; see `filters`."""
    if not source:
        return {}
    try:
        given = strict_json.loads(source)
    except ValueError as err:
        raise InvalidParameter("invalid filter", why=str(err)) from err
    if not isinstance(given, dict):
        raise InvalidParameter("invalid filter", why="not a JSON object")
    parsed: dict[str, list[str]] = {}
    for name, values in given.items():
        if isinstance(values, dict) and all(isinstance(wanted, bool) for wanted in values.values()):
            parsed[name] = [value for value, wanted in values.items() if wanted]
        elif isinstance(values, list) and all(isinstance(value, str) for value in values):
            parsed[name] = values
        else:
            expected = "an object of true and false or a list of strings"
            raise InvalidParameter(f"invalid filter {name!r}", why=f"its values are not {expected}")
    return parsed


async def read_body(request: web.Request) -> bytes:
    """Read a small body. Raises InvalidParameter when it is too large, DeadlineExceeded when it does not arrive."""
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return await request.read()
    except TimeoutError as err:
        raise DeadlineExceeded(f"the request's body did not arrive within {BODY_SECONDS:g} s") from err
    except web.HTTPRequestEntityTooLarge as err:
        raise InvalidParameter(f"the request's body is larger than {BODY_BYTES} bytes") from err


async def json_body(request: web.Request, *, optional: bool = False) -> JsonObject:
    """Read a JSON object. Raises InvalidParameter for anything else.

    With `optional` nothing at all is an empty object.
    """
    data = await read_body(request)
    if not data.strip():
        if optional:
            return {}
        raise InvalidParameter("invalid JSON: got EOF while reading request body")
    # As docker's daemon; a page in a browser can send any other type to whatever listens on 127.0.0.1.
    if request.content_type != "application/json":
        given = request.headers.get("Content-Type", "none")
        raise InvalidParameter(f"unsupported Content-Type header ({given}): must be 'application/json'")
    try:
        value = strict_json.loads(data)
    except ValueError as err:
        raise InvalidParameter("invalid JSON", why=str(err)) from err
    if not isinstance(value, dict):
        raise InvalidParameter("invalid JSON", why=f"an object was expected, not {type(value).__name__}")
    return value


def strings(body: JsonObject, key: str) -> dict[str, str]:
    """Return an object of strings of a body; empty if it is absent or null. Raises InvalidParameter."""
    value: Any = body.get(key)
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(v, str) for v in value.values()):
        raise InvalidParameter(f"invalid {key}: an object of strings is expected")
    return dict(value)


def text(body: JsonObject, key: str) -> str:
    """Return a text of a body; empty if it is absent or null. Raises InvalidParameter."""
    value = body.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InvalidParameter(f"invalid {key}: a string is expected")
    return value


def required_text(body: JsonObject, key: str) -> str:
    """Return a text of a body that must be there. Raises InvalidParameter."""
    value = text(body, key)
    if not value:
        raise InvalidParameter(f"missing {key}")
    return value


def registry_auth(request: web.Request) -> dict[str, str] | None:
    """Return docker's AuthConfig from X-Registry-Auth (base64url of JSON), None if there is none or it is empty."""
    header = request.headers.get("X-Registry-Auth", "")
    if not header:
        return None
    try:
        value = strict_json.loads(base64.urlsafe_b64decode(header + "=" * (-len(header) % 4)))
    except (binascii.Error, ValueError) as err:
        raise InvalidParameter("invalid X-Registry-Auth header", why=str(err)) from err
    if not isinstance(value, dict):
        raise InvalidParameter("invalid X-Registry-Auth header", why="not a JSON object")
    return {k: v for k, v in value.items() if isinstance(v, str) and v} or None
