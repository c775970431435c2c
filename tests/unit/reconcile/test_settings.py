"""Files that are to say the same for ever; ordinary ones do as well as those of /proc/sys."""

from __future__ import annotations

import select
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.reconcile import settings as module
from engine.reconcile.settings import Settings


@pytest.fixture
def settings() -> Iterator[Settings]:
    made = Settings()
    yield made
    made.close()


def told(settings: Settings) -> bool:
    return bool(select.select([settings], [], [], 1)[0]) and settings.changed()


def test_only_other_values_are_told(settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "forwarding"
    path.write_text("1\n")
    settings.keep(path, "1")
    assert not settings.changed()
    path.write_text("1\n")
    assert not told(settings)
    path.write_text("0\n")
    assert told(settings)
    settings.keep(path, "0")
    path.write_text("0\n")
    assert not told(settings)


def test_a_file_that_is_gone_is_no_concern(settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "link"
    settings.keep(path, "1")  # not there yet
    path.write_text("1")
    settings.keep(path, "1")
    path.write_text("0")
    path.unlink()
    assert not told(settings)


def test_what_is_gone_is_forgotten(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MANY", 3)
    for n in range(9):
        path = tmp_path / str(n)
        path.write_text("1")
        settings.keep(path, "1")
        if n != 8:
            path.unlink()
    assert len(settings._watched) <= 3
    path.write_text("0")
    assert told(settings)


def test_a_file_is_held_once_while_it_is_watched(tmp_path: Path) -> None:
    """Of a parameter that nobody holds, the kernel may forget the inode: then changes would not be heard of."""
    path = tmp_path / "forwarding"
    path.write_text("1")

    def held() -> int:
        return [link.resolve() for link in Path("/proc/self/fd").iterdir()].count(path.resolve())

    made = Settings()
    made.keep(path, "0")
    made.keep(path, "1")
    assert held() == 1
    path.write_text("0")
    assert told(made)
    made.close()
    assert held() == 0
