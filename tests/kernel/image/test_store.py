"""What a crash, a power failure and a full disk leave; removal, prune and lists."""

from __future__ import annotations

import io
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.deep import nest
from tests.images import Registry, Sample, busybox_image, docker_archive, entry, tar, tmpfs

from engine.events import EventBus
from engine.image.manager import BUILTIN_HOST, ImageManager
from engine.spec.errors import Conflict, Forbidden, InvalidParameter, NotFound, Unavailable

Make = Callable[..., ImageManager]
Leftovers = Callable[[], list[str]]


def loaded(manager: ImageManager, tmp_path: Path, *names: str) -> None:
    for number, name in enumerate(names):
        manager.load(docker_archive(tmp_path / "a.tar", {name: busybox_image(Cmd=[str(number)])}))


def test_everything_is_there_after_a_restart(manager: ImageManager, make_manager: Make, tmp_path: Path) -> None:
    loaded(manager, tmp_path, "a:1", "b:1")
    before = manager.list()
    manager.close()
    assert make_manager().list() == before


def test_collect_removes_what_a_crash_left(
    manager: ImageManager, make_manager: Make, tmp_path: Path, leftovers: Leftovers
) -> None:
    loaded(manager, tmp_path, "a:1")
    manager.close()
    before = leftovers()
    root = tmp_path / "engine" / "image"
    for path in ("tmp/half/fs/etc", "l/half/etc"):
        (root / path).mkdir(parents=True)
    (root / "b" / "half").write_bytes(b"x")
    (root / "tmp" / "half" / "blob").write_bytes(b"x")
    scratch = tmp_path / "engine" / "run" / "image"
    scratch.mkdir(parents=True, exist_ok=True)
    (scratch / "auth-x.json").write_text("{}")
    assert len(leftovers()) > len(before)
    make_manager()
    assert leftovers() == before


def test_a_layer_deeper_than_any_recursion_is_removed_and_left_by_a_crash(
    manager: ImageManager, make_manager: Make, tmp_path: Path, leftovers: Leftovers
) -> None:
    deep = tar([entry("d/" * 1500 + "file", b"x")])
    manager.load(docker_archive(tmp_path / "a.tar", {"deep:1": busybox_image((deep,))}))
    manager.remove("deep:1")
    assert leftovers() == []
    manager.close()
    path = tmp_path / "engine/image/tmp/half"
    path.mkdir()
    nest(path, 3000)
    make_manager()
    assert leftovers() == []


