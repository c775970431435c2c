"""`sftp`: a directory of an SSH server, by sshfs.

sshfs (asyncssh) and not fsspec's own client (paramiko): that one accepts any host key. The `cat_file` of sshfs ignores
ranges and returns the whole file, so that ranges are read through an open file here.
"""

from __future__ import annotations

from collections.abc import Mapping

from engine_sdk import Field, SecretRef, StorageCaps, StorageDriver, Store, Unsupported
from engine_sdk.storage import FsspecStore, Location, RemoteOptions, Translator, filesystem

_CAPS = StorageCaps(
    ranged=True,
    multipart=True,
    delimiter=True,
    hierarchical=True,
    max_key=3800,
    max_segment=255,  # as of `file`
)


class SftpOptions(RemoteOptions):
    """Options of a directory on an SSH server."""

    password: SecretRef | None = Field(default=None, description="Where the password is")
    private_key: SecretRef | None = Field(default=None, description="Where a private key is; else the user's own keys")
    passphrase: SecretRef | None = Field(default=None, description="Where the private key's passphrase is")
    known_hosts: str = Field(default="", description="File with the server's host key; else ~/.ssh/known_hosts")


class _SftpStore(FsspecStore):
    """Files of an SFTP server."""

    def read(self, path: str, start: int, end: int | None) -> bytes:
        """Read through an open file: `cat_file` would return the whole one."""
        with self.fs.open(path, "rb") as file:
            file.seek(start)
            return bytes(file.read(-1 if end is None else end - start))


class SftpDriver(StorageDriver[SftpOptions]):
    """Keep objects as files of an SSH server: `sftp://user@host/srv/objects`."""

    caps = _CAPS
    schemes = ("sftp", "ssh")

    def open_store(self, url: str, options: SftpOptions, secrets: Mapping[str, bytes]) -> Store:
        """Connect. The server must have a host key that is known, and the directory is made with the first object."""
        location = Location.parse(url, driver="sftp")
        host = location.need_host("host", driver="sftp")
        translate = Translator("sftp", secrets.values())
        arguments: dict[str, object] = {
            "port": location.port or 22,
            "known_hosts": options.known_hosts or (),  # (): asyncssh's default file; None would be: no check at all
            "timeout": options.deadline,
            "connect_timeout": options.deadline,
        }
        with translate(f"connecting to {host}"):
            if location.user:
                arguments["username"] = location.user
            if "password" in secrets:
                arguments["password"] = secrets["password"].decode().rstrip("\n")
            if "password" in secrets or "private_key" in secrets:
                arguments["agent_path"] = None  # what is given is meant, and nothing else is tried
                arguments["client_keys"] = None
            if "private_key" in secrets:
                arguments["client_keys"] = [_key(secrets)]
            fs = filesystem("ssh", host=host, **arguments)
        return _SftpStore(fs, f"/{location.path}", caps=_CAPS, translate=translate, deadline=options.deadline)


def _key(secrets: Mapping[str, bytes]) -> object:
    try:
        import asyncssh
    except ImportError as err:
        raise Unsupported("there is no client for sftp://", why=str(err), hint="Install sshfs") from err
    passphrase = secrets.get("passphrase", b"").decode().rstrip("\n") or None
    return asyncssh.import_private_key(secrets["private_key"], passphrase)
