from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.images import Registry

from engine.image.manager import ImageManager


@pytest.fixture(autouse=True)
def _needs_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("layers need root: owners, devices and trusted.* attributes")


@pytest.fixture
def make_manager(tmp_path: Path) -> Iterator[Callable[..., ImageManager]]:
    """Make managers below one root; a second one is what a restarted daemon sees."""
    made: list[ImageManager] = []

    def make(root: Path | None = None, **options: object) -> ImageManager:
        base = root or tmp_path / "engine"
        manager = ImageManager(base / "image", exec_root=base / "run", **options)  # type: ignore[arg-type]
        made.append(manager)
        manager.collect()
        return manager

    yield make
    for manager in made:
        manager.close()


@pytest.fixture
def manager(make_manager: Callable[..., ImageManager]) -> ImageManager:
    return make_manager()


@pytest.fixture(scope="module")
def registry() -> Iterator[Registry]:
    with Registry() as running:
        yield running


@pytest.fixture(scope="module")
def private_registry() -> Iterator[Registry]:
    with Registry(private=True) as running:
        yield running


@pytest.fixture
def leftovers(tmp_path: Path) -> Callable[[], list[str]]:
    """Files and directories of the store that belong to an image or to work in progress: none after a failure."""

    def look() -> list[str]:
        image = tmp_path / "engine" / "image"
        places = [image / "l", image / "b", image / "tmp", tmp_path / "engine" / "run" / "image"]
        return sorted(str(path) for place in places if place.exists() for path in place.iterdir())

    return look
