"""Reads what a `SecretRef` names, at the moment of use. Nothing is kept."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from engine.spec.errors import Forbidden, InvalidParameter, NotFound, Unavailable
from engine.spec.options import Options
from engine.spec.secret import secret_fields

LARGEST = 1 << 20
"""Bytes of a secret at most: a file that is larger was not meant."""
EngineSecrets = Callable[[str], bytes]
"""Gives the bytes of one of the engine's own secrets; raises NotFound."""


def _no_secrets(name: str) -> bytes:
    raise NotFound(f"there is no secret {name!r}", hint="Use env:NAME or file:/PATH")


class Secrets:
    """Where secrets are read: the environment, files, and the engine's own store of them."""

    def __init__(
        self, *, environ: Mapping[str, str] | None = None, engine_secrets: EngineSecrets = _no_secrets
    ) -> None:
        self._environ = os.environ if environ is None else environ
        self._engine_secrets = engine_secrets

    def read(self, reference: str) -> bytes:
        """Return the bytes of a secret. Raises NotFound, Forbidden or Unavailable, which name the reference only."""
        source, _, name = reference.partition(":")
        if source == "env":
            if name not in self._environ:
                raise NotFound(f"the secret {reference} is not set", hint=f"Set {name} for the engine's process")
            return os.fsencode(self._environ[name])
        if source == "file":
            return _read(Path(name), reference)
        return self._engine_secrets(name)

    def of(self, options: Options) -> dict[str, bytes]:
        """Return the bytes of every secret that the options name, by the option's name."""
        references = {name: getattr(options, name) for name in secret_fields(type(options))}
        return {name: self.read(reference) for name, reference in references.items() if reference is not None}


def _read(path: Path, reference: str) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
    except FileNotFoundError as err:
        raise NotFound(f"the secret {reference} is not there", why=str(err)) from err
    except PermissionError as err:
        raise Forbidden(f"the secret {reference} cannot be read", why=str(err)) from err
    except OSError as err:
        raise Unavailable(f"the secret {reference} cannot be read", why=str(err)) from err
    if len(data) > LARGEST:
        raise InvalidParameter(f"the secret {reference} has more than {LARGEST} bytes")
    return data
