"""The subset of Go's text/template that docker's users write after --format.

Fields (`.A.B`), `$`, variables, pipes, `if/else if/else`, `range/else`, `with`, comments, `{{-` and `-}}`, strings,
numbers, and the functions of docker's CLI: json, join, split, lower, upper, title, pad, truncate, index, len, print,
printf, println, eq, ne, lt, le, gt, ge, and, or, not. Grammar: https://pkg.go.dev/text/template.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from engine.cli.errors import Failure, did_you_mean

_ACTION = re.compile(r"\{\{(-\s)?(.*?)(\s-)?\}\}", re.DOTALL)
_TOKEN = re.compile(
    r"""\s*(?:(?P<string>"(?:\\.|[^"\\])*"|`[^`]*`)|(?P<number>-?\d+(?:\.\d+)?)|(?P<variable>\$\w*)"""
    r"""|(?P<field>\.\w+|\.)|(?P<name>\w+)|(?P<mark>:=|[|(),=]))""",
)


def _bad(text: str, cause: str) -> Failure:
    return Failure(f"invalid --format template {text!r}: {cause}")


def go_text(value: Any) -> str:
    """Return a value as Go's %v prints it."""
    if value is None:
        return "<no value>"
    if value is True or value is False:
        return str(value).lower()
    if isinstance(value, Mapping):
        return "map[" + " ".join(f"{k}:{go_text(v)}" for k, v in sorted(value.items())) + "]"
    if isinstance(value, list | tuple):
        return "[" + " ".join(go_text(v) for v in value) + "]"
    return str(value)


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, default=str)


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        if value is None:
            return None
        value = value.get(key) if isinstance(value, Mapping) else value[int(key)]
    return value


def _printf(form: str, *values: Any) -> str:
    rest = list(values)

    def one(found: re.Match[str]) -> str:
        if found[2] == "%":
            return "%"
        value = rest.pop(0) if rest else "%!" + found[2] + "(MISSING)"
        if found[2] in "vs":
            return f"%{found[1]}s" % go_text(value)
        return json.dumps(go_text(value)) if found[2] == "q" else f"%{found[1]}{found[2]}" % value

    return re.sub(r"%([-+0-9.]*)([a-zA-Z%])", one, form)


def _truth(value: Any) -> bool:
    return bool(value)


def _and(*values: Any) -> Any:
    return next((v for v in values if not _truth(v)), values[-1])


def _or(*values: Any) -> Any:
    return next((v for v in values if _truth(v)), values[-1])


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "json": _json,
    "join": lambda values, separator: separator.join(go_text(v) for v in values or ()),
    "split": lambda text, separator: text.split(separator),
    "lower": lambda text: go_text(text).lower(),
    "upper": lambda text: go_text(text).upper(),
    "title": lambda text: go_text(text).title(),
    "pad": lambda text, before, after: " " * int(before) + text + " " * int(after),
    "truncate": lambda text, length: text[: int(length)],
    "index": _index,
    "len": lambda value: len(value or ()),
    "print": lambda *values: "".join(go_text(v) for v in values),
    "println": lambda *values: " ".join(go_text(v) for v in values) + "\n",
    "printf": _printf,
    "eq": lambda value, *others: any(value == other for other in others),
    "ne": lambda value, other: value != other,
    "lt": lambda value, other: value < other,
    "le": lambda value, other: value <= other,
    "gt": lambda value, other: value > other,
    "ge": lambda value, other: value >= other,
    "and": _and,
    "or": _or,
    "not": lambda value: not _truth(value),
}


@dataclass
class _Scope:
    dot: Any
    variables: dict[str, Any]


@dataclass
class _Term:
    """A value: a kind, its text, and the fields taken from it."""

    kind: str
    value: Any
    path: list[str] = field(default_factory=list)


@dataclass
class _Pipeline:
    declares: list[str]
    stages: list[list[_Term]]


@dataclass
class _Block:
    keyword: str
    pipeline: _Pipeline
    body: list[Any] = field(default_factory=list)
    otherwise: list[Any] = field(default_factory=list)


