"""A registry that breaks off or falls silent amid a layer: a small proxy before the real one misbehaves on demand."""

from __future__ import annotations

import contextlib
import http.server
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator

import pytest
from tests.images import Registry, busybox_image, compress, digest

from engine.image.manager import ImageManager
from engine.image.model import Progress
from engine.spec.errors import DeadlineExceeded, Unavailable

IMAGE = busybox_image()
BLOB = digest(compress(IMAGE.layers[0], "gzip"))


@contextlib.contextmanager
def misbehaving(registry: Registry, how: str, times: int) -> Iterator[str]:
    """Pass requests on, but send half of the layer and then "cut" the connection or "stall", so many times."""
    left = [times]
    released = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            try:
                reply = urllib.request.urlopen(
                    urllib.request.Request(
                        f"http://{registry.host}{self.path}", headers={"Accept": self.headers.get("Accept", "*/*")}
                    ),
                    timeout=10,
                )
            except urllib.error.HTTPError as err:
                reply = err
            with reply:
                data = reply.read()
            self.send_response(reply.status)
            for key in ("Content-Type", "Docker-Content-Digest"):
                if key in reply.headers:
                    self.send_header(key, reply.headers[key])
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.path.endswith(BLOB) and left[0]:
                left[0] -= 1
                self.wfile.write(data[: len(data) // 2])
                self.wfile.flush()
                if how == "stall":
                    released.wait(20)
                self.close_connection = True
            else:
                self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            released.set()
            server.shutdown()
            thread.join()


def test_a_transfer_that_breaks_off_is_tried_again(manager: ImageManager, registry: Registry) -> None:
    registry.push(IMAGE, "flaky:1")
    with misbehaving(registry, "cut", 1) as host:
        assert manager.pull(f"{host}/flaky:1").id == IMAGE.id


def test_a_transfer_that_always_breaks_off_leaves_nothing(
    manager: ImageManager, registry: Registry, leftovers: Callable[[], list[str]]
) -> None:
    registry.push(IMAGE, "flaky:1")
    seen: list[Progress] = []
    with misbehaving(registry, "cut", 1000) as host, pytest.raises(Unavailable):
        manager.pull(f"{host}/flaky:1", progress=seen.append)
    assert any(line.status.startswith("Retrying") for line in seen)
    assert leftovers() == []


def test_a_registry_that_falls_silent_is_given_up(
    manager: ImageManager, registry: Registry, monkeypatch: pytest.MonkeyPatch, leftovers: Callable[[], list[str]]
) -> None:
    registry.push(IMAGE, "flaky:1")
    with misbehaving(registry, "stall", 1000) as host:
        monkeypatch.setattr("engine.image.registry.DEADLINE", 2.0)
        with pytest.raises(DeadlineExceeded, match="stalled"):
            manager.pull(f"{host}/flaky:1")
    assert leftovers() == []
