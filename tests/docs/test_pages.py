"""The pages hold together: links lead somewhere, and the guides' drivers are conformant."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine_sdk.scaffold import create
from engine_sdk.testing.lab import Lab, checks_of

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
_FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(.+)$", re.MULTILINE)
_PYTHON = re.compile(r"^```python ?(?P<what>\w*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)


def links(page: Path) -> Iterator[str]:
    return (m[1] for m in _LINK.finditer(_FENCED.sub("", page.read_text())) if "://" not in m[1])


def anchors(page: Path) -> set[str]:
    """The names that GitHub gives to headings."""
    headings = _HEADING.findall(_FENCED.sub("", page.read_text()))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_every_page_is_found_from_the_readme() -> None:
    found, todo = set(), [ROOT / "README.md"]
    while todo:
        page = todo.pop()
        found.add(page)
        targets = ((page.parent / link.partition("#")[0]).resolve() for link in links(page))
        todo += [t for t in targets if t.suffix == ".md" and t not in found and t not in todo]
    assert [str(p.relative_to(ROOT)) for p in PAGES if p not in found] == []


def blocks(name: str) -> list[tuple[str, str]]:
    text = (ROOT / "docs" / "how-to" / f"{name}.md").read_text()
    return [(m["what"], m["code"]) for m in _PYTHON.finditer(text)]


@pytest.mark.parametrize(
    ("kind", "name", "page"), [("volume", "attic", "write-a-volume-driver"), ("ipam", "stable", "write-an-ipam-driver")]
)
def test_the_driver_of_a_guide(
    kind: str, name: str, page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is quoted is what `engine driver new` writes, and what it is changed to keeps the contract."""
    written = create(kind, name, tmp_path / "new")
    source = next(file for file in written if file.name == "__init__.py")
    text = source.read_text()
    quoted, *changes = blocks(page)
    assert quoted[1] in text
    if [what for what, _ in changes] == ["replace", "by"]:
        assert changes[0][1] in text
        text = text.replace(changes[0][1], changes[1][1])
    else:
        [(_, text)] = changes
    module = f"guide_{kind}"
    (tmp_path / f"{module}.py").write_text(text)
    info = tmp_path / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[engine.{kind}]\n{name} = {module}:{name.capitalize()}Driver\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    lab = Lab(kind, name, {})
    checks = [check for check in checks_of(kind) if check.level == "pure" and "interpreter" not in check.name]
    try:
        outcomes = {check.name: lab.run(check) for check in checks}
    finally:
        lab.close()
    assert {check: o.message for check, o in outcomes.items() if o.outcome not in ("passed", "not declared")} == {}
