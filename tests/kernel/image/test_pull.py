"""Pull, push and login against Debian's docker-registry."""

from __future__ import annotations

import io
import json
import os
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.images import PASSWORD, USER, Registry, Sample, busybox_image, compress, digest, entry, oci_layout, tar

from engine.image.manager import ImageManager
from engine.image.model import Progress
from engine.spec.errors import DeadlineExceeded, Forbidden, InvalidParameter, NotFound, Unavailable

ALICE = {"username": USER, "password": PASSWORD}
LAYERS = (tar([entry("etc/.wh.passwd"), entry("a", b"1")]), tar([entry("b", b"2" * 100_000)]))
IMAGE = busybox_image(LAYERS, Labels={"test": "pull"})


def collect() -> tuple[list[Progress], Callable[[Progress], None]]:
    seen: list[Progress] = []
    return seen, seen.append


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_pull(manager: ImageManager, registry: Registry, compression: str) -> None:
    name = registry.push(IMAGE, f"pull/{compression}:1", compression)
    seen, sink = collect()
    image = manager.pull(name, progress=sink)
    assert image.id == IMAGE.id
    assert image.repo_tags == (name,)
    assert image.labels == {"test": "pull"}
    assert image.layers == tuple(digest(layer) for layer in IMAGE.layers)
    lowers = manager.rootfs(image.id).lower
    assert [sorted(path.name for path in lower.iterdir())[:2] for lower in lowers[:2]] == [["b"], ["a", "etc"]]
    assert (lowers[2] / "bin/busybox").exists()
    assert manager.resolve(image.id[7:19]) == manager.resolve(image.repo_digests[0]) == manager.resolve(name) == image
    _check_progress(seen, [digest(compress(layer, compression))[7:19] for layer in IMAGE.layers])


def _check_progress(seen: list[Progress], layers: list[str]) -> None:
    for layer in layers:
        lines = [line for line in seen if line.id == layer]
        words = list(dict.fromkeys(line.status for line in lines))
        assert words == ["Pulling fs layer", "Downloading", "Download complete", "Extracting", "Pull complete"]
        for line in lines:
            assert (line.current or 0) <= (line.total or 0)
    assert seen[0].status.startswith("Pulling from")
    assert seen[-1].status.startswith("Status: Downloaded newer image")


def test_pulling_again_fetches_nothing(manager: ImageManager, registry: Registry) -> None:
    name = registry.push(IMAGE, "again:1")
    first = manager.pull(name)
    seen, sink = collect()
    assert manager.pull(name, progress=sink) == first
    assert [line.status for line in seen[1:-2]] == ["Already exists"] * 3
    assert seen[-1].status == f"Status: Image is up to date for {name}"


def test_layers_that_are_here_are_not_fetched(manager: ImageManager, registry: Registry) -> None:
    manager.pull(registry.push(IMAGE, "base:1"))
    other = registry.push(busybox_image((*LAYERS, tar([entry("c")]))), "derived:1")
    seen, sink = collect()
    manager.pull(other, progress=sink)
    words = [line.status for line in seen]
    assert words.count("Already exists") == 3
    assert words.count("Pull complete") == 1


def test_a_tag_that_moved_leaves_a_dangling_image(manager: ImageManager, registry: Registry) -> None:
    name = registry.push(IMAGE, "moved:1")
    old = manager.pull(name)
    registry.push(busybox_image(LAYERS, Cmd=["new"]), "moved:1")
    new = manager.pull(name)
    assert manager.resolve(name).id == new.id != old.id
    assert [image.id for image in manager.list({"dangling": ["true"]})] == [old.id]
    assert manager.resolve(old.repo_digests[0]).id == old.id
    pruned = manager.prune()
    assert ("Deleted", old.id) in pruned.removed
    assert manager.resolve(name) == new


def test_pull_by_digest(manager: ImageManager, registry: Registry) -> None:
    name = registry.push(IMAGE, "bydigest:1")
    wanted = manager.pull(name).repo_digests[0]
    manager.remove(name)
    image = manager.pull(wanted)
    assert (image.repo_tags, image.repo_digests) == ((), (wanted,))


