"""Lists of objects: a table as docker's, `--quiet`, `--format json`, `--format TEMPLATE`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from engine.cli.render.template import Template

Row = Mapping[str, Any]


def write_columns(headings: Sequence[str], rows: Iterable[Sequence[str]], *, gap: int = 3, least: int = 10) -> None:
    """Print columns, each as wide as its widest cell and a gap, as docker's tables are."""
    lines = [list(headings), *([str(cell).replace("\n", " ") for cell in row] for row in rows)]
    widths = [max(least, max(len(line[n]) for line in lines) + gap) for n in range(len(headings))]
    for line in lines:
        print("".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def write_rows(
    rows: Sequence[Row],
    columns: Mapping[str, str],
    *,
    format: str = "",
    quiet: Callable[[Row], str] | None = None,
) -> None:
    """Print rows in the format that the user asked for.

    `columns` maps a row's field to its heading, for the fields of the default table; rows may have more fields, for
    templates. `quiet` gives the one value that `--quiet` prints.
    """
    if quiet is not None and not format:
        for row in rows:
            print(quiet(row))
        return
    if format == "json":
        for row in rows:
            print(json.dumps(row, default=str, ensure_ascii=False))
        return
    if not format or format == "table":
        write_columns(list(columns.values()), ([row[field] for field in columns] for row in rows))
        return
    if format.startswith("table "):
        _write_table_template(format.removeprefix("table ").strip(), rows, columns)
        return
    template = Template(format)
    for row in rows:
        sys.stdout.write(template.render(row) + "\n")


def _write_table_template(text: str, rows: Sequence[Row], columns: Mapping[str, str]) -> None:
    template = Template(text)
    headings = {name: columns.get(name, _heading(name)) for name in template.fields()}
    cells = [template.render(row).split("\t") for row in [headings, *rows]]
    width = max(len(line) for line in cells)
    first, *others = [line + [""] * (width - len(line)) for line in cells]
    write_columns(first, others)


def _heading(field: str) -> str:
    """Return `RunningFor` as `RUNNING FOR`."""
    words = "".join(" " + c if c.isupper() and n and not field[n - 1].isupper() else c for n, c in enumerate(field))
    return words.upper()


def write_objects(objects: Sequence[Any], format: str) -> None:
    """Print what `inspect` found: JSON, or a template for each."""
    if not format or format == "json":
        if format == "json":
            print(json.dumps(objects, ensure_ascii=False))
        else:
            print(json.dumps(objects, indent=4, ensure_ascii=False))
        return
    template = Template(format)
    for found in objects:
        print(template.render(found))
