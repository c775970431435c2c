"""Installs small distributions for a test: a directory on sys.path with a module and its .dist-info."""

import sys
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest


class Site:
    """A directory on sys.path into which tests install packages."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.modules: list[str] = []

    def install(
        self,
        distribution: str,
        entry_points: str,
        code: str,
        *,
        module: str | None = None,
        version: str = "1.2",
        extras: Iterable[str] = (),
    ) -> None:
        """Install a distribution of one module; entry points are `GROUP NAME ATTRIBUTE` lines."""
        module = module or distribution.replace("-", "_")
        self.modules.append(module)
        (self.path / f"{module}.py").write_text(textwrap.dedent(code))
        info = self.path / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        head = f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n"
        (info / "METADATA").write_text(head + "".join(f"Provides-Extra: {extra}\n" for extra in extras))
        lines = []
        for line in entry_points.strip().splitlines():
            group, name, attribute = line.split()
            lines.append(f"[{group}]\n{name} = {module}{':' + attribute if attribute != '-' else ''}\n")
        (info / "entry_points.txt").write_text("\n".join(lines))


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    path = tmp_path / "site"
    path.mkdir()
    monkeypatch.syspath_prepend(str(path))
    made = Site(path)
    yield made
    for module in made.modules:
        sys.modules.pop(module, None)
