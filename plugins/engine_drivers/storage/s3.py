"""`s3`: Amazon S3 and every server that speaks its protocol, by obstore, because S3 has compare-and-swap."""

from __future__ import annotations

from collections.abc import Mapping

from engine_sdk import (
    Field,
    InvalidParameter,
    SecretRef,
    StorageCaps,
    StorageDriver,
    Store,
    model_validator,
)
from engine_sdk.storage import Endpoint, Location, ObstoreStore, RemoteOptions, SignedRemovals, Translator

_CAPS = StorageCaps(
    ranged=True,
    put_if=True,
    delete_if=True,
    server_copy=True,
    metadata=True,
    multipart=True,
    versions=True,
    delimiter=True,
    max_key=1024,  # "Creating object key names", Amazon S3 user guide
)


class S3Options(RemoteOptions):
    """Options of a bucket."""

    endpoint_url: Endpoint = Field(default="", description="Server, http://127.0.0.1:8333; Amazon's if empty")
    region: str = Field(default="us-east-1", description="Region of the bucket")
    path_style: bool = Field(default=True, description="Bucket in the path; false: in the host name")
    access_key: SecretRef | None = Field(default=None, description="Where the access key id is; else AWS_ACCESS_KEY_ID")
    secret_key: SecretRef | None = Field(
        default=None, description="Where the secret access key is; else AWS_SECRET_ACCESS_KEY"
    )
    session_token: SecretRef | None = Field(default=None, description="Where the token of temporary credentials is")
    anonymous: bool = Field(default=False, description="Send no credentials: for public buckets")
    conditional: bool = Field(default=True, description="The server knows If-Match and If-None-Match")
    checksum: bool = Field(default=True, description="Send a SHA-256 with each write; false: the server refuses those")

    @model_validator(mode="after")
    def _both_keys(self) -> S3Options:
        if (self.access_key is None) != (self.secret_key is None):
            raise ValueError("access-key and secret-key go together")
        if self.anonymous and self.access_key:
            raise ValueError("anonymous and access-key contradict each other")
        return self


class S3Driver(StorageDriver[S3Options]):
    """Keep objects in a bucket of Amazon S3 or a compatible server: `s3://bucket/prefix`."""

    caps = _CAPS
    schemes = ("s3", "s3a")

    def store_caps(self, url: str, options: S3Options, inner: StorageCaps | None) -> StorageCaps | None:
        """Return the abilities: no conditions where servers ignore them, nor on removals that nobody signs."""
        removes = options.conditional and not options.anonymous
        return _CAPS.model_copy(update={"put_if": options.conditional, "delete_if": removes})

    def open_store(self, url: str, options: S3Options, secrets: Mapping[str, bytes]) -> Store:
        """Make a client; no request is sent."""
        location = Location.parse(url, driver="s3")
        bucket = location.need_host("bucket", driver="s3")
        if location.user or location.port:
            raise InvalidParameter("an s3 URL is s3://bucket/prefix", driver="s3", hint="Server: -o endpoint-url=")
        translate = Translator("s3", secrets.values())
        with translate(f"opening s3://{bucket}"):
            from obstore.store import S3Store

            arguments: dict[str, object] = {
                "region": options.region,
                "virtual_hosted_style_request": not options.path_style,
                "skip_signature": options.anonymous,
                **ObstoreStore.client_options(options.deadline, allow_http=options.endpoint_url.startswith("http://")),
            }
            if options.endpoint_url:
                arguments["endpoint"] = options.endpoint_url
            if options.checksum:  # SeaweedFS stores an empty object when the connection ends before the body
                arguments["checksum_algorithm"] = "sha256"
            names = {
                "access_key": "access_key_id",
                "secret_key": "secret_access_key",
                "session_token": "session_token",
            }
            arguments |= {names[n]: value.decode().strip() for n, value in secrets.items()}
            client = S3Store(bucket, **arguments)  # type: ignore[arg-type]  # a TypedDict cannot be built up
        caps = self.store_caps(url, options, None) or _CAPS
        removals = SignedRemovals(client, location.path, deadline=options.deadline)
        return ObstoreStore(client, location.path, caps=caps, translate=translate, removals=removals)
