"""Requests that a browser makes for somebody's page: refused before any handler sees them.

Whoever speaks with the API is root on this host, and every page that is looked at on this host can make its browser
send requests to 127.0.0.1, though it cannot read the answers: forms, images, `fetch` without a preflight, WebSockets.
A page can also read the answers when its own name begins to resolve to 127.0.0.1 (DNS rebinding). Three facts tell
such requests from those of docker's clients, and a page can forge none of them:

- a browser says for which page it asks (`Origin`, `Sec-Fetch-Site`);
- in a rebinding the header `Host` is a name of the public DNS that is not this host's;
- only a preflight, which nobody answers here, lets a page send the type `application/json`
  (`engine.api.requests.json_body` takes no other).
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Collection
from urllib.parse import urlsplit

from aiohttp import web

from engine.spec.errors import Forbidden

NAMES = web.AppKey("names", set[str])
"""Names under which the API is served: those of the hosts that the daemon was told to listen on."""
_NOT_PUBLIC = (".localhost", ".internal")
"""Ends of names that no public DNS server can answer (RFC 6761; `.internal` is reserved for private use)."""


def check(request: web.Request) -> None:
    """Raise Forbidden for a request on behalf of a page, or for a name that is not this host's."""
    host = request.headers.get("Host", "")
    origin = request.headers.get("Origin")
    if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
        raise Forbidden(f"a page of {origin!r} may not use this engine", why="its origin is not the engine's own")
    site = request.headers.get("Sec-Fetch-Site", "none")
    if site not in ("none", "same-origin"):
        raise Forbidden("a page may not use this engine", why=f"a browser asked for it ({site})")
    # Neither a unix socket nor the certificate of another name is within reach of a page.
    names: set[str] = request.app[NAMES]
    if _is_plain_tcp(request) and not _is_ours(host, names):
        raise Forbidden(
            f"this engine is not called {host!r}",
            why="a name of the public DNS that leads here can be a page's trick (DNS rebinding)",
            hint="Use the address, the host's own name, or start the daemon with -H tcp://NAME:PORT",
        )


def _is_plain_tcp(request: web.Request) -> bool:
    transport = request.transport
    return (
        transport is not None
        and transport.get_extra_info("sslcontext") is None
        and isinstance(transport.get_extra_info("sockname"), tuple)
    )


def _is_ours(host: str, names: Collection[str]) -> bool:
    """Whether a `Host` header is an address, or a name that no stranger can make lead here."""
    try:
        name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return False
    if "." not in name or name.endswith(_NOT_PUBLIC) or name in names or name == socket.gethostname().lower():
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
