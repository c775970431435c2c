"""`gcs`: Google Cloud Storage, by obstore, because it has compare-and-swap."""

from __future__ import annotations

import json
from collections.abc import Mapping

from engine_sdk import Field, SecretRef, StorageCaps, StorageDriver, Store
from engine_sdk.storage import Endpoint, Location, ObstoreStore, RemoteOptions, Translator

_CAPS = StorageCaps(
    ranged=True,
    put_if=True,
    server_copy=True,
    metadata=True,
    multipart=True,
    versions=True,
    delimiter=True,
    max_key=1024,  # "Objects", Google Cloud Storage: names have 1 to 1024 bytes in UTF-8
)


class GcsOptions(RemoteOptions):
    """Options of a bucket."""

    endpoint_url: Endpoint = Field(default="", description="Server, for tests with an emulator; Google's if empty")
    service_account: SecretRef | None = Field(
        default=None, description="Where the JSON key of a service account is; else the environment's credentials"
    )
    token: SecretRef | None = Field(default=None, description="Where an access token is, instead of an account")
    anonymous: bool = Field(default=False, description="Send no credentials: for public buckets")


class GcsDriver(StorageDriver[GcsOptions]):
    """Keep objects in a bucket of Google Cloud Storage: `gcs://bucket/prefix`."""

    caps = _CAPS
    schemes = ("gcs", "gs")

    def open_store(self, url: str, options: GcsOptions, secrets: Mapping[str, bytes]) -> Store:
        """Make a client; no request is sent."""
        location = Location.parse(url, driver="gcs")
        bucket = location.need_host("bucket", driver="gcs")
        translate = Translator("gcs", secrets.values())
        with translate(f"opening gcs://{bucket}"):
            from obstore.store import GCSStore

            arguments: dict[str, object] = {
                "skip_signature": options.anonymous,
                **ObstoreStore.client_options(options.deadline, allow_http=options.endpoint_url.startswith("http://")),
            }
            if options.endpoint_url:
                arguments["base_url"] = options.endpoint_url
            if "service_account" in secrets:
                arguments["service_account_key"] = secrets["service_account"].decode()
                translate = Translator("gcs", (*secrets.values(), *_private_parts(secrets["service_account"])))
            if "token" in secrets:
                arguments["bearer_token"] = secrets["token"].decode().strip()
            client = GCSStore(bucket, **arguments)  # type: ignore[arg-type]  # a TypedDict cannot be built up
        return ObstoreStore(client, location.path, caps=_CAPS, translate=translate, condition="version")


def _private_parts(key: bytes) -> list[bytes]:
    """Return what must not be seen of a service account's key: a message may quote a part of the JSON."""
    try:
        account = json.loads(key)
    except ValueError:
        return []
    return [str(account[n]).encode() for n in ("private_key", "private_key_id") if n in account]
