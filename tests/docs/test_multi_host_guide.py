"""What the guide to drivers of networks that span hosts shows is in the driver that the tests of third parties run."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "tests" / "third_party" / "engine-net-hostroutes"


def test_its_code_is_that_of_the_tested_driver() -> None:
    guide = (ROOT / "docs" / "how-to" / "write-a-multi-host-driver.md").read_text()
    driver = next(PACKAGE.glob("src/*/__init__.py")).read_text() + (PACKAGE / "pyproject.toml").read_text()
    blocks = re.findall(r"```(?:python|toml)\n(.*?)```", guide, re.DOTALL)
    assert len(blocks) == 4
    assert [block for block in blocks if block not in driver] == []
