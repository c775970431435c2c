"""Images that were made to hurt: each is refused with a sentence that names what is refused, and nothing is left."""

from __future__ import annotations

import gzip
import io
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.images import Sample, docker_archive, entry, symlink, tar

from engine.image import unpacking
from engine.image.manager import ImageManager
from engine.image.manifest import Descriptor
from engine.image.pull import _Watched
from engine.spec.errors import InvalidParameter

Leftovers = Callable[[], list[str]]


def extension(kind: bytes, data: bytes, size: int | None = None) -> bytes:
    """A header that says something of the next one, as it comes."""
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = kind, len(data) if size is None else size
    return header.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % 512)


DIGITS = b"1" * 900_000
LAYERS: dict[str, bytes] = {
    "a name of 4 GiB": extension(tarfile.GNUTYPE_LONGNAME, b"x" * 4096, 4 << 30) + bytes(1 << 20),
    "attributes of 2 MiB": extension(tarfile.XHDTYPE, b"x" * (2 << 20)) + tar([entry("f")]),
    "a megabyte of digits": extension(tarfile.XHDTYPE, DIGITS) + tar([entry("f")]),
    "a link to a name of 2 MiB": extension(tarfile.GNUTYPE_LONGLINK, b"x" * (2 << 20)) + tar([entry("f")]),
    "a time out of range": tar([entry("f", mtime=1e300)]),
    "an owner out of range": tar([entry("f", uid=1 << 60)]),
    "a size below nothing": tar([entry("f", pax_headers={"size": "-1"})]),
    "a path that is too long": tar([entry("x/" * 3000 + "f")]),
    "directories in a file": tar([entry("f"), entry("f/g/h")]),
    "an unknown type": tar([entry("f", kind=b"Z", pax_headers={"path": "f"})])[:-1024] + extension(b"8", b""),
    "a window of 2 GiB": b"\x28\xb5\x2f\xfd\x00\xa8" + bytes(4096),
    "an unending xz": b"\xfd7zXZ\0\0\x04\xe6\xd6\xb4\x46\x02\x00\x21\x01\x28\x00\x00\x00\x00\x00\x00" + bytes(4096),
    "bzip2 of nothing": b"BZh9" + bytes(4096),
}


@pytest.mark.parametrize("what", LAYERS)
def test_a_hostile_layer_is_refused_by_its_name(
    manager: ImageManager, tmp_path: Path, leftovers: Leftovers, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(unpacking, "CPU_SECONDS", 2)
    image = Sample((LAYERS[what],))
    with pytest.raises(InvalidParameter) as refused:
        manager.load(docker_archive(tmp_path / "a.tar", {"hostile:1": image}))
    assert "layer" in refused.value.what
    assert refused.value.why
    assert leftovers() == []


ARCHIVES: dict[str, bytes] = {
    "a name of 4 GiB": gzip.compress(extension(tarfile.GNUTYPE_LONGNAME, b"", 4 << 30) + bytes(4 << 20)),
    "digits": extension(tarfile.XHDTYPE, DIGITS) + tar([entry("manifest.json", b"[]")]),
    "a link to itself": tar([symlink("manifest.json", "manifest.json")]),
    "a link around": tar([symlink("manifest.json", "x"), symlink("x", "manifest.json")]),
    "a large file by a link": tar([symlink("manifest.json", "x"), entry("x", b"[" * (9 << 20))]),
    "brackets": tar([entry("manifest.json", b"[" * (1 << 20))]),
}


@pytest.mark.parametrize("what", ARCHIVES)
def test_a_hostile_archive_is_refused(manager: ImageManager, leftovers: Leftovers, tmp_path: Path, what: str) -> None:
    with pytest.raises(InvalidParameter):
        manager.load(io.BytesIO(ARCHIVES[what]))
    assert leftovers() == []


def test_a_blob_that_is_larger_than_the_manifest_says_is_cut_off() -> None:
    class Endless:
        def read(self, size: int = -1, /) -> bytes:
            return b"x" * 1000

    descriptor = Descriptor("sha256:" + "0" * 64, 2500, "")
    blob: Any = Endless()
    watched = _Watched(blob, descriptor, lambda *_: None, threading.Event())
    with pytest.raises(InvalidParameter, match="2500 bytes"):
        while watched.read():
            pass
