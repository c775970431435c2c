"""URLs of stores. A password in one is refused: URLs are stored and shown."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from engine_sdk.contract import InvalidParameter


class Location(NamedTuple):
    """The parts of `scheme://user@host:port/path`."""

    scheme: str
    host: str
    """Server, bucket or container; empty in `file:///srv`."""
    port: int | None
    user: str
    path: str
    """Without slashes at its ends, percent-encoding undone."""

    @classmethod
    def parse(cls, url: str, *, driver: str) -> Location:
        """Split a URL. Raises InvalidParameter for a malformed one, for a password, a query or a fragment in it."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as err:
            raise InvalidParameter("the URL is malformed", driver=driver, why=str(err)) from err
        if parts.password is not None:
            raise InvalidParameter(
                f"the URL of {parts.scheme}://{parts.hostname} has a password",
                driver=driver,
                why="URLs are stored and shown by inspect",
                hint="Give it by an option that names a secret; see: engine driver show " + driver,
            )
        if parts.query or parts.fragment:
            raise InvalidParameter("a store's URL has no ? and no #", driver=driver, hint="Write %3F and %23")
        host = parts.netloc.rpartition("@")[2]
        if port is not None:
            host = host.rpartition(":")[0]
        return cls(parts.scheme, host.strip("[]"), port, unquote(parts.username or ""), unquote(parts.path).strip("/"))

    def need_host(self, what: str, *, driver: str) -> str:
        """Return the host part; InvalidParameter, which says what it stands for, if there is none."""
        if not self.host:
            raise InvalidParameter(f"the URL names no {what}", driver=driver, hint=f"Write {self.scheme}://{what}/path")
        return self.host
