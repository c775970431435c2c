"""Options that many stores have."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator

from engine_sdk.contract import Field, StorageOptions


def _endpoint(value: str) -> str:
    if value and not value.startswith(("http://", "https://")):
        raise ValueError("an endpoint begins with http:// or https://")
    if "@" in value:
        raise ValueError("an endpoint has no credentials in it")
    return value.rstrip("/")


Endpoint = Annotated[str, AfterValidator(_endpoint)]
"""Type of an option that is the URL of a server, without credentials; it may be empty."""


class RemoteOptions(StorageOptions):
    """Base of the options of stores behind a network."""

    deadline: float = Field(default=60.0, gt=0, le=3600, description="Seconds within which a request must end")
