"""Writes docs/reference/contract.md from the docstrings of the contract (`engine.spec`) and of the conformance checks.

python docs/generate_reference.py            write the page
python docs/generate_reference.py --check    exit with 1 if the page is not current
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from engine.spec.resource import Resource
from engine_sdk.testing.lab import KINDS, checks_of

PAGE = Path(__file__).parent / "reference" / "contract.md"
MODULES = {
    "network": "Network drivers",
    "ipam": "IPAM drivers",
    "volume": "Volume drivers",
    "storage": "Storage drivers",
    "resource": "Plans and resources",
    "links": "Resources of networks",
    "firewall": "Resources of the firewall",
    "shim": "The host and children of its links",
    "mounts": "Resources of volumes",
    "trees": "Trees that are kept in stores",
    "encryption": "Resources of encrypted volumes",
    "options": "Options",
    "secret": "Secrets",
    "values": "Values",
    "errors": "Errors",
    "driver": "What all drivers have in common",
    "plugin": "Plugins that are no drivers",
}
"""By module of `engine.spec`, in the order of the page: the title of its section."""
_INTRODUCTION = """\
# The contract

Everything here is imported from `engine_sdk`. This page is made from the source by `docs/generate_reference.py`.
[The tutorial](../tutorials/first-network-driver.md) is a better place to begin.
"""
_TOLD_OTHERWISE = ("kind", "v")
"""Fields of every resource that its author never writes."""


class Member(NamedTuple):
    """A hook, method, property or field of a class."""

    name: str
    signature: str
    text: str
    is_hook: bool = False


class Entry(NamedTuple):
    """A class, function or type of a module."""

    name: str
    signature: str
    text: str
    fields: tuple[Member, ...] = ()
    methods: tuple[Member, ...] = ()
    facts: str = ""


def entries(module: ModuleType) -> Iterator[Entry]:
    """Yield the public things of a module, in the order of the source."""
    body = ast.parse(inspect.getsource(module)).body
    for node, following in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            cls = getattr(module, node.name)
            bases = ", ".join(b for base in node.bases if not (b := ast.unparse(base)).startswith("_"))
            signature = f"class {node.name}({bases})" if bases else f"class {node.name}"
            yield Entry(node.name, signature, _doc(node), tuple(_fields(cls)), tuple(_methods(node)), _facts(cls))
        elif isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            yield Entry(node.name, _signature(node), _doc(node))
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            if name[0].isupper() and not name.isupper() and not name.endswith("T"):
                yield Entry(name, ast.unparse(node), _string(following))


def _methods(node: ast.ClassDef) -> Iterator[Member]:
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and not item.name.startswith("_"):
            if item.name == "requires" and node.name != "Resource":
                continue  # which names a kind refers to is said by its fields
            decorators = {ast.unparse(d).partition("(")[0] for d in item.decorator_list}
            if not any("validator" in decorator for decorator in decorators):
                signature = item.name if "property" in decorators else _signature(item)
                yield Member(item.name, signature, _doc(item), "hookspec" in decorators)


def _fields(cls: type) -> Iterator[Member]:
    """Yield what a value of the class is made of: fields of models, and class variables of drivers."""
    written: dict[str, tuple[ast.AnnAssign, str]] = {}
    for base in reversed(cls.__mro__):
        if base.__module__.startswith("engine.spec."):
            tree = ast.parse(inspect.getsource(base)).body[0]
            assert isinstance(tree, ast.ClassDef)
            for item, following in zip(tree.body, [*tree.body[1:], None], strict=True):
                if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                    text = _string(following) or (written[item.target.id][1] if item.target.id in written else "")
                    written[item.target.id] = (item, text)
    models = cls.model_fields if issubclass(cls, BaseModel) else None
    for name, (item, text) in written.items():
        info = models.get(name) if models is not None else None
        resource = issubclass(cls, Resource)
        if name.startswith("_") or (resource and name in _TOLD_OTHERWISE) or (models is not None and info is None):
            continue
        yield Member(
            name, f"{ast.unparse(item.annotation)}{_default(item, info)}", text or (info and info.description) or ""
        )


def _default(item: ast.AnnAssign, info: FieldInfo | None) -> str:
    """Return ` = VALUE`, and the limits that a call of `Field` sets."""
    if item.value is None:
        return ""
    if not isinstance(item.value, ast.Call) or ast.unparse(item.value.func) != "Field":
        return f" = {ast.unparse(item.value)}"
    known = {
        k.arg: ast.unparse(k.value) for k in item.value.keywords if k.arg not in ("description", "validation_alias")
    }
    default = known.pop("default", None)
    factory = known.pop("default_factory", None)
    shown = f" = {default}" if default else f" = {factory}()" if factory else ""
    limits = ", ".join(f"{name} {value}" for name, value in known.items())
    return shown + (f" ({limits})" if limits else "")


def _facts(cls: type) -> str:
    """Return what the engine knows of a kind of resource besides its fields."""
    if not issubclass(cls, Resource) or not isinstance(cls.model_fields["kind"].default, str):
        return ""
    facts = [f"kind `{cls.model_fields['kind'].default}`", f"key: {', '.join((cls.FAMILY, 'namespace', *cls.ID))}"]
    facts += [f"phase {cls.PHASE}", cls.LIFE, cls.SCOPE]
    if cls.MUTABLE:
        facts.append(f"changed in place: {', '.join(sorted(cls.MUTABLE))}")
    return "; ".join(facts)


def _signature(node: ast.FunctionDef) -> str:
    arguments = re.sub(r"^(self|cls)(, )?", "", ast.unparse(node.args))
    return f"{node.name}({arguments})" + (f" -> {ast.unparse(node.returns)}" if node.returns else "")


def _doc(node: ast.ClassDef | ast.FunctionDef) -> str:
    return ast.get_docstring(node) or ""


def _string(node: ast.stmt | None) -> str:
    """Return the string that stands below a field or a type and documents it."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
        return inspect.cleandoc(node.value.value)
    return ""


