"""The API's versions: each path exists with and without the prefix `/v1.NN`, which a client chooses after `/_ping`."""

from __future__ import annotations

import re
from collections.abc import Iterator

from aiohttp import web
from aiohttp.web_urldispatcher import _InfoDict
from yarl import URL

from engine.spec.errors import InvalidParameter

CURRENT = (1, 44)
"""What we speak, and what a request without prefix means."""
OLDEST = (1, 24)

_PREFIX = re.compile(r"/v(\d{1,3})\.(\d{1,3})(?=/)", re.ASCII)


def text(version: tuple[int, int]) -> str:
    """Return a version as clients write it, such as "1.44"."""
    return f"{version[0]}.{version[1]}"


def of(request: web.BaseRequest) -> tuple[int, int]:
    """Return the version that a request is written in."""
    match = _PREFIX.match(request.path)
    return (int(match[1]), int(match[2])) if match else CURRENT


def check(request: web.BaseRequest) -> None:
    """Raise InvalidParameter, in the words of docker's daemon, for a version that we do not speak."""
    version = of(request)
    if version > CURRENT:
        raise InvalidParameter(
            f"client version {text(version)} is too new. Maximum supported API version is {text(CURRENT)}"
        )
    if version < OLDEST:
        raise InvalidParameter(
            f"client version {text(version)} is too old. Minimum supported API version is {text(OLDEST)}, "
            "please upgrade your client to a newer version"
        )


class VersionPrefix(web.AbstractResource):
    """Looks the path up again without its version prefix: one table of routes serves all versions.

    The request itself keeps its path, from which `of` reads the version.
    """

    def __init__(self, router: web.UrlDispatcher) -> None:
        super().__init__()
        self._router = router

    @property
    def canonical(self) -> str:
        """The path under which the router finds us: everything that nothing else answers."""
        return "/"

    async def resolve(self, request: web.Request) -> tuple[web.UrlMappingMatchInfo | None, set[str]]:
        """Find the handler, or the methods that the path allows."""
        prefix = _PREFIX.match(request.path)
        if prefix is None:
            return None, set()
        bare = URL.build(path=request.rel_url.raw_path[prefix.end() :], encoded=True)
        if _PREFIX.match(bare.path) is not None:
            return None, set()
        match = await self._router.resolve(request.clone(rel_url=bare))
        error = match.http_exception
        if error is None:
            return match, set()
        return None, error.allowed_methods if isinstance(error, web.HTTPMethodNotAllowed) else set()

    def url_for(self, **parts: str) -> URL:
        """Not a page of its own."""
        raise NotImplementedError

    def add_prefix(self, prefix: str) -> None:
        """Refused: the version is the first part of a path."""
        raise NotImplementedError

    def get_info(self) -> _InfoDict:
        """Describe the resource."""
        return {"path": self.canonical}

    def raw_match(self, path: str) -> bool:
        """Whether this is that resource, for routes that are added to an existing one: never."""
        return False

    def __len__(self) -> int:
        return 0

    def __iter__(self) -> Iterator[web.AbstractRoute]:
        return iter(())
