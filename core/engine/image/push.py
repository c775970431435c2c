"""Pushing: the image as a directory that skopeo knows (`dir:`, hard links to our blobs), then `skopeo copy`."""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from engine.image import manifest as manifests
from engine.image import registry
from engine.image.layers import LayerStore
from engine.image.metadata import ImageRow, Layer
from engine.image.pull import Reporter
from engine.image.reference import Reference
from engine.image.registry import Auth, Registries
from engine.spec.errors import DeadlineExceeded

_OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
_MAGIC = {b"\x1f\x8b": "+gzip", b"\x28\xb5": "+zstd"}
_SKIPPED = re.compile(r"Skipping blob (sha256:[0-9a-f]{64}) \(already present\)")
_POLL = 0.1


def push(
    store: LayerStore,
    registries: Registries,
    reference: Reference,
    image: ImageRow,
    layers: Sequence[Layer],
    auth: Auth | None,
    report: Reporter,
) -> str:
    """Push an image to the name `reference`; returns the digest of its manifest at the registry.

    Raises Forbidden, Unavailable; DeadlineExceeded when nothing moves for ten deadlines of `registry`.
    """
    what = f"cannot push {reference.familiar}"
    report(f"The push refers to repository [{reference.name}]")
    with store.scratch() as scratch, registries.options(reference.registry, auth, "dest-") as options:
        layout = scratch / "image"
        stage(layout, store, image, layers)
        digest_file = scratch / "digest"
        argv = ["--debug", "copy", *options, "--digestfile", str(digest_file), f"dir:{layout}", registry.url(reference)]
        _Copy(what, argv, layers, report).run()
        return digest_file.read_text().strip()


def stage(layout: Path, store: LayerStore, image: ImageRow, layers: Sequence[Layer]) -> None:
    """Make a directory of skopeo's transport `dir:` with the image, its blobs hard-linked."""
    layout.mkdir()
    for layer in {layer.diff_id: layer for layer in layers}.values():
        os.link(store.blob(layer), layout / layer.blob.removeprefix("sha256:"))
    (layout / image.id.removeprefix("sha256:")).write_bytes(image.config)
    (layout / "manifest.json").write_bytes(manifest_for(image, layers, [store.blob(layer) for layer in layers]))


def manifest_for(image: ImageRow, layers: Sequence[Layer], blobs: Sequence[Path]) -> bytes:
    """The manifest as it was pulled if we have exactly its blobs, else a new one of the blobs that we have."""
    if image.manifest:
        _, descriptors = manifests.parse_manifest(json.loads(image.manifest))
        if [d.digest for d in descriptors] == [layer.blob for layer in layers]:
            return image.manifest
    return json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": manifests.OCI_MANIFEST,
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": image.id,
                "size": len(image.config),
            },
            "layers": [
                {"mediaType": _OCI_LAYER + _suffix(blob), "digest": layer.blob, "size": layer.blob_size}
                for layer, blob in zip(layers, blobs, strict=True)
            ],
        }
    ).encode()


def _suffix(blob: Path) -> str:
    with blob.open("rb") as file:
        return _MAGIC.get(file.read(2), "")


class _Copy:
    """A running `skopeo copy`. It tells nothing on the way, so the positions in the files that it reads are watched."""

    def __init__(self, what: str, argv: list[str], layers: Sequence[Layer], report: Reporter) -> None:
        self._what, self._argv, self._report = what, argv, report
        self._layers = {layer.blob: layer for layer in layers}
        self._existing: set[str] = set()
        self._last = ""

    def run(self) -> None:
        for layer in self._layers.values():
            self._report("Preparing", _short(layer))
        try:
            process = subprocess.Popen(
                [*registry.command(), *self._argv],
                env=registry.environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
            )
        except FileNotFoundError as err:
            raise registry.no_skopeo(self._what) from err
        assert process.stderr is not None
        reader = threading.Thread(target=self._read_log, args=(process.stderr,), name="image-push", daemon=True)
        reader.start()
        try:
            self._watch(process)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
            reader.join()
            process.stderr.close()
        if process.returncode:
            raise registry.error(self._what, registry.last_message(self._last))
        for layer in self._layers.values():
            self._report("Layer already exists" if layer.blob in self._existing else "Pushed", _short(layer))

    def _read_log(self, log: IO[str]) -> None:
        for line in log:
            if found := _SKIPPED.search(line):
                self._existing.add(found[1])
            self._last = line

    def _watch(self, process: subprocess.Popen[str]) -> None:
        seen: dict[str, int] = {}
        moved = time.monotonic()
        while True:
            try:
                process.wait(_POLL)
            except subprocess.TimeoutExpired:
                pass
            else:
                return
            for blob, position in _positions(process.pid):
                layer = self._layers.get(blob)
                if layer and seen.get(blob) != position:
                    seen[blob], moved = position, time.monotonic()
                    self._report("Pushing", _short(layer), position, layer.blob_size)
            if time.monotonic() - moved > 10 * registry.DEADLINE:
                raise DeadlineExceeded(self._what, why=f"nothing was sent for {10 * registry.DEADLINE:.0f} s")


def _positions(pid: int) -> Iterator[tuple[str, int]]:
    """The blobs that a process has open, and how far it has read them."""
    try:
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            name = descriptor.readlink().name
            if re.fullmatch(r"[0-9a-f]{64}", name):
                info = Path(f"/proc/{pid}/fdinfo/{descriptor.name}").read_text()
                yield f"sha256:{name}", int(info.split("pos:", 1)[1].split()[0])
    except OSError:
        return  # it closed the file, or ended, between two looks


def _short(layer: Layer) -> str:
    return layer.diff_id.removeprefix("sha256:")[:12]
