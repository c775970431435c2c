"""Removals on a condition by signed requests, on servers of which each does something else with the condition."""

from __future__ import annotations

import contextlib
import hashlib
import html
import logging
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

import pytest

from engine.plugins import Plugins
from engine.spec.errors import Conflict, Forbidden, Unavailable, Unsupported
from engine.spec.storage import Store
from engine.storage.secrets import Secrets
from engine.storage.stores import Stores

KEY = "a key/ü"


class Server(ThreadingHTTPServer):
    """As much of S3 as one object needs. Nothing checks signatures."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[str, bytes] = {}
        self.wrong = self.right = 0
        """Statuses of removals on a wrong and on the right condition, instead of what should be; 0: none."""
        self.busy: list[int] = []
        """Statuses of the next removals on a condition."""
        self.conditions = 0


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _answer(self, status: int, headers: dict[str, str] | None = None, size: int = 0) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(size), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()

    @property
    def _path(self) -> str:
        return unquote(self.path.partition("?")[0])

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.objects[self._path] = data
        self._answer(200, {"ETag": _etag(data)})

    def do_HEAD(self) -> None:
        data = self.server.objects.get(self._path)
        if data is None:
            self._answer(404)
        else:
            facts = {"ETag": _etag(data), "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}
            self._answer(200, facts, len(data))

    def do_POST(self) -> None:
        """Remove without a condition: obstore sends DeleteObjects."""
        text = self.rfile.read(int(self.headers["Content-Length"])).decode()
        removed = re.findall("<Key>.*?</Key>", text)
        for key in removed:
            self.server.objects.pop(f"{self._path}/{html.unescape(key[5:-6])}", None)
        answer = f"<DeleteResult><Deleted>{''.join(removed)}</Deleted></DeleteResult>".encode()
        self._answer(200, {"Content-Type": "application/xml"}, len(answer))
        self.wfile.write(answer)

    def do_DELETE(self) -> None:
        condition, server = self.headers.get("If-Match"), self.server
        data = server.objects.get(self._path)
        status = 204
        if condition:
            server.conditions += 1
            holds = data is not None and condition == _etag(data)
            status = server.busy.pop(0) if server.busy else (server.right if holds else server.wrong or 412) or 204
        if status < 300:
            server.objects.pop(self._path, None)
        self._answer(status)


def _etag(data: bytes) -> str:
    return f'"{hashlib.md5(data).hexdigest()}"'


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


@pytest.fixture
def store(server) -> Iterator[Store]:
    options = {
        "endpoint-url": f"http://127.0.0.1:{server.server_address[1]}",
        "access-key": "env:ACCESS",
        "secret-key": "env:SECRET",
        "deadline": "20",
    }
    stores = Stores(Plugins())
    secrets = Secrets(environ={"ACCESS": "AKIDSIGNED", "SECRET": "a-secret-that-signs"})
    store = stores.open(stores.plan("s3://bucket/prefix", options), secrets)
    yield store
    store.close()


def test_a_removal_on_a_condition(store, server):
    old = store.put(KEY, b"old").etag
    new = store.put(KEY, b"new").etag
    with pytest.raises(Conflict, match="removing 'a key/ü'"):
        store.delete(KEY, if_match=old)
    assert store.head(KEY).etag == new
    store.delete(KEY, if_match=new)
    assert server.objects == {}
    store.delete(KEY, if_match=new)  # the server says 412 of what is not there
    asked = server.conditions
    store.put(KEY, b"again")
    store.delete(KEY, if_match=_etag(b"again"))
    assert server.conditions == asked + 1


@pytest.mark.parametrize(("wrong", "right"), [(204, 204), (501, 501), (403, 403), (412, 412)])
def test_a_server_that_heeds_no_condition_is_found_out_once(store, server, caplog, wrong, right):
    server.wrong, server.right = wrong, right
    etag = store.put(KEY, b"content").etag
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            with pytest.raises(Unsupported, match="on a condition"):
                store.delete(KEY, if_match=etag)
    assert list(server.objects.values()) == [b"content"]
    assert server.conditions == 1 + (wrong == 412)
    assert len([r for r in caplog.records if "looked at before their removal" in r.getMessage()]) == 1
    store.delete(KEY)
    assert server.objects == {}


def test_a_server_that_is_busy_is_asked_again(store, server):
    server.busy = [503, 500]
    store.put(KEY, b"content")
    store.delete(KEY, if_match=_etag(b"content"))
    assert server.objects == {}


def test_a_server_that_is_only_busy_is_not_taken_for_one_that_heeds_none(store, server, monkeypatch):
    monkeypatch.setattr(store._removals, "_deadline", 0.2)
    store.put(KEY, b"content")
    server.busy = [503] * 10
    with pytest.raises(Unavailable, match="answers 503"):
        store.delete(KEY, if_match=_etag(b"content"))
    assert list(server.objects.values()) == [b"content"]
    server.busy = []
    store.delete(KEY, if_match=_etag(b"content"))
    assert server.objects == {}


def test_a_removal_of_which_the_answer_was_lost_is_no_conflict(store, server):
    store.put(KEY, b"content")
    store.put("other", b"1")
    store.delete("other", if_match=_etag(b"1"))
    server.objects.clear()
    server.busy = [503]
    store.delete(KEY, if_match=_etag(b"content"))


@pytest.mark.parametrize(("status", "kind"), [(403, Forbidden), (409, Unavailable), (307, Unavailable)])
def test_other_answers_are_errors_without_the_signed_url(store, server, status, kind):
    store.put("other", b"1")
    store.delete("other", if_match=_etag(b"1"))
    store.put(KEY, b"content")
    server.busy = [status]
    with pytest.raises(kind, match=f"answers {status}") as caught:
        store.delete(KEY, if_match=_etag(b"content"))
    assert not re.search(r"X-Amz|AKIDSIGNED", str(caught.value), re.IGNORECASE)


def test_by_a_proxy_of_the_environment(store, server, monkeypatch):
    with serving() as proxy:
        monkeypatch.setenv("http_proxy", f"http://user:pass@127.0.0.1:{proxy.server_address[1]}")
        monkeypatch.setenv("no_proxy", "")
        store.put(KEY, b"content")
        with pytest.raises(Unsupported):  # what stands for the proxy has none of the server's objects
            store.delete(KEY, if_match=_etag(b"content"))
        assert proxy.conditions == 2
        assert server.conditions == 0


def test_where_none_are_signed():
    stores = Stores(Plugins())
    assert stores.plan("s3://bucket", {}).caps.delete_if
    assert not stores.plan("s3://bucket", {"conditional": "false"}).caps.delete_if
    assert not stores.plan("s3://bucket", {"anonymous": "true"}).caps.delete_if
