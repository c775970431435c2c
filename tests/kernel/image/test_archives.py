"""Load, save, import and commit, with skopeo and podman as judges."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.images import (
    Sample,
    busybox_archive,
    busybox_image,
    digest,
    docker_archive,
    entry,
    oci_archive,
    tar,
)

from engine.image.manager import BUILTIN_HOST, ImageManager
from engine.spec.errors import Forbidden, InvalidParameter, NotFound

Leftovers = Callable[[], list[str]]
TWO = {"app:1": busybox_image(), "quay.io/x/app:2": busybox_image((tar([entry("x")]),), Cmd=["y"])}


def test_load_a_docker_archive(manager: ImageManager, tmp_path: Path) -> None:
    assert manager.load(docker_archive(tmp_path / "a.tar", TWO)) == list(TWO)
    for name, image in TWO.items():
        assert manager.resolve(name).id == image.id


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_load_from_a_stream(manager: ImageManager, tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    data = busybox_archive(tmp_path / "a.tar", "a:1").read_bytes()
    assert manager.load(io.BytesIO(pack(data))) == ["a:1"]


@pytest.mark.parametrize("compression", ["", "gzip", "zstd"])
def test_load_an_oci_archive(manager: ImageManager, tmp_path: Path, compression: str) -> None:
    image = busybox_image()
    assert manager.load(oci_archive(tmp_path / "a.tar", image, "quay.io/a/b:1", compression)) == ["quay.io/a/b:1"]
    assert manager.resolve("quay.io/a/b:1").id == image.id


def test_an_archive_without_names_gives_ids(manager: ImageManager, tmp_path: Path) -> None:
    image = busybox_image()
    assert manager.load(docker_archive(tmp_path / "a.tar", {"": image})) == [image.id]
    assert manager.load(oci_archive(tmp_path / "b.tar", image, "latest")) == [image.id]
    assert manager.resolve(image.id).dangling


def test_load_what_skopeo_and_podman_write(manager: ImageManager, tmp_path: Path) -> None:
    source = busybox_archive(tmp_path / "a.tar", "a:1")
    for transport in ("docker-archive", "oci-archive"):
        out = tmp_path / f"{transport}.tar"
        _skopeo("copy", "-q", f"docker-archive:{source}", f"{transport}:{out}:from/{transport}:1")
        assert manager.load(out) == [f"from/{transport}:1"]


def test_old_archives_link_their_layers(manager: ImageManager, tmp_path: Path) -> None:
    """docker before 25 writes a layer that two images share once, and a symbolic link for the second."""
    image = Sample((tar([entry("a")]),))
    out = tmp_path / "old.tar"
    with tarfile.open(out, "w") as archive:
        for name, data in (("one/layer.tar", image.layers[0]), ("config.json", image.config)):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo("two/layer.tar")
        link.type, link.linkname = tarfile.SYMTYPE, "../one/layer.tar"
        archive.addfile(link)
        manifest = json.dumps([{"Config": "config.json", "RepoTags": ["old:1"], "Layers": ["two/layer.tar"]}]).encode()
        info = tarfile.TarInfo("manifest.json")
        info.size = len(manifest)
        archive.addfile(info, io.BytesIO(manifest))
    assert manager.load(out) == ["old:1"]


def _broken(path: Path) -> dict[str, bytes]:
    image = busybox_image()
    good = docker_archive(path / "good.tar", {"a:1": image}).read_bytes()
    oci = oci_archive(path / "oci.tar", image, "a:1", "").read_bytes()
    at = oci.index(b"root:x:0:0")
    swapped = Sample(image.layers)
    object.__setattr__(swapped, "layers", (tar([entry("b")]),))
    return {
        "text": b"hello" * 1000,
        "empty": b"",
        "cut": good[: len(good) // 2],
        "gzip cut": gzip.compress(good)[:5000],
        "other tar": tar([entry("x", b"y")]),
        "manifest is no JSON": tar([entry("manifest.json", b"{")]),
        "manifest is no list": tar([entry("manifest.json", b"{}")]),
        "no images": tar([entry("manifest.json", b"[]")]),
        "nonsense": tar([entry("manifest.json", b"[1, 2]")]),
        "keys missing": tar([entry("manifest.json", b"[{}]")]),
        "config missing": tar([entry("manifest.json", b'[{"Config": "c", "Layers": []}]')]),
        "escape": tar([entry("manifest.json", b'[{"Config": "../../../etc/passwd", "Layers": []}]')]),
        "layer changed": oci[:at] + b"evil" + oci[at + 4 :],
        "index nonsense": tar([entry("index.json", b'{"manifests": [{"digest": "x"}]}')]),
    }


@pytest.mark.parametrize(
    "name",
    [
        "text",
        "empty",
        "cut",
        "gzip cut",
        "other tar",
        "manifest is no JSON",
        "manifest is no list",
        "no images",
        "nonsense",
        "keys missing",
        "config missing",
        "escape",
        "layer changed",
        "index nonsense",
    ],
)
def test_a_bad_archive_leaves_nothing(manager: ImageManager, tmp_path: Path, name: str, leftovers: Leftovers) -> None:
    with pytest.raises(InvalidParameter):
        manager.load(io.BytesIO(_broken(tmp_path)[name]))
    assert leftovers() == []
    assert manager.count() == 1


def test_all_or_none(manager: ImageManager, tmp_path: Path, leftovers: Leftovers) -> None:
    images = {"good:1": busybox_image(), "bad:1": Sample((tar([entry("../x")]),))}
    with pytest.raises(InvalidParameter, match="leaves its root"):
        manager.load(docker_archive(tmp_path / "a.tar", images))
    assert leftovers() == []


def test_save_is_what_skopeo_and_podman_read(manager: ImageManager, tmp_path: Path) -> None:
    manager.load(docker_archive(tmp_path / "a.tar", TWO))
    out = tmp_path / "saved.tar"
    manager.save(list(TWO), out)
    for name, image in TWO.items():
        full = name if "." in name else f"docker.io/library/{name}"
        raw = json.loads(_skopeo("inspect", "--raw", f"docker-archive:{out}:{full}"))
        assert raw["config"]["digest"] == image.id
    if shutil.which("podman"):
        with tempfile.TemporaryDirectory() as root:  # podman wants a short path
            podman = ["podman", "--root", f"{root}/a", "--runroot", f"{root}/b", "--storage-driver", "vfs"]
            done = subprocess.run([*podman, "load", "-i", out], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        assert "quay.io/x/app:2" in done.stdout


def test_save_and_load_again(manager: ImageManager, make_manager: Callable[..., ImageManager], tmp_path: Path) -> None:
    """Also from compressed blobs, to a stream that can only write, and the same bytes each time."""
    manager.load(oci_archive(tmp_path / "a.tar", TWO["quay.io/x/app:2"], "quay.io/x/app:2", "zstd"))
    manager.tag("quay.io/x/app:2", "quay.io/x/app:3")

    class Pipe:
        def __init__(self) -> None:
            self.parts: list[bytes] = []

        def write(self, data: bytes, /) -> None:
            self.parts.append(bytes(data))

    streams = [Pipe(), Pipe()]
    for stream in streams:
        manager.save(["quay.io/x/app"], stream)
    first, second = (b"".join(stream.parts) for stream in streams)
    assert first == second
    other = make_manager(tmp_path / "other")
    assert other.load(io.BytesIO(first)) == ["quay.io/x/app:2", "quay.io/x/app:3"]
    assert other.resolve("quay.io/x/app:3").id == TWO["quay.io/x/app:2"].id


def test_saved_by_id_has_no_name(
    manager: ImageManager, make_manager: Callable[..., ImageManager], tmp_path: Path
) -> None:
    manager.load(docker_archive(tmp_path / "a.tar", TWO))
    id = TWO["app:1"].id
    manager.save([id], tmp_path / "b.tar")
    assert make_manager(tmp_path / "other").load(tmp_path / "b.tar") == [id]


def test_save_refuses_what_is_not_there(manager: ImageManager, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        manager.save(["nope"], tmp_path / "x.tar")
    with pytest.raises(Forbidden, match="built in"):
        manager.save([BUILTIN_HOST], tmp_path / "x.tar")
    assert not (tmp_path / "x.tar").exists()


def test_import(manager: ImageManager) -> None:
    layer = tar([entry("bin/x", b"1", mode=0o755)])
    changes = ['CMD ["x"]', "ENV A=b"]
    image = manager.import_(io.BytesIO(gzip.compress(layer)), "mine:1", changes=changes, message="hi")
    assert manager.resolve("mine:1") == image
    assert image.run == {"Cmd": ["x"], "Env": ["A=b"]}
    assert image.layers == (digest(layer),)
    assert [(step.comment, step.size) for step in manager.history("mine:1")] == [("hi", 1)]


def test_import_of_what_is_no_tar(manager: ImageManager, leftovers: Leftovers) -> None:
    for data in (b"no tar" * 1000, gzip.compress(os.urandom(10_000))[:5000]):
        with pytest.raises(InvalidParameter):
            manager.import_(io.BytesIO(data), "x:1")
    with pytest.raises(InvalidParameter, match="invalid change"):
        manager.import_(io.BytesIO(tar([])), "x:1", changes=["RUN x"])
    assert leftovers() == []


def test_commit_adds_a_layer(manager: ImageManager, tmp_path: Path) -> None:
    manager.load(busybox_archive(tmp_path / "a.tar", "base:1"))
    base = manager.resolve("base:1")
    layer = tar([entry("etc/.wh.passwd"), entry("new", b"12")])
    image = manager.commit(
        io.BytesIO(layer),
        base,
        "child:1",
        run={**base.run, "User": "u"},
        changes=["LABEL a=b"],
        comment="why",
        author="me",
        created_by="sh",
    )
    assert image.layers == (*base.layers, digest(layer))
    assert image.run == {**base.run, "User": "u", "Labels": {"a": "b"}}
    newest, oldest = manager.history("child:1")
    assert (newest.id, newest.created_by, newest.comment, newest.size) == (image.id, "sh", "why", 2)
    assert (oldest.id, oldest.size) == ("<missing>", base.size)
    manager.remove("base:1")
    assert len(manager.rootfs(image.id).lower) == 2


def _skopeo(*argv: str) -> str:
    command = ["skopeo", "--insecure-policy", *argv]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
