"""Pulling: the manifest, the configuration, then the missing layers in parallel, each unpacked while it arrives."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

from engine.image import manifest as manifests
from engine.image.compression import Readable
from engine.image.layers import LayerStore
from engine.image.manifest import Descriptor, Platform
from engine.image.metadata import Database
from engine.image.model import Progress, ProgressSink
from engine.image.proxy import Blob, BlobProxy
from engine.image.reference import DEFAULT_REGISTRY, Reference
from engine.image.registry import Auth, Registries
from engine.spec.errors import InvalidParameter, NotFound, Unavailable

PARALLEL = 3
"""Layers of one pull that are fetched at a time, as in docker."""
_ATTEMPTS = 3
_CONFIG_MAX = 8 << 20
_REPORT_EVERY = 0.1


class Reporter:
    """Hands progress to the caller's sink, one message at a time, from any thread."""

    def __init__(self, sink: ProgressSink | None) -> None:
        self._sink = sink
        self._lock = threading.Lock()

    def __call__(  # noqa: D102
        self, status: str, id: str = "", current: int | None = None, total: int | None = None
    ) -> None:
        if self._sink is not None:
            with self._lock:
                self._sink(Progress(status, id, current, total))


class Pulled(NamedTuple):
    """A pull's result; `digest` is that of what the name means at the registry (maybe a list of platforms)."""

    id: str
    digest: str


@dataclass(frozen=True)
class _Job:
    descriptor: Descriptor
    diff_id: str


class _Stopped(Exception):
    """Another layer of the same pull failed."""


class Pull:
    """One pull of one reference."""

    def __init__(
        self,
        database: Database,
        store: LayerStore,
        registries: Registries,
        reference: Reference,
        auth: Auth | None,
        report: Reporter,
    ) -> None:
        self._db, self._store, self._registries = database, store, registries
        self._reference, self._auth, self._report = reference, auth, report
        self._stop = threading.Event()

    def run(self, platform: Platform | None) -> Pulled:
        """Pull and store the image (without naming it). To be called within `LayerStore.writing`."""
        reference = self._reference
        self._report(f"Pulling from {_repository(reference)}", reference.tag or reference.digest)
        raw, digest = self._manifest(platform)
        config, layers = manifests.parse_manifest(manifests.load_json(raw, "the image manifest"))
        known = self._db.image(config.digest)
        if known and not known.removed and len(self._db.layers_of(config.digest)) == len(layers):
            for layer in layers:
                self._report("Already exists", layer.short)
        else:
            self._fetch(raw, config, layers, platform)
        self._keep_manifest(config.digest, raw)
        return Pulled(config.digest, digest)

    def _manifest(self, platform: Platform | None) -> tuple[bytes, str]:
        """The manifest of one platform, and the digest that the name stands for."""
        raw = self._registries.manifest(self._reference, self._auth)
        digest = _sha256(raw)
        _check(digest, self._reference.digest)
        for _ in range(3):  # an index may hold indexes
            value = manifests.load_json(raw, "the image manifest")
            if not manifests.is_index(value):
                return raw, digest
            chosen = manifests.choose(value, platform or Platform.host())
            raw = self._registries.manifest(self._reference.at(chosen.digest), self._auth)
            _check(_sha256(raw), chosen.digest)
        raise InvalidParameter(f"cannot pull {self._reference.familiar}", why="its indexes are nested too deeply")

    def _fetch(self, raw: bytes, config: Descriptor, layers: Sequence[Descriptor], platform: Platform | None) -> None:
        pinned = self._reference.at(_sha256(raw))  # the tag may move while we work
        with (
            self._registries.options(pinned.registry, self._auth) as options,
            BlobProxy(pinned, options) as proxy,
        ):
            data = _small_blob(proxy, config)
            values, diff_ids = manifests.parse_config(data)
            if platform and not platform.accepts(values):
                raise NotFound(f"no {self._reference.familiar} for {platform}", why="the image has one platform only")
            if len(diff_ids) != len(layers):
                raise InvalidParameter("the image is invalid", why=f"{len(layers)} layers but {len(diff_ids)} diff ids")
            jobs = [_Job(*pair) for pair in zip(layers, diff_ids, strict=True)]
            missing = [job for job in jobs if not self._present(job)]
            self._fetch_layers(missing, proxy, lambda: BlobProxy(pinned, options))
        self._db.put_image(config.digest, data, raw, diff_ids)

    def _keep_manifest(self, id: str, raw: bytes) -> None:
        row = self._db.image(id)
        if row and row.manifest != raw:
            self._db.put_image(id, row.config, raw, ())

    def _present(self, job: _Job) -> bool:
        present = self._store.get(job.diff_id) is not None
        self._report("Already exists" if present else "Pulling fs layer", job.descriptor.short)
        return present

    def _fetch_layers(self, jobs: list[_Job], first: BlobProxy, another: Callable[[], BlobProxy]) -> None:
        """Fetch in this thread and in up to PARALLEL - 1 others, each with a skopeo of its own."""
        queue = deque(jobs)
        errors: list[BaseException] = []

        def work(proxy: BlobProxy) -> None:
            while queue and not self._stop.is_set():
                try:
                    job = queue.popleft()
                except IndexError:
                    return
                self._fetch_layer(job, proxy)

        def guarded(proxy: BlobProxy | None) -> None:
            try:
                if proxy is not None:
                    work(proxy)
                else:
                    with another() as own:
                        work(own)
            except BaseException as err:  # noqa: BLE001 (kept, and raised below)
                self._stop.set()
                errors.append(err)

        others = min(PARALLEL, len(jobs)) - 1
        with ThreadPoolExecutor(max(others, 1), "image-pull") as pool:
            for _ in range(others):
                pool.submit(guarded, None)
            guarded(first)
        for error in errors:
            if not isinstance(error, _Stopped):
                raise error

    def _fetch_layer(self, job: _Job, proxy: BlobProxy) -> None:
        short = job.descriptor.short
        with self._store.alone(job.diff_id):
            if self._store.get(job.diff_id):  # a parallel pull was faster
                self._report("Already exists", short)
                return
            for attempt in range(1, _ATTEMPTS + 1):
                blob = proxy.blob(job.descriptor.digest, job.descriptor.size)
                try:
                    watched = _Watched(blob, job.descriptor, self._report, self._stop)
                    self._store.add(watched, diff_id=job.diff_id, blob=job.descriptor.digest)
                except InvalidParameter as err:
                    what = f"cannot pull {self._reference.familiar}: its layer {short} is refused"
                    raise InvalidParameter(what, why=str(err)) from err
                except Unavailable:
                    if not blob.broken or attempt == _ATTEMPTS:
                        raise
                    self._report(f"Retrying in {attempt} second{'s'[: attempt - 1]}", short)
                    self._stop.wait(attempt)
                else:
                    break
                finally:
                    blob.close()
        self._report("Pull complete", short)


