"""Every error leaves as docker's `{"message": ...}` with its status, and ours beside it for `engine`'s own clients."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.typedefs import Handler

from engine.api import browser, requests, versions
from engine.api.accepting import out_of_descriptors
from engine.api.requests import reply
from engine.spec.errors import EngineError, Internal, Unavailable

log = logging.getLogger(__name__)


def body(error: EngineError) -> dict[str, Any]:
    """Return the JSON of an error: docker's `message`, and `error` with its parts (kind, what, why, hint, driver)."""
    parts = {"kind": error.kind, "what": error.what, "why": error.why, "hint": error.hint, "driver": error.driver}
    return {"message": str(error), "error": {**{k: v for k, v in parts.items() if v}, "details": error.details}}


def response(error: EngineError) -> web.Response:
    """Return the response for an error."""
    return reply(body(error), status=error.status)


def unexpected(error: Exception, request: web.BaseRequest) -> EngineError:
    """Log what no one foresaw, and return the error that the client sees of it."""
    if out_of_descriptors(error):
        log.warning("%s %s: %s", request.method, request.path, error)
        return Unavailable(
            "the engine has no file descriptors left",
            why=str(error),
            hint="Close connections, or raise the daemon's hard limit of open files.",
        )
    log.error("%s %s failed", request.method, request.path, exc_info=error)
    return Internal(
        "the engine failed unexpectedly", why=f"{type(error).__name__}: {error}", hint="See the daemon's log"
    )


class ClientFaults(logging.Filter):
    """Keeps out of aiohttp's log what is the client's doing, for which it logs a traceback each.

    These are requests that are no HTTP, which it has answered by 400, and answers that nobody waits for any more.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether the record is to be logged as it is; one line of debugging stands for those that are not."""
        error = record.exc_info[1] if record.exc_info else None
        if not isinstance(error, (HttpProcessingError, ConnectionError)):
            return True
        log.debug("given up: %s", " ".join(str(error).split()))
        return False


@web.middleware
async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Check who asks and the version, call the handler, and turn what it raises into a response."""
    try:
        browser.check(request)
        versions.check(request)
        requests.check(request)
        return await handler(request)
    except EngineError as err:
        if err.status >= 500:
            log.warning("%s %s: %s", request.method, request.path, err, exc_info=err.__cause__)
        return response(err)
    except web.HTTPNotFound:
        return reply({"message": "page not found"}, status=404)
    except web.HTTPException as err:
        return reply({"message": err.reason.lower()}, status=err.status, headers=_allow(err))
    except asyncio.CancelledError:
        raise  # the client is gone
    except Exception as err:
        if isinstance(err, ConnectionError) and (request.transport is None or request.transport.is_closing()):
            raise  # the client is gone
        return response(unexpected(err, request))


def _allow(error: web.HTTPException) -> dict[str, str]:
    return {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