def test_kill_9_amid_pulls_leaves_only_whole_images(tmp_path: Path, make_manager: Make, registry: Registry) -> None:
    images = [busybox_image((tar([entry(f"f{n}", os.urandom(3_000_000))]),)) for n in range(2)]
    names = [registry.push(image, f"kill:{n}") for n, image in enumerate(images)]
    script = (
        "import sys; from pathlib import Path; from engine.image.manager import ImageManager\n"
        "root = Path(sys.argv[1]); m = ImageManager(root / 'image', exec_root=root / 'run'); m.collect()\n"
        "print('ready', flush=True)\n"
        "for name in sys.argv[2:]: m.pull(name); print(name, flush=True)\n"
    )
    for delay in (0.03, 0.12, 0.25):
        root = tmp_path / f"kill-{delay}"
        process = subprocess.Popen([sys.executable, "-c", script, str(root), *names], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        acknowledged = process.stdout.read().split()
        process.wait(10)
        process.stdout.close()
        manager = make_manager(root)
        present = [image for image in manager.list() if not image.builtin]
        assert set(acknowledged) <= {name for image in present for name in image.repo_tags}
        layers = {layer for image in present for layer in image.layers}
        assert len(list((root / "image/l").iterdir())) == len(list((root / "image/b").iterdir())) == len(layers)
        assert list((root / "image/tmp").iterdir()) == []
        assert [manager.pull(name).id for name in names] == [image.id for image in images]


def test_layers_that_may_not_be_on_disk_are_made_again_after_a_power_failure(
    manager: ImageManager, make_manager: Make, tmp_path: Path
) -> None:
    loaded(manager, tmp_path, "a:1")
    image = manager.resolve("a:1")
    (layer,) = manager.rootfs(image.id).lower
    manager.close()
    (layer / "bin/busybox").write_bytes(b"")  # what a power failure does to data that was not synced
    with sqlite3.connect(tmp_path / "engine/image/images.db") as database:
        database.execute("UPDATE layers SET boot = 'an earlier one'")
    database.close()
    again = make_manager()
    assert again.rootfs(image.id).lower == (layer,)
    assert (layer / "bin/busybox").stat().st_size > 100_000


def test_directories_are_known_to_be_on_disk_soon(manager: ImageManager, tmp_path: Path) -> None:
    loaded(manager, tmp_path, "a:1")
    manager.close()
    with sqlite3.connect(tmp_path / "engine/image/images.db") as database:
        assert database.execute("SELECT count(*) FROM layers WHERE boot != ''").fetchone() == (0,)
    database.close()


def test_a_full_disk(tmp_path: Path, make_manager: Make, registry: Registry) -> None:
    big = registry.push(busybox_image((tar([entry("big", os.urandom(6 << 20))]),)), "big:1")
    small = registry.push(busybox_image(), "small:1")
    root = tmp_path / "small"
    root.mkdir()
    with tmpfs(root, "9m"):
        manager = make_manager(root)
        manager.pull(small)
        before = sorted(str(path) for path in (root / "image").rglob("*") if "images.db" not in path.name)
        attempts: list[Callable[[], object]] = [
            lambda: manager.pull(big),
            lambda: manager.import_(io.BytesIO(tar([entry("big", bytes(8 << 20))])), "x:1"),
            lambda: manager.load(archive_with_a_layer_of(tmp_path, 8 << 20)),
        ]
        for attempt in attempts:
            with pytest.raises(Unavailable, match=r"no room.*No space left on device.*prune"):
                attempt()
            assert sorted(str(p) for p in (root / "image").rglob("*") if "images.db" not in p.name) == before
        assert manager.resolve(small).repo_tags == (small,)
        manager.close()


def archive_with_a_layer_of(path: Path, size: int) -> Path:
    return docker_archive(path / "big.tar", {"x:1": busybox_image((tar([entry("big", bytes(size))]),))})


def test_remove_frees_the_layers(manager: ImageManager, tmp_path: Path, leftovers: Leftovers) -> None:
    loaded(manager, tmp_path, "a:1", "b:1")  # two images of one layer
    assert [line.kind for line in manager.remove("a:1")] == ["Untagged", "Deleted"]
    assert len(leftovers()) == 2
    manager.remove("b:1")
    assert leftovers() == []


def test_images_of_containers_are_protected(make_manager: Make, tmp_path: Path, leftovers: Leftovers) -> None:
    users: dict[str, list[tuple[str, bool]]] = {}
    manager = make_manager(in_use=lambda id: users.get(id, []))
    loaded(manager, tmp_path, "a:1")
    image = manager.resolve("a:1")
    users[image.id] = [("web", False)]
    with pytest.raises(Conflict, match="stopped container web"):
        manager.remove(image.id)
    assert manager.prune(all=True).removed == []
    manager.remove(image.id, force=True)
    with pytest.raises(NotFound):
        manager.resolve(image.id)
    assert manager.list() == [manager.resolve(BUILTIN_HOST)]
    assert manager.find(image.id) is not None
    assert (manager.rootfs(image.id).lower[0] / "bin/sh").is_symlink()
    manager.collect()
    assert (manager.rootfs(image.id).lower[0] / "bin/sh").is_symlink()
    users.clear()
    manager.release()
    assert manager.find(image.id) is None
    assert leftovers() == []


def test_pulling_back_an_image_that_was_removed_by_force(make_manager: Make, tmp_path: Path) -> None:
    manager = make_manager(in_use=lambda _: [("web", False)])
    loaded(manager, tmp_path, "a:1")
    id = manager.resolve("a:1").id
    manager.remove(id, force=True)
    loaded(manager, tmp_path, "a:1")
    assert manager.resolve("a:1").id == id


def test_prune(manager: ImageManager, tmp_path: Path) -> None:
    loaded(manager, tmp_path, "a:1", "a:1", "b:1")  # a:1 moves on: its first image dangles
    dangling = manager.list({"dangling": ["true"]})
    assert [image.repo_tags for image in dangling] == [()]
    pruned = manager.prune()
    assert [line.name for line in pruned.removed] == [dangling[0].id]
    assert pruned.space == 0  # its layer is that of the others
    pruned = manager.prune(all=True)
    assert sorted(line.name for line in pruned.removed if line.kind == "Untagged") == ["a:1", "b:1"]
    assert pruned.space > 1_000_000
    assert manager.count() == 1


def test_list_filters(manager: ImageManager, tmp_path: Path) -> None:
    images = {"a:1": busybox_image(Labels={"k": "v"}), "quay.io/x/b:2": busybox_image(Labels={"k": "w", "l": ""})}
    manager.load(docker_archive(tmp_path / "a.tar", images))

    def names(**filters: list[str]) -> list[str]:
        return sorted(name for image in manager.list(filters) for name in image.repo_tags if not image.builtin)

    assert names() == ["a:1", "quay.io/x/b:2"]
    assert names(label=["k"]) == ["a:1", "quay.io/x/b:2"]
    assert names(label=["k=v"]) == ["a:1"]
    assert names(label=["k", "l"]) == ["quay.io/x/b:2"]
    assert names(reference=["a"]) == names(reference=["a:*"]) == ["a:1"]
    assert names(reference=["quay.io/*/b"]) == ["quay.io/x/b:2"]
    assert names(reference=["nope"]) == names(until=["2000-01-01T00:00:00Z"]) == []
    assert names(until=["24h"]) == names(dangling=["false"]) == ["a:1", "quay.io/x/b:2"]
    assert names(since=["a:1"]) == [], "they are equally old"
    for bad in ({"nope": ["x"]}, {"dangling": ["maybe"]}, {"until": ["soon"]}):
        with pytest.raises(InvalidParameter):
            manager.list(bad)


def test_tags(manager: ImageManager, tmp_path: Path) -> None:
    loaded(manager, tmp_path, "a:1", "b:1")
    manager.tag("a:1", "new/name")
    assert manager.resolve("new/name").repo_tags == ("a:1", "new/name:latest")
    manager.tag(manager.resolve("b:1").id[7:20], "a:1")
    assert manager.resolve("a:1") == manager.resolve("b:1")
    with pytest.raises(InvalidParameter):
        manager.tag("a:1", "a@sha256:" + "1" * 64)
    with pytest.raises(NotFound):
        manager.tag("nope", "c:1")


def test_unknown_images_get_a_hint(manager: ImageManager, tmp_path: Path) -> None:
    loaded(manager, tmp_path, "busybox:latest")
    with pytest.raises(NotFound, match=r"^No such image: busybx.*Did you mean busybox\?"):
        manager.resolve("busybx")
    for unknown in ("f" * 64, "sha256:" + "f" * 64, "sha256:ab", "xyz"):
        with pytest.raises(NotFound, match="No such image"):
            manager.resolve(unknown)
    with pytest.raises(InvalidParameter):
        manager.resolve("Bad Name")


def test_the_built_in_image_cannot_be_changed(manager: ImageManager) -> None:
    host = manager.resolve("engine.local/host")
    assert host == manager.resolve(host.id) == manager.resolve(host.id[7:19]) == manager.find(host.id)
    assert host.run["Cmd"] == ["/bin/sh"]
    assert manager.list() == [host]
    assert manager.history(BUILTIN_HOST)[0].id == host.id
    assert manager.pull(BUILTIN_HOST) == host
    attempts: list[Callable[[], object]] = [
        lambda: manager.remove(BUILTIN_HOST, force=True),
        lambda: manager.tag(BUILTIN_HOST, "mine"),
        lambda: manager.tag("x", "engine.local/mine"),
        lambda: manager.push(BUILTIN_HOST),
        lambda: manager.pull("engine.local/other"),
        lambda: manager.import_(io.BytesIO(tar([])), "engine.local/x"),
    ]
    for attempt in attempts:
        with pytest.raises(Forbidden, match=r"built in|reserved"):
            attempt()


def test_events(make_manager: Make, tmp_path: Path) -> None:
    bus = EventBus()
    manager = make_manager(events=bus)
    loaded(manager, tmp_path, "a:1")
    manager.tag("a:1", "b:1")
    manager.remove("a:1")
    past, stop = bus.subscribe(lambda _: None, since_ns=0)
    stop()
    bus.close()
    assert [(event.type, event.action, event.attributes["name"]) for event in past] == [
        ("image", "load", "a:1"),
        ("image", "tag", "b:1"),
        ("image", "untag", "a:1"),
    ]


def test_an_image_without_layers_and_one_with_a_layer_twice(manager: ImageManager, tmp_path: Path) -> None:
    layer = tar([entry("a")])
    manager.load(docker_archive(tmp_path / "a.tar", {"none:1": Sample(()), "twice:1": Sample((layer, tar([]), layer))}))
    (empty,) = manager.rootfs(manager.resolve("none:1").id).lower
    assert list(empty.iterdir()) == []
    twice = manager.rootfs(manager.resolve("twice:1").id).lower
    assert [[path.name for path in lower.iterdir()] for lower in twice] == [["a"], []]


def test_the_root_is_private(manager: ImageManager, tmp_path: Path) -> None:
    assert (tmp_path / "engine/image").stat().st_mode & 0o777 == 0o700


def test_short_ids_that_are_ambiguous(manager: ImageManager, tmp_path: Path) -> None:
    images = {f"many:{n}": busybox_image(Cmd=[str(n)]) for n in range(17)}  # one more than a digit has values
    manager.load(docker_archive(tmp_path / "a.tar", images))
    digits = [image.id[7] for image in images.values()]
    with pytest.raises(Conflict, match="ambiguous"):
        manager.resolve(next(digit for digit in digits if digits.count(digit) > 1))