class _Watched:
    """A blob that reports its progress and ends when the pull was given up."""

    def __init__(self, blob: Blob, descriptor: Descriptor, report: Reporter, stop: threading.Event) -> None:
        self._blob: Readable = blob
        self._descriptor = descriptor
        self._report = report
        self._stop = stop
        self._current = 0
        self._next = 0.0

    def read(self, size: int = -1, /) -> bytes:
        if self._stop.is_set():
            raise _Stopped
        data = self._blob.read(size)
        short, total = self._descriptor.short, self._descriptor.size
        now = time.monotonic()
        if data:
            self._current += len(data)
            if self._current > total:
                raise InvalidParameter("the registry sends more than the manifest says", why=f"that is {total} bytes")
            if now >= self._next:
                self._next = now + _REPORT_EVERY
                self._report("Downloading", short, self._current, total)
        elif self._next != float("inf"):
            self._next = float("inf")
            self._report("Download complete", short)
            self._report("Extracting", short, total, total)
        return data


def _small_blob(proxy: BlobProxy, descriptor: Descriptor) -> bytes:
    if descriptor.size > _CONFIG_MAX:
        raise InvalidParameter("the image configuration is too large", why=f"{descriptor.size} bytes")
    blob = proxy.blob(descriptor.digest, descriptor.size)
    try:
        parts, size = [], 0
        while data := blob.read():
            parts.append(data)
            size += len(data)
            if size > descriptor.size:
                raise InvalidParameter(f"the blob {descriptor.digest} is larger than the manifest says")
    finally:
        blob.close()
    _check(_sha256(b"".join(parts)), descriptor.digest)
    return b"".join(parts)


def _check(found: str, wanted: str) -> None:
    if wanted and found != wanted:
        raise InvalidParameter(f"the registry gave something else for {wanted}", why=f"it has the digest {found}")


def _sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _repository(reference: Reference) -> str:
    return reference.path if reference.registry == DEFAULT_REGISTRY else reference.name
