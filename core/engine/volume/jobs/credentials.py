"""The secrets that jobs need: those of a URL's store, and the password of a repository."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Mapping
from typing import Any, Protocol

from engine.plugins import Plugins
from engine.spec.errors import Conflict, Forbidden, NotFound
from engine.spec.secret import secret_fields
from engine.storage.secrets import Secrets
from engine.storage.stores import Stores

BACKUP_KEY = "volume-backup"
"""The engine's secret that repositories are made with when the operator names no password."""


class EngineSecrets(Protocol):
    """What jobs need of the engine's secrets."""

    def read(self, name: str) -> bytes:
        """Return the bytes of a secret; raises NotFound."""

    def create(self, name: str, data: bytes, labels: Mapping[str, str] | None = None) -> Any:
        """Keep a new secret; raises Conflict."""


class JobCredentials:
    """Reads what a job names by reference, at the moment at which its process starts."""

    def __init__(self, plugins: Plugins, engine_secrets: EngineSecrets, reader: Secrets | None) -> None:
        self._stores, self._engine_secrets = Stores(plugins), engine_secrets
        self._reader = reader or Secrets(engine_secrets=engine_secrets.read)

    def of(self, args: Mapping[str, Any]) -> dict[str, str]:
        """Return the secrets of a job with these arguments, in base64, by reference.

        Raises NotFound, Forbidden, Unavailable.
        """
        references: list[str] = []
        if "url" in args:
            plan = self._stores.plan(args["url"], args["options"])
            for part in plan.parts:
                found = [getattr(part.options, name) for name in secret_fields(type(part.options))]
                references += [r for r in found if r is not None]
        if "password" in args:
            references.append(args["password"])
        given = {r: self._reader.read(r) for r in references}
        if "password" in args and not given[args["password"]].strip():
            raise Forbidden("the password of the repository is empty")
        return {reference: base64.b64encode(secret).decode() for reference, secret in given.items()}

    def backup_key(self) -> str:
        """Return the reference of the engine's own key for repositories, which is made at the first time."""
        try:
            self._engine_secrets.read(BACKUP_KEY)
        except NotFound:
            try:
                self._engine_secrets.create(BACKUP_KEY, secrets.token_urlsafe(32).encode())
            except Conflict:
                pass  # somebody else made it at the same moment
        return f"secret:{BACKUP_KEY}"

    def show_backup_key(self) -> str:
        """Return the engine's own key: what a stock restic asks for. Raises NotFound if there is none."""
        return self._engine_secrets.read(BACKUP_KEY).decode()
