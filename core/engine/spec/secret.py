"""Secrets in options: a reference by name, never the secret itself.

Options are stored, shown by `inspect` and written to logs, so that they must not hold a password. A driver declares an
option as `SecretRef`; the operator says where the secret is found; the core reads it at the moment of use, and hands
its bytes to the driver beside the options.
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator

from engine.spec.options import Options

SOURCES = ("env", "file", "secret", "command", "keyslots")
"""Where a secret may be: a variable of the environment, a file, one of the engine's own secrets, what a command writes.

`keyslots:/PATH` is for drivers: what a volume's key slots wrap (`KeySlots`).
"""
_PATHS = ("file", "keyslots")
_ENV = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class SecretSelector:
    """Marks an option that names a secret; its bytes reach the driver as `secrets[OPTION]`."""


def check_reference(value: str) -> str:
    """Return a reference; ValueError, which does not repeat it, if it is none."""
    source, colon, name = value.partition(":")
    if not colon or source not in SOURCES:
        # The value may be the secret itself: it is not repeated.
        raise ValueError("say where the secret is, not what it is: env:NAME, file:/PATH, secret:NAME or command:ARGV")
    if source in _PATHS and not name.startswith("/"):
        raise ValueError(f"{source}: needs an absolute path")
    if source == "command" and not name.startswith("/"):
        raise ValueError("command: needs the absolute path of a program, and its arguments")
    if source in ("env", "secret") and not (_ENV if source == "env" else _NAME).fullmatch(name):
        raise ValueError(f"what follows {source}: is no name")
    if "\0" in name or "\n" in name:
        raise ValueError(f"what follows {source}: is no name")
    return value


SecretRef = Annotated[str, AfterValidator(check_reference), SecretSelector()]
"""Type of an option that names a secret: `env:NAME`, `file:/PATH`, `secret:NAME` (one of the engine's), or
`command:/PROGRAM ARGUMENTS` (what it writes; without a shell)."""


def secret_fields(model: type[Options]) -> tuple[str, ...]:
    """Return the names of the options that name secrets."""
    return tuple(
        name
        for name, field in model.model_fields.items()
        if any(isinstance(m, SecretSelector) for m in _marks(field.metadata, field.annotation))
    )


def _marks(metadata: list[object], annotation: object) -> list[object]:
    """Return the marks of a field, also those of one alternative of a union (`SecretRef | None`)."""
    inner = [m for part in getattr(annotation, "__args__", ()) for m in getattr(part, "__metadata__", ())]
    return [*metadata, *inner]
