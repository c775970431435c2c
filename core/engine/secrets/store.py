"""The engine's own secrets: one file for each, readable by root only, below the data root.

They are in no database, no `inspect` and no log. Names and rules are those of docker's secrets (Docker Engine API,
Secret; swarmkit's validation), so that `docker secret create|ls|inspect|rm` manages them.
"""

from __future__ import annotations

import base64
import json
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from engine.durable import sync_directory, write_new_file
from engine.filters import Filters, check_known, labels_match
from engine.spec.errors import Conflict, Internal, InvalidParameter, NotFound
from engine.spec.values import Frozen

LARGEST = 500 << 10
"""Bytes of a secret at most, as in docker."""
_NAME = re.compile(r"[a-zA-Z0-9](?:[a-zA-Z0-9-_.]*[a-zA-Z0-9])?\Z")
_LONGEST_NAME = 64
_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"
Users = Callable[[str], Sequence[str]]
"""Gives the names of what uses a secret, by the secret's name."""


class Secret(Frozen):
    """What may be shown of a secret: all but its bytes."""

    id: str
    """25 characters, as docker's."""
    name: str
    created: str
    """RFC 3339."""
    labels: Mapping[str, str] = {}

    def describe(self) -> dict[str, Any]:
        """Return docker's Secret object, which never has the data."""
        return {
            "ID": self.id,
            "Version": {"Index": 1},
            "CreatedAt": self.created,
            "UpdatedAt": self.created,
            "Spec": {"Name": self.name, "Labels": dict(self.labels)},
        }


class SecretStore:
    """All secrets of one engine. Methods may be called from any thread."""

    def __init__(self, root: Path, users: Users = lambda name: ()) -> None:
        """Take the directory, which is made if need be, and who tells what uses a secret."""
        self._root = root
        self._users = users
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        root.chmod(0o700)

    def create(self, name: str, data: bytes, labels: Mapping[str, str] | None = None) -> Secret:
        """Keep a new secret. Raises InvalidParameter, and Conflict if one of that name is there."""
        if not _NAME.match(name) or len(name) > _LONGEST_NAME:
            raise InvalidParameter(
                f"invalid secret name {name!r}",
                why=f"names have letters, digits, '-', '_', '.'; {_LONGEST_NAME} at most",
            )
        if not 0 < len(data) <= LARGEST:
            raise InvalidParameter(f"secret data must be larger than 0 and at most {LARGEST} bytes")
        secret = Secret(
            id="".join(secrets.choice(_ALPHABET) for _ in range(25)), name=name,
            created=datetime.now(UTC).isoformat().replace("+00:00", "Z"), labels=dict(labels or {}),
        )  # fmt: skip
        document = {**secret.model_dump(mode="json"), "data": base64.b64encode(data).decode()}
        try:
            write_new_file(self._path(name), json.dumps(document).encode())
        except FileExistsError as err:
            raise Conflict(f"a secret named {name} exists", hint="Remove it first: secrets are not changed") from err
        return secret

    def list(self, filters: Filters | None = None) -> Sequence[Secret]:
        """Return all secrets that pass docker's filters `id`, `name` (beginnings), `label`. Raises InvalidParameter."""
        wanted = filters or {}
        check_known(wanted, ("id", "name", "names", "label"))
        starts = tuple(wanted.get("name", ()))
        found = [self._read(path)[0] for path in sorted(self._root.glob("*.json"))]
        return [
            s
            for s in found
            if (not starts or s.name.startswith(starts))
            and (not wanted.get("names") or s.name in wanted["names"])
            and (not wanted.get("id") or s.id.startswith(tuple(wanted["id"])))
            and labels_match(s.labels, wanted)
        ]

    def get(self, ref: str) -> Secret:
        """Return a secret by its id, its name or a unique beginning of its id. Raises NotFound."""
        found = self.list()
        exact = [s for s in found if ref in (s.id, s.name)] or [s for s in found if ref and s.id.startswith(ref)]
        if len(exact) != 1:
            raise NotFound(f"no such secret: {ref}", hint="`engine secret ls` lists them")
        return exact[0]

    def read(self, name: str) -> bytes:
        """Return the bytes of a secret by its name. Raises NotFound. For `engine.storage.secrets.Secrets`."""
        path = self._path(name)
        if not _NAME.match(name) or not path.is_file():
            raise NotFound(f"there is no secret {name!r}", hint=f"Make it: engine secret create {name} FILE")
        return self._read(path)[1]

    def remove(self, ref: str) -> None:
        """Remove a secret. Raises NotFound, and Conflict while something uses it."""
        secret = self.get(ref)
        users = self._users(secret.name)
        if users:
            raise Conflict(f"secret {secret.name} is in use", why=", ".join(users), hint="Remove what uses it first")
        self._path(secret.name).unlink(missing_ok=True)
        sync_directory(self._root)

    def _path(self, name: str) -> Path:
        return self._root / f"{name}.json"

    def _read(self, path: Path) -> tuple[Secret, bytes]:
        try:
            document = json.loads(path.read_bytes())
            data = base64.b64decode(document.pop("data"), validate=True)
            return Secret.model_validate(document), data
        except (ValueError, KeyError, TypeError):  # what is in the file is not repeated: it may be the secret
            raise Internal(
                f"the file of a secret is damaged: {path}", hint="Remove the file, make the secret again"
            ) from None
