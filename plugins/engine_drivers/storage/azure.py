"""`azure`: Azure Blob Storage, by obstore, because it has compare-and-swap."""

from __future__ import annotations

from collections.abc import Mapping

from engine_sdk import (
    Field,
    InvalidParameter,
    SecretRef,
    StorageCaps,
    StorageDriver,
    Store,
)
from engine_sdk.storage import Endpoint, Location, ObstoreStore, RemoteOptions, Translator

_CAPS = StorageCaps(
    ranged=True,
    put_if=True,
    server_copy=True,
    metadata=True,
    multipart=True,
    versions=True,
    delimiter=True,
    max_key=1024,  # "Naming and referencing containers, blobs, and metadata", Azure Storage: 1024 characters
)


class AzureOptions(RemoteOptions):
    """Options of a container of blobs."""

    account: str = Field(default="", description="Name of the storage account; else AZURE_STORAGE_ACCOUNT_NAME")
    endpoint_url: Endpoint = Field(default="", description="Server with the account, http://127.0.0.1:10000/NAME")
    account_key: SecretRef | None = Field(default=None, description="Where the account's key is")
    sas_token: SecretRef | None = Field(default=None, description="Where a shared access signature is")
    token: SecretRef | None = Field(default=None, description="Where an access token is")
    anonymous: bool = Field(default=False, description="Send no credentials: for public containers")


class AzureDriver(StorageDriver[AzureOptions]):
    """Keep objects in a container of Azure Blob Storage: `azure://container/prefix`."""

    caps = _CAPS
    schemes = ("azure", "az")

    def open_store(self, url: str, options: AzureOptions, secrets: Mapping[str, bytes]) -> Store:
        """Make a client; no request is sent."""
        location = Location.parse(url, driver="azure")
        container = location.need_host("container", driver="azure")
        if location.user:
            raise InvalidParameter("an azure URL is azure://container/prefix", driver="azure", hint="-o account=NAME")
        translate = Translator("azure", secrets.values())
        with translate(f"opening azure://{container}"):
            from obstore.store import AzureStore

            arguments: dict[str, object] = {
                "skip_signature": options.anonymous,
                **ObstoreStore.client_options(options.deadline, allow_http=options.endpoint_url.startswith("http://")),
            }
            if options.account:
                arguments["account_name"] = options.account
            if options.endpoint_url:
                arguments["endpoint"] = options.endpoint_url
            names = {"account_key": "account_key", "sas_token": "sas_key", "token": "token"}
            arguments |= {names[n]: value.decode().strip() for n, value in secrets.items()}
            client = AzureStore(container, **arguments)  # type: ignore[arg-type]  # a TypedDict cannot be built up
        return ObstoreStore(client, location.path, caps=_CAPS, translate=translate)
