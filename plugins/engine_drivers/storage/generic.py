"""`fsspec`: every protocol that an installed fsspec package serves, and fsspec's chained URLs.

It is asked when no other driver has the scheme. What it declares is what all file systems of fsspec can do.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from engine_sdk import (
    Field,
    InvalidParameter,
    SecretRef,
    StorageCaps,
    StorageDriver,
    Store,
    Unsupported,
    field_validator,
)
from engine_sdk.storage import FsspecStore, RemoteOptions, Translator, without_listings_cache

_CAPS = StorageCaps(ranged=True, multipart=True, delimiter=True, hierarchical=True)


class FsspecOptions(RemoteOptions):
    """Options of any fsspec file system."""

    arguments: dict[str, Any] = Field(
        default={}, description='JSON object for the file system: {"host": "h"}; of a chain by protocol: {"ftp": {...}}'
    )
    credentials: SecretRef | None = Field(
        default=None, description="Where a JSON object like `arguments` is, with what must not be seen"
    )
    writable: bool = Field(default=True, description="Allow writes, where the file system can")
    hierarchical: bool = Field(
        default=True, description="There are directories: write under a temporary name, and rename; false: object store"
    )

    @field_validator("arguments", mode="before")
    @classmethod
    def _json(cls, value: object) -> object:
        return json.loads(value) if isinstance(value, str) else value


class FsspecDriver(StorageDriver[FsspecOptions]):
    """Reach whatever fsspec reaches: `ftp://host/path`, `zip://::file:///srv/a.zip`, `simplecache::s3://bucket`."""

    caps = _CAPS
    schemes = ("*",)

    def store_caps(self, url: str, options: FsspecOptions, inner: StorageCaps | None) -> StorageCaps | None:
        """Return what the options say of the file system."""
        update = {
            "writable": options.writable,
            "hierarchical": options.hierarchical,
            "multipart": options.hierarchical,
        }
        return _CAPS.model_copy(update=update)

    def open_store(self, url: str, options: FsspecOptions, secrets: Mapping[str, bytes]) -> Store:
        """Make the file system, or the chain of them, that the URL names."""
        hidden = _credentials(secrets)
        translate = Translator("fsspec", [*secrets.values(), *_texts(hidden)])
        scheme = url.partition("://")[0]
        with translate(f"opening {scheme}://"):
            from fsspec.core import url_to_fs

            arguments = _merged(options.arguments, hidden)
            try:
                fs, path = url_to_fs(url, skip_instance_cache=True, **arguments)
            except (ImportError, ValueError) as err:
                raise Unsupported(f"there is no client for {scheme}://", why=str(err), driver="fsspec") from err
        caps = self.store_caps(url, options, None) or _CAPS
        return FsspecStore(
            without_listings_cache(fs), str(path), caps=caps, translate=translate, deadline=options.deadline
        )


def _credentials(secrets: Mapping[str, bytes]) -> dict[str, Any]:
    if "credentials" not in secrets:
        return {}
    try:
        hidden = json.loads(secrets["credentials"])
    except ValueError:
        hidden = None
    if not isinstance(hidden, dict):
        raise InvalidParameter("what `credentials` names is no JSON object", driver="fsspec")
    return hidden


def _texts(value: object) -> list[bytes]:
    """Return every text in a JSON value: each may be a secret."""
    if isinstance(value, dict):
        return [t for v in value.values() for t in _texts(v)]
    if isinstance(value, list):
        return [t for v in value for t in _texts(v)]
    return [value.encode()] if isinstance(value, str) else []


def _merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Return both objects in one; what both have as an object is merged, too."""
    both = {
        k: _merged(first[k], v) if isinstance(v, dict) and isinstance(first.get(k), dict) else v
        for k, v in second.items()
    }
    return {**first, **both}
