"""What a driver's model of options says, for `engine driver show`, help texts and the API."""

from __future__ import annotations

import inspect
import types
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import AliasChoices
from pydantic.fields import FieldInfo

from engine.plugins.entry import DriverInfo
from engine.plugins.registry import Plugins
from engine.spec.options import ParentSelector


@dataclass(frozen=True)
class OptionRow:
    """One option: its name as it is written in `-o name=value`, and further spellings."""

    name: str
    type: str
    default: str
    required: bool
    description: str
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class DriverDescription:
    """A driver: where it comes from, what it is for, what it can do, and its options."""

    info: DriverInfo
    summary: str
    caps: dict[str, Any]
    options: tuple[OptionRow, ...]
    schema: dict[str, Any]
    """JSON schema of the options."""


def describe(plugins: Plugins, group: str, name: str) -> DriverDescription:
    """Describe a driver. Raises what `Plugins.get` raises."""
    driver = plugins.get(group, name)
    caps = getattr(driver, "caps", None)
    info = next(row for row in plugins.info(group) if row.name == name and row.status == "ok")
    return DriverDescription(
        info=info,
        summary=inspect.cleandoc(type(driver).__doc__ or ""),
        caps={} if caps is None else caps.model_dump(mode="json"),
        options=tuple(_row(option, f) for option, f in driver.options_model.model_fields.items()),
        schema=driver.options_model.model_json_schema(by_alias=False),
    )


def _row(name: str, field: FieldInfo) -> OptionRow:
    alias = field.validation_alias
    choices = alias.choices if isinstance(alias, AliasChoices) else [alias]
    return OptionRow(
        name=name.replace("_", "-"),
        type="host link" if any(isinstance(m, ParentSelector) for m in field.metadata) else _type(field.annotation),
        default="" if field.is_required() or field.default is None else _text(field.default),
        required=field.is_required(),
        description=field.description or "",
        aliases=tuple(c for c in choices if isinstance(c, str) and c != name),
    )


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _type(annotation: Any) -> str:
    """Return a type in words for people: `bridge | private`, `integer`."""
    origin = get_origin(annotation)
    if origin is Literal:
        return " | ".join(str(value) for value in get_args(annotation))
    if origin is Annotated:
        return _type(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return " | ".join(_type(a) for a in get_args(annotation) if a is not type(None))
    words = {int: "integer", str: "text", bool: "true | false", float: "number"}
    return words.get(annotation, getattr(annotation, "__name__", str(annotation)))
