"""Removals on a condition in S3, which obstore has no interface for: it signs the request, and urllib3 sends it.

Amazon S3: "Conditional deletes" of the user guide; RFC 9110, 13.1.1 (If-Match). A signature in the URL covers the host
and no other header, so that If-Match may stand beside it (Signature Version 4, "Authenticating Requests: Using Query
Parameters"). Such URLs are credentials: they are in no error, and urllib3 is asked for no retries, because it would log
them as warnings.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
import urllib.request
from datetime import timedelta
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from engine_sdk.contract import PROBES, Unsupported
from engine_sdk.storage.errors import plain

log = logging.getLogger(__name__)

_OTHER = f'"{"0" * 32}"'
"""An etag that no object has."""
_VALID = timedelta(minutes=15)
"""How long a signed URL may be used: it is used at once, but clocks differ."""
_CONNECTIONS = 32
_BUSY = frozenset({429, 500, 502, 503, 504})
_FIRST_PAUSE = 0.1
"""Seconds before a request is sent again to a server that is busy; each further time twice as long."""


class _Answer(NamedTuple):
    status: int
    text: str

    @property
    def done(self) -> bool:
        return 200 <= self.status < 300


class SignedRemovals:
    """Removes objects of one obstore client. May be called from any thread.

    Many servers that speak S3 ignore If-Match here and would remove blindly. So the first removal writes an object of
    its own, and sees whether a wrong etag keeps it and the right one removes it.
    """

    def __init__(self, client: Any, prefix: str, *, deadline: float) -> None:
        """`deadline` bounds a request, in seconds; objects of our own lie below `prefix`."""
        self._client = client
        self._probe = "/".join(filter(None, (prefix.strip("/"), f"{PROBES}condition-")))
        self._deadline = deadline
        self._lock = threading.Lock()
        self._pool: Any = None
        self._heeded: bool | None = None

    def remove(self, path: str, etag: str) -> bool:
        """Remove the object of an etag; return False if it is another one or, by some servers, if there is none.

        Raises Unsupported if the server heeds no condition (then nothing was removed), and what obstore raises, or
        OSError, for the `Translator`.
        """
        if not self._heeds():
            raise Unsupported("this server cannot remove on a condition")
        answer = self._ask(path, etag)
        if answer.status == 412 or (answer.status == 409 and "ConditionalRequestConflict" in answer.text):
            return False
        if answer.done or (answer.status == 404 and "NoSuchBucket" not in answer.text):
            return True
        raise _error(answer)

    def _heeds(self) -> bool:
        with self._lock:
            if self._heeded is None:
                why = self._try()
                self._heeded = not why
                if why:
                    log.warning("objects are looked at before their removal, and removed without a condition: %s", why)
            return self._heeded

    def _try(self) -> str:
        """Return why conditions cannot be relied on; empty if they can. Raises what says nothing about that."""
        try:
            import urllib3
        except ImportError as err:
            return f"{err}; pip install 'urllib3>=2'"
        import obstore

        path = self._probe + secrets.token_hex(8)
        etag = obstore.put(self._client, path, b"Written to see what a condition does. It may be removed.").get("e_tag")
        removed = False
        try:
            kept = self._ask(path, _OTHER)
            if kept.status != 412:
                return f"the server answers a wrong etag with {kept.status}"
            gone = self._ask(path, etag or _OTHER)
            removed = gone.done
            return "" if removed else f"the server answers the right etag with {gone.status}"
        except urllib3.exceptions.SSLError as err:
            return f"the server's certificate is not trusted: {err}"
        finally:
            if not removed:  # otherwise it is not asked for: buckets may forbid removals without a condition
                obstore.delete(self._client, path)

    def _ask(self, path: str, etag: str) -> _Answer:
        """Send a request; again while the server is busy, within the deadline. Raises OSError and SSLError."""
        import obstore
        import urllib3

        end, pause = time.monotonic() + self._deadline, _FIRST_PAUSE
        while True:
            url = obstore.sign(self._client, "DELETE", path, _VALID)
            if self._pool is None:
                self._pool = _pool(url, self._deadline)
            try:
                said = self._pool.request("DELETE", url, headers={"If-Match": etag}, retries=False, redirect=False)
                answer = _Answer(said.status, said.data.decode(errors="replace"))
                if answer.status not in _BUSY:
                    return answer
                error = _error(answer)
            except urllib3.exceptions.SSLError:
                raise
            except urllib3.exceptions.TimeoutError:
                raise TimeoutError("the server is silent") from None
            except urllib3.exceptions.ProtocolError as err:  # a connection that the server has closed, for example
                error = ConnectionError(str(err))
            except urllib3.exceptions.HTTPError as err:
                raise ConnectionError(str(err)) from None
            if time.monotonic() + pause > end:
                raise error
            time.sleep(pause)
            pause *= 2

    def close(self) -> None:
        """Close the connections."""
        if self._pool is not None:
            self._pool.clear()


def _error(answer: _Answer) -> OSError:
    """Return what an answer means, in terms that the translator knows."""
    kind = {401: PermissionError, 403: PermissionError, 404: FileNotFoundError}.get(answer.status, ConnectionError)
    return kind(f"the server answers {answer.status}: {plain(answer.text)}")


def _pool(url: str, deadline: float) -> Any:
    """Return connections to a server: by the proxy of the environment, as obstore's client does."""
    import urllib3

    arguments: dict[str, Any] = {
        "maxsize": _CONNECTIONS,
        "timeout": urllib3.Timeout(connect=max(1.0, deadline / 3), read=deadline),
    }
    server, proxies = urlsplit(url), urllib.request.getproxies()
    proxy = proxies.get(server.scheme) or proxies.get("all")
    if not proxy or urllib.request.proxy_bypass(server.hostname or ""):
        return urllib3.PoolManager(**arguments)
    parts = urlsplit(proxy)
    if parts.username:
        known = unquote(f"{parts.username}:{parts.password or ''}")
        arguments["proxy_headers"] = urllib3.make_headers(proxy_basic_auth=known)
    return urllib3.ProxyManager(proxy, **arguments)