class Template:
    """A parsed template."""

    def __init__(self, text: str) -> None:
        """Parse. Raises Failure."""
        self._text = text.replace("\\t", "\t").replace("\\n", "\n")
        self._nodes = self._parse()

    # Parsing

    def _parse(self) -> list[Any]:
        root: list[Any] = []
        stack: list[tuple[_Block | None, list[Any]]] = [(None, root)]
        at, trim = 0, False
        for found in _ACTION.finditer(self._text):
            before = self._text[at : found.start()]
            before = before.lstrip() if trim else before
            stack[-1][1].append(before.rstrip() if found[1] else before)
            at, trim = found.end(), bool(found[3])
            self._action(found[2].strip(), stack)
        rest = self._text[at:]
        if "{{" in rest:
            raise _bad(self._text, "an action is not closed by }}")
        stack[-1][1].append(rest.lstrip() if trim else rest)
        if len(stack) > 1:
            raise _bad(self._text, "an {{end}} is missing")
        return root

    def _action(self, text: str, stack: list[tuple[_Block | None, list[Any]]]) -> None:
        keyword, _, rest = text.partition(" ")
        if text.startswith("/*"):
            return
        if keyword in ("if", "range", "with"):
            block = _Block(keyword, self._pipeline(rest))
            stack[-1][1].append(block)
            stack.append((block, block.body))
        elif keyword == "else":
            owner = stack[-1][0]
            if owner is None or stack[-1][1] is owner.otherwise:
                raise _bad(self._text, "an {{else}} without its {{if}}")
            stack[-1] = (owner, owner.otherwise)
            if rest.strip().startswith("if "):  # else if: a nested block that the same {{end}} closes
                nested = _Block("if", self._pipeline(rest.strip()[3:]))
                owner.otherwise.append(nested)
                stack[-1] = (nested, nested.body)
        elif keyword == "end":
            if len(stack) == 1:
                raise _bad(self._text, "an {{end}} too many")
            stack.pop()
        else:
            stack[-1][1].append(self._pipeline(text))

    def _tokens(self, text: str) -> list[tuple[str, str, bool]]:
        """Return (kind, text, whether blanks came before)."""
        tokens, at = [], 0
        while at < len(text.rstrip()):
            found = _TOKEN.match(text, at)
            if found is None or found.lastgroup is None:
                raise _bad(self._text, f"unexpected {text[at:].strip()[:1]!r}")
            tokens.append((found.lastgroup, found[found.lastgroup], found.start(found.lastgroup) > at or at == 0))
            at = found.end()
        return tokens

    def _pipeline(self, text: str) -> _Pipeline:
        tokens = self._tokens(text)
        if not tokens:
            raise _bad(self._text, "an action is empty")
        declares: list[str] = []
        marks = [n for n, token in enumerate(tokens) if token[1] in (":=", "=") and token[0] == "mark"]
        if marks:
            declares = [token[1] for token in tokens[: marks[0]] if token[0] == "variable"]
            tokens = tokens[marks[0] + 1 :]
        stages, rest = self._stages(tokens)
        if rest:
            raise _bad(self._text, f"unexpected {rest[0][1]!r}")
        return _Pipeline(declares, stages)

    def _stages(self, tokens: list[tuple[str, str, bool]]) -> tuple[list[list[_Term]], list[tuple[str, str, bool]]]:
        stages: list[list[_Term]] = [[]]
        while tokens and tokens[0][1] != ")":
            (kind, text, apart), *tokens = tokens
            if kind == "mark" and text == "|":
                stages.append([])
            elif kind == "mark" and text == "(":
                inner, tokens = self._stages(tokens)
                if not tokens:
                    raise _bad(self._text, "a ) is missing")
                tokens = tokens[1:]
                stages[-1].append(_Term("nested", _Pipeline([], inner)))
            elif kind == "field" and text != "." and not apart and stages[-1]:
                stages[-1][-1].path.append(text[1:])
            else:
                stages[-1].append(self._term(kind, text))
        if not all(stages):
            raise _bad(self._text, "a command is missing beside |")
        return stages, tokens

    def _term(self, kind: str, text: str) -> _Term:
        if kind == "field":
            return _Term("dot", None, [text[1:]] if text != "." else [])
        if kind == "string":
            return _Term("value", text[1:-1] if text[0] == "`" else json.loads(text))
        if kind == "number":
            return _Term("value", float(text) if "." in text else int(text))
        if kind == "variable":
            return _Term("variable", text)
        if text in ("true", "false"):
            return _Term("value", text == "true")
        if text == "nil":
            return _Term("value", None)
        if kind != "name":
            raise _bad(self._text, f"unexpected {text!r}")
        if text not in _FUNCTIONS:
            raise _bad(self._text, f"function {text!r} is not known{did_you_mean(text, _FUNCTIONS)}")
        return _Term("function", text)

    # Evaluating

    def render(self, dot: Any) -> str:
        """Return the text for a value. Raises Failure where a field does not exist."""
        return "".join(self._run(self._nodes, _Scope(dot, {"$": dot})))

    def _run(self, nodes: Sequence[Any], scope: _Scope) -> Iterator[str]:
        for node in nodes:
            if isinstance(node, str):
                yield node
            elif isinstance(node, _Pipeline):
                value = self._evaluate(node, scope)
                if node.declares:
                    scope.variables[node.declares[0]] = value
                else:
                    yield go_text(value)
            else:
                yield from self._block(node, scope)

    def _block(self, block: _Block, scope: _Scope) -> Iterator[str]:
        value = self._evaluate(block.pipeline, scope)
        names = block.pipeline.declares
        if block.keyword == "range":
            items = _items(value)
            for key, item in items:
                given = dict(zip(names if len(names) > 1 else ["", *names], (key, item), strict=False))
                yield from self._run(block.body, _Scope(item, {**scope.variables, **given}))
            if not items:
                yield from self._run(block.otherwise, scope)
            return
        inner = _Scope(scope.dot, {**scope.variables, **dict.fromkeys(names, value)})
        if not _truth(value):
            yield from self._run(block.otherwise, inner)
        elif block.keyword == "with":
            yield from self._run(block.body, _Scope(value, inner.variables))
        else:
            yield from self._run(block.body, inner)

    def _evaluate(self, pipeline: _Pipeline, scope: _Scope) -> Any:
        last: list[Any] = []
        for stage in pipeline.stages:
            head, *arguments = stage
            if head.kind != "function":
                if arguments or last:
                    raise _bad(self._text, "only a function takes arguments")
                last = [self._value(head, scope)]
                continue
            given = [self._value(term, scope) for term in arguments] + last
            try:
                last = [_FUNCTIONS[head.value](*given)]
            except (TypeError, ValueError, IndexError, AttributeError, KeyError) as err:
                raise _bad(self._text, f"{head.value}: {err}") from err
        return last[0]

    def _value(self, term: _Term, scope: _Scope) -> Any:
        if term.kind == "value":
            return term.value
        if term.kind == "nested":
            value = self._evaluate(term.value, scope)
        elif term.kind == "variable":
            if term.value not in scope.variables:
                raise _bad(self._text, f"variable {term.value} is not defined")
            value = scope.variables[term.value]
        elif term.kind == "function":
            value = _FUNCTIONS[term.value]()
        else:
            value = scope.dot
        for name in term.path:
            value = self._field(value, name)
        return value

    def _field(self, value: Any, name: str) -> Any:
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise _bad(self._text, f"{name!r} is asked of a value that has no fields: {go_text(value)[:60]}")
        if name in value:
            return value[name]
        lowered = {str(key).lower(): key for key in value}
        if name.lower() in lowered:
            return value[lowered[name.lower()]]
        if any(str(key)[:1].isupper() for key in value) and name[:1].isupper():
            raise _bad(self._text, f"there is no field {name!r}{did_you_mean(name, map(str, value))}")
        return None

    def fields(self) -> list[str]:
        """Return the top-level fields that the template names, for a table's headings."""
        names: list[str] = []

        def visit(nodes: Sequence[Any]) -> None:
            for node in nodes:
                if isinstance(node, _Block):
                    visit([node.pipeline, *node.body, *node.otherwise])
                elif isinstance(node, _Pipeline):
                    for stage in node.stages:
                        names.extend(term.path[0] for term in stage if term.kind == "dot" and term.path)
                        visit([term.value for term in stage if term.kind == "nested"])

        visit(self._nodes)
        return list(dict.fromkeys(names))


def _items(value: Any) -> list[tuple[Any, Any]]:
    if isinstance(value, Mapping):
        return sorted(value.items())
    if isinstance(value, int) and not isinstance(value, bool):
        return [(n, n) for n in range(value)]
    return list(enumerate(value or ()))
