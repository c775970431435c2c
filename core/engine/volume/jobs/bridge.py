"""restic's REST protocol over a store: restic writes wherever a storage driver reaches, and keeps no credentials.

Source: restic documentation, "REST Backend", API version 2. Objects lie as restic's own backends lay them out
(references/design: "Repository Layout"), so that a stock restic reads what was written.
"""

from __future__ import annotations

import base64
import errno
import hashlib
import hmac
import json
import logging
import re
import secrets
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

from engine.spec.errors import EngineError, NotFound, Unavailable
from engine.spec.storage import ABSENT, Store

log = logging.getLogger(__name__)

_TYPES = ("data", "keys", "locks", "snapshots", "index")
_NAME = re.compile(r"[0-9a-f]{64}")
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")
_CHUNK = 1 << 20
PATIENCE_SECONDS = 60.0
"""How long a store that cannot be reached is asked again; restic's own limit is 15 minutes."""


def key_of(path: str) -> str | None:
    """Return the store's key of a path of the protocol: `/data/ab12…` lies at `data/ab/ab12…`; None if it is none."""
    parts = path.strip("/").split("/")
    if parts == ["config"]:
        return "config"
    if len(parts) != 2 or parts[0] not in _TYPES or not _NAME.fullmatch(parts[1]):
        return None
    kind, name = parts
    return f"data/{name[:2]}/{name}" if kind == "data" else f"{kind}/{name}"


class Bridge:
    """A server on the loopback address, for one client that knows the password."""

    def __init__(self, store: Store, notes: Path) -> None:
        """`notes` is a file that outlives this process: it names the locks that restic took through us."""
        self.store = store
        self._notes = notes
        self.failure: EngineError | None = None
        """Why the store does not do what restic wants, once that will not change."""
        self.sent = self.received = 0
        """Bytes from the store and to it."""
        self._token = secrets.token_hex(16)
        self._failing_since: dict[str, float] = {}
        self.last: EngineError | None = None
        """The last failure, final or not."""
        self._lock = threading.Lock()
        handler = type("_BoundHandler", (_Handler,), {"bridge": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True)

    def __enter__(self) -> Bridge:
        self._remove_locks()  # of a process that was killed: restic may take its id for that of one that lives
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._remove_locks()

    def note_lock(self, key: str) -> None:
        """Write down, before it is there, that restic takes a lock."""
        with self._lock, self._notes.open("a") as file:
            file.write(f"{key}\n")

    def _remove_locks(self) -> None:
        """Remove all locks that were taken through us: who took them has ended."""
        if self._notes.exists():
            for key in self._notes.read_text().split():
                try:
                    self.store.delete(key)
                except EngineError as err:
                    log.warning("a lock of ours stays in the repository: %s", err)
                    return
            self._notes.unlink()

    @property
    def url(self) -> str:
        """The repository's URL for restic, with the password."""
        return f"rest:http://engine:{self._token}@127.0.0.1:{self._server.server_address[1]}/"

    def admits(self, header: str) -> bool:
        """Tell whether a request has the password."""
        expected = "Basic " + base64.b64encode(f"engine:{self._token}".encode()).decode()
        return hmac.compare_digest(header.encode(errors="replace"), expected.encode())

    def count(self, *, sent: int = 0, received: int = 0) -> None:
        """Note that bytes went through, so that the store works."""
        with self._lock:
            self.sent += sent
            self.received += received
            self._failing_since.pop("POST" if received else "GET", None)

    def note(self, method: str, error: EngineError) -> None:
        """Note a failure: one that time may heal becomes final when it lasts."""
        with self._lock:
            self.last = error
            cause = error.__cause__
            full = isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
            if isinstance(error, Unavailable) and not full:
                since = self._failing_since.setdefault(method, time.monotonic())
                if time.monotonic() - since < PATIENCE_SECONDS:
                    log.info("the store does not answer, and is asked again: %s", error)
                    return
            self.failure = self.failure or error


class _Handler(BaseHTTPRequestHandler):
    bridge: ClassVar[Bridge]
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: names of objects tell nobody anything."""

    def do_HEAD(self) -> None:
        """Tell the size of an object."""
        self._answer(self._head)

    def do_GET(self) -> None:
        """Read an object, or list a type."""
        self._answer(self._get)

    def do_POST(self) -> None:
        """Write an object, or make the repository (where nothing has to be made)."""
        self._answer(self._post)

    def do_DELETE(self) -> None:
        """Remove an object."""
        self._answer(self._delete)

    def _answer(self, method: Any) -> None:
        if not self.bridge.admits(self.headers.get("Authorization", "")):
            self.close_connection = True  # a body that nobody reads may follow
            self._send(401)
            return
        try:
            method(urlsplit(self.path).path)
        except NotFound:
            self._send(404)
        except EngineError as err:
            self.bridge.note(self.command, err)
            self.close_connection = True
            self._send(500)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _send(self, status: int, data: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _head(self, path: str) -> None:
        key = key_of(path)
        found = self.bridge.store.head(key) if key else None
        if found is None:
            self._send(404)
        else:
            self._send(200, headers={"Content-Length": str(found.size)})

    def _get(self, path: str) -> None:
        key = key_of(path)
        if key is None:
            self._list(path.strip("/"))
            return
        span = _RANGE.fullmatch(self.headers.get("Range", ""))
        if span is None:
            data = self.bridge.store.get(key)
        else:
            data = self.bridge.store.get(key, int(span[1]), int(span[2]) + 1 if span[2] else None)
        self.bridge.count(sent=len(data))
        self._send(200 if span is None else 206, data, {"Content-Type": "application/octet-stream"})

    def _list(self, kind: str) -> None:
        if kind not in _TYPES:
            self._send(404)
            return
        found = [
            {"name": name, "size": stat.size}
            for stat in self.bridge.store.list(f"{kind}/")
            if _NAME.fullmatch(name := stat.key.rpartition("/")[2])
        ]
        version2 = "application/vnd.x.restic.rest.v2"
        self._send(200, json.dumps(found).encode(), {"Content-Type": version2})

    def _post(self, path: str) -> None:
        key = key_of(path)
        if key is None:
            created = path.strip("/") == "" and "create=true" in urlsplit(self.path).query
            self._send(200 if created else 404)
            return
        digest = hashlib.sha256()
        name = key.rpartition("/")[2]
        wrong: list[str] = []

        def body() -> Iterator[bytes]:
            left = int(self.headers.get("Content-Length", "0"))
            while left:
                piece = self.rfile.read(min(left, _CHUNK))
                if not piece:
                    wrong.append("it broke off")
                    raise ConnectionError("it broke off")
                digest.update(piece)
                left -= len(piece)
                yield piece
            if key != "config" and digest.hexdigest() != name:
                wrong.append("its content is another one than its name says")
                raise ValueError(wrong[0])  # nothing is written: pieces that raise make no object

        if key.startswith("locks/"):
            self.bridge.note_lock(key)
        condition = ABSENT if key == "config" and self.bridge.store.caps.put_if else None
        try:
            stat = self.bridge.store.put_stream(key, body(), if_match=condition)
        except Exception:
            if not wrong:
                raise
            log.info("an upload of %s is refused: %s", key, wrong[0])
            self.close_connection = True
            self._send(400)
            return
        self.bridge.count(received=stat.size)
        self._send(200)

    def _delete(self, path: str) -> None:
        key = key_of(path)
        if key is None:
            self._send(404)
            return
        self.bridge.store.delete(key)  # without a condition: a name is of one content, and nobody writes over it
        self._send(200)
