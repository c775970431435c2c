"""Whether a cgroup is frozen, from fixtures of cgroup v1, v2 and hybrid mode."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.runtime import cgroup
from engine.runtime.cgroup import Hierarchy


@pytest.mark.parametrize(
    ("unified", "controllers", "file"),
    [
        (False, {"freezer": "freezer", "": "unified"}, "freezer/c/freezer.self_freezing"),
        (False, {"memory": "memory", "": "unified"}, "unified/c/cgroup.freeze"),
        (True, {}, "c/cgroup.freeze"),
    ],
)
def test_frozen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unified: bool, controllers: dict[str, str], file: str
) -> None:
    places = {name: tmp_path / directory for name, directory in controllers.items()}
    monkeypatch.setattr(cgroup, "hierarchy", lambda: Hierarchy(unified, tmp_path, places))
    assert cgroup.frozen("/c") is None, "there is no such cgroup"
    (tmp_path / file).parent.mkdir(parents=True)
    for text, frozen in (("0\n", False), ("1\n", True)):
        (tmp_path / file).write_text(text)
        assert cgroup.frozen("/c") is frozen
