"""The storage driver `crypt`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from engine_drivers.storage.crypt.keys import Keys, derive
from engine_drivers.storage.crypt.manifest import Manifest
from engine_drivers.storage.crypt.mark import MarkFile
from engine_drivers.storage.crypt.names import Names
from engine_drivers.storage.crypt.store import CryptStore
from engine_sdk import (
    AbsolutePath,
    Field,
    InvalidParameter,
    SecretRef,
    StorageCaps,
    StorageDriver,
    StorageOptions,
    Store,
    Unsupported,
)


class CryptOptions(StorageOptions):
    """Options of the format; the defaults are rclone's."""

    crypt_password: SecretRef = Field(description="Where the password is (rclone: password)")
    crypt_password2: SecretRef | None = Field(
        default=None, description="Where the second password is, which salts the first (rclone: password2)"
    )
    filename_encryption: Literal["standard", "obfuscate", "off"] = Field(
        default="standard", description="Encrypt names; obfuscate rotates letters; off adds a suffix"
    )
    directory_name_encryption: bool = Field(default=True, description="Encrypt the names of directories, too")
    filename_encoding: Literal["base32", "base64"] = Field(
        default="base32", description="Spelling of encrypted names; base64 needs a store with upper and lower case"
    )
    manifest: bool = Field(
        default=False, description="Keep an authenticated list of the objects in .engine/, which detects tampering"
    )
    manifest_mark: AbsolutePath | None = Field(
        default=None, description="File of this host that remembers the newest list: shows a store that was turned back"
    )
    suffix: str = Field(default=".bin", pattern=r"^\.[^/]+$", description="End of names that are not encrypted")

    def names(self, keys: Keys) -> Names:
        """Return the names under some keys."""
        return Names(
            keys,
            encryption=self.filename_encryption,
            encoding=self.filename_encoding,
            directories=self.directory_name_encryption,
            suffix=self.suffix,
        )


def _caps(inner: StorageCaps, names: Names) -> StorageCaps:
    return inner.model_copy(update={"versions": False, "max_segment": names.longest(inner.max_segment)})


class CryptDriver(StorageDriver[CryptOptions]):
    """Encrypt another store in rclone's crypt format: `crypt::s3://bucket/prefix`. Stock rclone reads it."""

    caps = StorageCaps()
    schemes = ("crypt",)
    wraps = True

    def store_caps(self, url: str, options: CryptOptions, inner: StorageCaps | None) -> StorageCaps | None:
        """Return the inner store's abilities, less what the names cost."""
        if inner is None:
            return None
        return _caps(inner, options.names(Keys(bytes(32), bytes(32), bytes(16))))

    def wrap_store(self, store: Store, options: CryptOptions, secrets: Mapping[str, bytes]) -> Store:
        """Return the encrypted store. Forbidden if what is there was written with another password; it only reads."""
        try:
            import cryptography  # noqa: F401
            import nacl  # noqa: F401
        except ImportError as err:
            raise Unsupported(
                "encryption needs PyNaCl and cryptography", driver="crypt", why=str(err), hint="Install both"
            ) from err
        password = _line(secrets.get("crypt_password", b""))
        if not password:
            raise InvalidParameter("the password is empty", driver="crypt", hint="Look into what crypt-password names")
        keys = derive(password, _line(secrets.get("crypt_password2", b"")))
        names = options.names(keys)
        manifest = None
        if options.manifest:
            manifest = Manifest(store, keys.data, MarkFile(options.manifest_mark), names.show)
        crypt = CryptStore(store, keys, names, _caps(store.caps, names), manifest)
        crypt.verify()
        if manifest is not None:
            manifest.load()
        return crypt


def _line(secret: bytes) -> bytes:
    """Return a password without the end of the line that editors put into files."""
    return secret.removesuffix(b"\n").removesuffix(b"\r")
