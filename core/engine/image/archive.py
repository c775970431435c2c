"""Archives of images: load (docker-archive and OCI layout, compressed or not) and save (docker-archive).

Nothing of an archive is written to disk under a name that the archive chose: members are only read.
"""

from __future__ import annotations

import hashlib
import io
import json
import posixpath
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

from engine.image import manifest as manifests
from engine.image.compression import CHUNK, DECOMPRESSION_ERRORS, Readable, decompressed
from engine.image.layers import LayerStore
from engine.image.manifest import Descriptor, Platform
from engine.image.metadata import ImageRow, Layer
from engine.image.pull import Reporter
from engine.image.reference import Reference
from engine.spec.errors import EngineError, InvalidParameter
from engine.tarfiles import ShortHeader

_JSON_MAX = 8 << 20
_MEMBERS_MAX = 100_000
_NAME_ANNOTATIONS = ("io.containerd.image.name", "org.opencontainers.image.ref.name")


class Writable(Protocol):
    """The one method that an archive is written with."""

    def write(self, data: bytes, /) -> Any:
        """Take all of `data`."""
        ...


class Loaded(NamedTuple):
    """An image of an archive, its layers being in the store."""

    id: str
    config: bytes
    manifest: bytes | None
    diff_ids: tuple[str, ...]
    names: tuple[Reference, ...]


def spool(source: Readable, scratch: Path) -> Path:
    """Write an archive that comes as a stream, decompressed, to a file: its parts are in any order."""
    path = scratch / "archive"
    try:
        with path.open("wb") as file:
            stream = decompressed(source)
            while data := stream.read(CHUNK):
                file.write(data)
    except DECOMPRESSION_ERRORS as err:
        raise _invalid(str(err) or "its compressed data ends early") from err
    except OSError as err:
        if err.errno is not None:
            raise
        raise _invalid(str(err)) from err  # bz2
    return path


