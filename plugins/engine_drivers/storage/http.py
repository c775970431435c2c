"""`http` and `https`: files of a web server, read-only, by fsspec's client."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from engine_sdk import Field, InvalidParameter, SecretRef, StorageCaps, StorageDriver, Store
from engine_sdk.storage import FsspecStore, Location, RemoteOptions, Translator, filesystem

_CAPS = StorageCaps(writable=False, ranged=True, delimiter=True)


class HttpOptions(RemoteOptions):
    """Options of a web server."""

    user: str = Field(default="", description="User name, where the server asks for one")
    password: SecretRef | None = Field(default=None, description="Where the password is")
    token: SecretRef | None = Field(default=None, description="Where a bearer token is")


class _HttpStore(FsspecStore):
    """Pages are found by the links of an index; percent-encoding is the client's affair."""

    def path(self, key: str) -> str:
        """Return the URL of an object."""
        from urllib.parse import quote

        super().path(key)
        return f"{self.root}/{quote(key)}"

    def _info(self, path: str, what: str) -> dict[str, Any] | None:
        """Ask for a page; one that the server finds with a slash behind its name is an index, and no object."""
        info = super()._info(path, what)
        is_index = info is not None and path != self.root and str(info.get("url", "")).endswith("/")
        return None if is_index else info

    def _key(self, name: str) -> str | None:
        from urllib.parse import unquote

        key = name.removeprefix(self.root).strip("/") if name.startswith(self.root + "/") else ""
        return unquote(key.partition("?")[0].partition("#")[0]) or None


class HttpDriver(StorageDriver[HttpOptions]):
    """Read files of a web server: `https://host/path`. Listings are what the links of its index pages say."""

    caps = _CAPS
    schemes = ("http", "https")

    def open_store(self, url: str, options: HttpOptions, secrets: Mapping[str, bytes]) -> Store:
        """Make a client; no request is sent."""
        location = Location.parse(url, driver="http")
        location.need_host("host", driver="http")
        if location.user:
            raise InvalidParameter("the URL names a user", driver="http", hint="Write -o user=NAME")
        authorization = _authorization(options, secrets)
        translate = Translator("http", [*secrets.values(), authorization.rpartition(" ")[2].encode()])
        with translate(f"opening {url}"):
            import aiohttp

            session: dict[str, object] = {
                "timeout": aiohttp.ClientTimeout(total=options.deadline, sock_connect=options.deadline / 2)
            }
            if authorization:
                session["headers"] = {"Authorization": authorization}
            fs = filesystem("http", client_kwargs=session)
        store = _HttpStore(fs, url.rstrip("/"), caps=_CAPS, translate=translate, deadline=options.deadline + 1)
        store.heads_first = True
        return store


def _authorization(options: HttpOptions, secrets: Mapping[str, bytes]) -> str:
    """Return the header's value: a bearer token, or a name and password (RFC 6750, RFC 7617)."""
    if "token" in secrets:
        return f"Bearer {secrets['token'].decode().strip()}"
    if options.user:
        both = options.user.encode() + b":" + secrets.get("password", b"").removesuffix(b"\n")
        return f"Basic {base64.b64encode(both).decode()}"
    return ""
