"""The driver of the how-to guide conforms, as it stands on the page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from engine_sdk.testing.lab import Lab, checks_of

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "write-a-storage-driver.md"

LEFT_OUT = {
    "lists_all_of_many",  # takes seconds, and is tried on all shipped drivers
    "is_unavailable_without_its_server",  # the page's shelf stands in memory
    "is_unavailable_when_its_server_is_silent",
}


@pytest.fixture
def installed(tmp_path, monkeypatch):
    text = PAGE.read_text()
    blocks = dict(re.findall(r"```(python|toml)\n(.*?)```", text, re.DOTALL))
    (tmp_path / "engine_store_shelf.py").write_text(blocks["python"])
    info = tmp_path / "engine_store_shelf-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: engine-store-shelf\nVersion: 1.0\n")
    name, target = re.search(r'(\w+) = "(.*)"', blocks["toml"]).groups()
    (info / "entry_points.txt").write_text(f"[engine.storage]\n{name} = {target}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


def test_the_driver_of_the_page_conforms(installed):
    lab = Lab("storage", installed, {"url": f"{installed}://kit"})
    try:
        outcomes = {check.name: lab.run(check) for check in checks_of("storage") if check.name not in LEFT_OUT}
    finally:
        lab.close()
    assert {name: o.message for name, o in outcomes.items() if o.outcome in ("failed", "not run")} == {}
    assert sum(o.outcome == "passed" for o in outcomes.values()) > 15