class ImageArchive:
    """A plain tar file with images. A context manager."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> ImageArchive:
        try:
            self._tar = tarfile.open(self._path, "r:", tarinfo=ShortHeader, encoding="utf-8", errors="surrogateescape")
        except tarfile.TarError as err:
            raise _invalid(str(err)) from err
        try:
            self._members = self._named_members()
        except (tarfile.TarError, ValueError) as err:
            self._tar.close()
            raise _invalid(str(err)) from err
        return self

    def _named_members(self) -> dict[str, tarfile.TarInfo]:
        members = {}
        for member in self._tar:
            members[posixpath.normpath(member.name).lstrip("/")] = member
            if len(members) > _MEMBERS_MAX:
                raise _invalid(f"it has more than {_MEMBERS_MAX} members")
        return members

    def __exit__(self, *_: object) -> None:
        self._tar.close()

    def images(self, store: LayerStore, report: Reporter) -> Iterator[Loaded]:
        """Put the layers of every image into the store. To be called within `LayerStore.writing`."""
        try:
            if "manifest.json" in self._members:
                for entry in self._json_list("manifest.json"):
                    yield self._docker_image(entry, store, report)
            elif "index.json" in self._members:
                index = manifests.load_json(self._small("index.json"), "index.json of the archive")
                for entry in index.get("manifests") or ():
                    yield self._oci_image(entry, store, report)
            else:
                raise _invalid("it has neither manifest.json nor index.json")
        except (tarfile.TarError, KeyError, TypeError, AttributeError, RecursionError) as err:
            raise _invalid(f"{type(err).__name__}: {err}") from err

    def _docker_image(self, entry: Any, store: LayerStore, report: Reporter) -> Loaded:
        if not isinstance(entry, dict):
            raise _invalid("manifest.json is not a list of objects")
        config = self._small(entry["Config"])
        _, diff_ids = manifests.parse_config(config)
        paths = entry.get("Layers") or ()
        if len(paths) != len(diff_ids):
            raise _invalid(f"{len(paths)} layers but {len(diff_ids)} diff ids")
        for path, diff_id in zip(paths, diff_ids, strict=True):
            self._layer(str(path), diff_id, "", store, report)
        names = tuple(Reference.parse(name).with_default_tag() for name in entry.get("RepoTags") or ())
        return Loaded(_sha256(config), config, None, diff_ids, names)

    def _oci_image(self, entry: Any, store: LayerStore, report: Reporter) -> Loaded:
        raw = self._blob(Descriptor.of(entry))
        manifest = manifests.load_json(raw, "the image manifest")
        if manifests.is_index(manifest):
            raw = self._blob(manifests.choose(manifest, Platform.host()))
            manifest = manifests.load_json(raw, "the image manifest")
        config_at, layers = manifests.parse_manifest(manifest)
        config = self._blob(config_at)
        _, diff_ids = manifests.parse_config(config)
        if len(layers) != len(diff_ids):
            raise _invalid(f"{len(layers)} layers but {len(diff_ids)} diff ids")
        for layer, diff_id in zip(layers, diff_ids, strict=True):
            self._layer(_blob_path(layer.digest), diff_id, layer.digest, store, report)
        return Loaded(config_at.digest, config, raw, diff_ids, tuple(_oci_names(entry)))

    def _layer(self, path: str, diff_id: str, blob: str, store: LayerStore, report: Reporter) -> None:
        with store.alone(diff_id):
            if store.get(diff_id):
                return
            short, member = diff_id.removeprefix("sha256:")[:12], self._members.get(posixpath.normpath(path))
            if member is None:
                raise _invalid(f"the layer {path!r} is missing")
            file = self._tar.extractfile(member)  # follows links within the archive, as old docker save writes them
            if file is None:
                raise _invalid(f"the layer {path!r} is no file")
            size = self._size(member)
            with file:
                told = _Reported(file, lambda at: report("Loading layer", short, at, size))
                try:
                    store.add(told, diff_id=diff_id, blob=blob)
                except InvalidParameter as err:
                    raise InvalidParameter(f"the archive's layer {short} is refused", why=str(err)) from err

    def _size(self, member: tarfile.TarInfo) -> int:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(member.name), member.linkname))
        linked = self._members.get(target) if member.issym() else None
        return linked.size if linked else member.size

    def _blob(self, descriptor: Descriptor) -> bytes:
        data = self._small(_blob_path(descriptor.digest))
        if _sha256(data) != descriptor.digest:
            raise _invalid(f"its blob {descriptor.digest} is corrupt")
        return data

    def _small(self, path: str) -> bytes:
        member = self._members.get(posixpath.normpath(path))
        file = self._tar.extractfile(member) if member else None
        if member is None or file is None:
            raise _invalid(f"{path!r} is missing")
        data = file.read(_JSON_MAX + 1)  # of the file, which a link's own size does not tell
        if len(data) > _JSON_MAX:
            raise _invalid(f"{path!r} is too large")
        return data

    def _json_list(self, path: str) -> list[Any]:
        try:
            value = json.loads(self._small(path))
        except (ValueError, RecursionError) as err:
            raise _invalid(f"{path}: {err}") from err
        if not isinstance(value, list):
            raise _invalid(f"{path} is not a list")
        return value


def save(
    images: Sequence[tuple[ImageRow, Sequence[Reference]]],
    layers_of: Callable[[str], Sequence[Layer]],
    store: LayerStore,
    out: Writable,
) -> None:
    """Write a docker-archive that docker, podman and skopeo load; layers plain, each once; same input, same bytes."""
    manifest = []
    written: set[str] = set()
    sink: Any = out
    with tarfile.open(fileobj=sink, mode="w|", format=tarfile.PAX_FORMAT, bufsize=CHUNK) as archive:

        def add(name: str, size: int, content: BinaryIO | io.BytesIO) -> None:
            if name not in written:
                written.add(name)
                member = tarfile.TarInfo(name)
                member.size = size
                archive.addfile(member, content)

        for image, names in images:
            layers = layers_of(image.id)
            for layer in layers:
                with store.blob(layer).open("rb") as blob:
                    add(_layer_path(layer), layer.tar_size, decompressed(blob))
            config = image.id.removeprefix("sha256:") + ".json"
            add(config, len(image.config), io.BytesIO(image.config))
            manifest.append(
                {
                    "Config": config,
                    "RepoTags": [name.familiar for name in names] or None,
                    "Layers": [_layer_path(layer) for layer in layers],
                }
            )
        data = json.dumps(manifest).encode()
        add("manifest.json", len(data), io.BytesIO(data))


class _Reported:
    """A stream that tells how far it was read."""

    def __init__(self, source: Readable, tell: Callable[[int], None]) -> None:
        self._source = source
        self._tell = tell
        self._at = 0

    def read(self, size: int = -1, /) -> bytes:
        data = self._source.read(size)
        self._at += len(data)
        self._tell(self._at)
        return data


def _oci_names(entry: dict[str, Any]) -> Iterator[Reference]:
    annotations = entry.get("annotations") or {}
    for key in _NAME_ANNOTATIONS:
        name = annotations.get(key)
        if isinstance(name, str) and (":" in name or "/" in name):  # a bare word is a tag without a repository
            try:
                yield Reference.parse(name).with_default_tag()
            except EngineError:
                continue  # the annotation is free text: it may mean something else
            return


def _layer_path(layer: Layer) -> str:
    return layer.diff_id.removeprefix("sha256:") + "/layer.tar"


def _blob_path(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/")


def _sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _invalid(why: str) -> InvalidParameter:
    return InvalidParameter("this is not a valid image archive", why=why)