def _prose(text: str) -> str:
    """Return a docstring as Markdown: blocks that are indented below a line become blocks of code."""
    return re.sub(
        r"^(\S.*)\n(?=    )", r"\1\n\n", re.sub(r"^(    .*)\n(?=\S)", r"\1\n\n", text, flags=re.M), flags=re.M
    )


def module_of(name: str) -> ModuleType:
    """Return a module of the contract."""
    return importlib.import_module(f"engine.spec.{name}")


def page() -> str:
    """Return the whole page."""
    parts = [_INTRODUCTION]
    for name, title in MODULES.items():
        module = module_of(name)
        parts += [f"## {title}\n", _prose(inspect.cleandoc(module.__doc__ or "")) + "\n"]
        parts += [_shown(entry) for entry in entries(module)]
    parts.append("## Conformance\n")
    options = ", ".join(f"`--{kind}-driver`" for kind in KINDS[1:])
    parts.append(f"What `pytest --network-driver NAME` (or {options}) checks, one by one.\n")
    for kind in KINDS:
        rows = [(f"`{check.name}`", check.level, check.statement) for check in checks_of(kind)]
        parts.append(f"### Checks of {kind} drivers\n\n" + _table(("check", "level", "a conformant driver"), rows))
    return "\n".join(parts).rstrip() + "\n"


def _shown(entry: Entry) -> str:
    lines = [f"### {entry.name}\n", f"```python\n{entry.signature}\n```\n", _prose(entry.text) + "\n"]
    if entry.facts:
        lines.append(f"{entry.facts}\n")
    if entry.fields:
        rows = [(f"`{m.name}`", f"`{m.signature}`", m.text) for m in entry.fields]
        lines.append(_table(("field", "type", "meaning"), rows))
    for method in entry.methods:
        title = "Hook" if method.is_hook else "Method"
        lines.append(f"**{title} `{method.signature}`**\n\n{_prose(method.text)}\n")
    return "\n".join(lines)


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    cells = [tuple(cell.replace("\n", " ").replace("|", "\\|") for cell in row) for row in (head, *rows)]
    lines = [f"| {' | '.join(row)} |" for row in cells]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]]) + "\n"


def main() -> int:
    """Write the page, or tell whether it is current."""
    text = page()
    if sys.argv[1:] == ["--check"]:
        return int(not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text)
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