def test_an_index_gives_this_machines_platform(manager: ImageManager, registry: Registry, tmp_path: Path) -> None:
    layout = oci_layout(tmp_path / "multi", IMAGE)
    blobs = layout / "blobs/sha256"
    ours = json.loads((layout / "index.json").read_text())["manifests"][0]
    config = json.loads(IMAGE.config)
    platform = {"os": "linux", "architecture": config["architecture"]}
    index = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [{**ours, "annotations": {}, "platform": platform}],
        }
    ).encode()
    (blobs / digest(index)[7:]).write_bytes(index)
    entry_ = {
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "digest": digest(index),
        "size": len(index),
        "annotations": {"org.opencontainers.image.ref.name": "latest"},
    }
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry_]}))
    name = registry.push_from(f"oci:{layout}:latest", "multi:1", "--all")
    image = manager.pull(name)
    assert image.id == IMAGE.id
    assert image.repo_digests[0].endswith(digest(index))
    with pytest.raises(NotFound, match=r"no matching manifest for linux/s390x.*offers linux/"):
        manager.pull(name, platform="linux/s390x")


def test_parallel_pulls_of_one_image(
    manager: ImageManager, registry: Registry, leftovers: Callable[[], list[str]]
) -> None:
    name = registry.push(IMAGE, "parallel:1")
    seen, sink = collect()
    with ThreadPoolExecutor(4) as pool:
        images = list(pool.map(lambda _: manager.pull(name, progress=sink), range(4)))
    assert {image.id for image in images} == {IMAGE.id}
    assert [line.status for line in seen].count("Pull complete") == 3
    assert len([path for path in leftovers() if "/l/" in path]) == 3


def test_a_private_registry(manager: ImageManager, private_registry: Registry) -> None:
    name = private_registry.push(IMAGE, "secret:1")
    for auth in (None, {"username": USER, "password": "wrong"}):
        with pytest.raises(Forbidden, match="engine login"):
            manager.pull(name, auth=auth)
    assert manager.pull(name, auth=ALICE).id == IMAGE.id
    manager.tag(name, f"{private_registry.host}/copy:1")
    with pytest.raises(Forbidden):
        manager.push(f"{private_registry.host}/copy:1")
    manager.push(f"{private_registry.host}/copy:1", auth=ALICE)


def test_login(manager: ImageManager, private_registry: Registry, registry: Registry) -> None:
    assert manager.login(f"http://{private_registry.host}/v2/", USER, PASSWORD) == private_registry.host
    with pytest.raises(Forbidden, match="Check the user name and the password"):
        manager.login(private_registry.host, USER, "wrong")
    with pytest.raises(Unavailable, match="connection refused"):
        manager.login("127.0.0.1:1", USER, PASSWORD)


def test_push_keeps_the_digest(
    manager: ImageManager, registry: Registry, make_manager: Callable[..., ImageManager], tmp_path: Path
) -> None:
    name = registry.push(IMAGE, "pushed:1")
    image = manager.pull(name)
    target = f"{registry.host}/elsewhere/pushed:2"
    manager.tag(name, target)
    seen, sink = collect()
    pushed = manager.push(target, progress=sink)
    assert pushed == image.repo_digests[0].partition("@")[2]
    assert seen[-1].status.startswith(f"2: digest: {pushed}")
    assert make_manager(tmp_path / "other").pull(target).id == image.id


def test_push_of_an_image_that_was_never_pulled(
    manager: ImageManager, registry: Registry, make_manager: Callable[..., ImageManager], tmp_path: Path
) -> None:
    name = f"{registry.host}/imported:1"
    image = manager.import_(io.BytesIO(tar([entry("hello", os.urandom(200_000))])), name, changes=["CMD x"])
    seen, sink = collect()
    manager.push(name, progress=sink)
    assert "Pushed" in [line.status for line in seen]
    again = make_manager(tmp_path / "other").pull(name)
    assert (again.id, again.run["Cmd"]) == (image.id, ["/bin/sh", "-c", "x"])
    seen, sink = collect()
    manager.push(name, progress=sink)
    assert "Layer already exists" in [line.status for line in seen]


