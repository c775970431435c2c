"""Whether anybody is being served: a daemon that was started by itself stops when nobody is."""

from __future__ import annotations

from aiohttp import web
from aiohttp.typedefs import Handler


class Activity:
    """Counts the requests under way, those whose connection was taken over included."""

    def __init__(self) -> None:
        self._requests = 0

    @property
    def busy(self) -> bool:
        """Whether a request is under way."""
        return self._requests > 0

    async def counted(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Call the handler and count it meanwhile."""
        self._requests += 1
        try:
            return await handler(request)
        finally:
            self._requests -= 1


ACTIVITY = web.AppKey("activity", Activity)