@pytest.mark.parametrize("name", ["nope:1", "again:nope"])
def test_what_the_registry_does_not_have(
    manager: ImageManager, registry: Registry, name: str, leftovers: Callable[[], list[str]]
) -> None:
    with pytest.raises(NotFound, match="manifest unknown"):
        manager.pull(f"{registry.host}/{name}")
    assert leftovers() == []


def test_no_registry(manager: ImageManager, leftovers: Callable[[], list[str]]) -> None:
    with pytest.raises(Unavailable, match="connection refused"):
        manager.pull("127.0.0.1:1/x")
    assert leftovers() == []


def test_a_corrupt_blob_leaves_nothing(
    manager: ImageManager, registry: Registry, leftovers: Callable[[], list[str]]
) -> None:
    image = busybox_image((tar([entry("once", os.urandom(500_000))]),))
    name = registry.push(image, "corrupt:1")
    blob = registry.blob(digest(compress(image.layers[1], "gzip")))
    data = bytearray(blob.read_bytes())
    data[len(data) // 2] ^= 0xFF
    blob.write_bytes(data)
    with pytest.raises(InvalidParameter, match="corrupt"):
        manager.pull(name)
    assert leftovers() == []
    blob.write_bytes(data[:1000])
    with pytest.raises((InvalidParameter, Unavailable)):
        manager.pull(name)
    assert leftovers() == []


@pytest.mark.parametrize("layer", [b"this is no tar" * 100, tar([entry("../../x")]), tar([entry("a")])[:300]])
def test_a_bad_layer_leaves_nothing(
    manager: ImageManager, registry: Registry, layer: bytes, leftovers: Callable[[], list[str]]
) -> None:
    name = registry.push(Sample((*IMAGE.layers, layer)), "bad:1")
    with pytest.raises(InvalidParameter, match="the layer"):
        manager.pull(name)
    assert leftovers() == []


def test_a_diff_id_that_is_wrong_leaves_nothing(
    manager: ImageManager, registry: Registry, leftovers: Callable[[], list[str]]
) -> None:
    class Lying(Sample):
        @property
        def config(self) -> bytes:
            value = json.loads(super().config)
            value["rootfs"]["diff_ids"][-1] = digest(b"something else")
            return json.dumps(value).encode()

    name = registry.push(Lying(IMAGE.layers), "lying:1")
    with pytest.raises(InvalidParameter, match="its content does not have the digest"):
        manager.pull(name)
    assert leftovers() == []


def test_a_callback_that_raises_aborts_and_leaves_nothing(
    manager: ImageManager, registry: Registry, leftovers: Callable[[], list[str]]
) -> None:
    class Gone(Exception):
        pass

    def sink(line: Progress) -> None:
        if line.status == "Download complete":
            raise Gone

    with pytest.raises(Gone):
        manager.pull(registry.push(IMAGE, "abort:1"), progress=sink)
    assert leftovers() == []


def test_a_stalled_registry_is_given_up(
    manager: ImageManager, monkeypatch: pytest.MonkeyPatch, leftovers: Callable[[], list[str]]
) -> None:
    monkeypatch.setattr("engine.image.registry.DEADLINE", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(DeadlineExceeded, match="did not answer"):
        manager.pull(f"127.0.0.1:{silent.getsockname()[1]}/x")
    assert leftovers() == []


def test_removal_during_a_pull_keeps_what_the_pull_needs(manager: ImageManager, registry: Registry) -> None:
    base, derived = registry.push(IMAGE, "gc:1"), registry.push(busybox_image((*LAYERS, tar([entry("z")]))), "gc:2")
    manager.pull(base)
    reached, go_on = threading.Event(), threading.Event()

    def sink(line: Progress) -> None:
        if line.status == "Extracting":
            reached.set()
            go_on.wait(20)

    with ThreadPoolExecutor(1) as pool:
        pull = pool.submit(manager.pull, derived, progress=sink)
        assert reached.wait(20)
        manager.remove(base)
        go_on.set()
        image = pull.result(30)
    assert all(lower.is_dir() for lower in manager.rootfs(image.id).lower)
    with pytest.raises(NotFound):
        manager.resolve(base)
