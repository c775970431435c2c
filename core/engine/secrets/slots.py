"""The file of a volume's key slots: one volume key, wrapped once for each key that opens it.

A slot's wrapping key comes from the operator's key by scrypt (RFC 7914) under the slot's own salt, and seals the volume
key by ChaCha20-Poly1305 (RFC 8439). Everything that the file says of a slot is authenticated with it. Adding or
removing a slot changes this file alone.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
from hmac import digest
from typing import TYPE_CHECKING, Literal

from pydantic import Field, ValidationError

from engine.spec.encryption import PROMPT, KeyRef
from engine.spec.errors import Conflict, Forbidden, Internal, InvalidParameter, NotFound, Unsupported
from engine.spec.values import Frozen

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

VOLUME_KEY = 64
"""Bytes of a random volume key: what fscrypt takes at most."""
_PASSWORD = b"engine store password 1"
_MAX_MEMORY = 256 << 20
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,63}\Z")


class Slot(Frozen):
    """One key that opens the volume."""

    name: str
    """What the operator calls it."""
    source: KeyRef
    """Where its key is read when the volume is mounted, or `prompt`."""
    form: Literal["text", "bytes"] = "text"
    """Whether the end of a line counts; see `KeySlots.form`."""
    n: int = Field(default=1 << 15, ge=1 << 14, le=1 << 17)
    """Cost of scrypt; with r = 8 and p = 1 it takes 1 KiB times this of memory."""
    salt: str = ""
    """Base64, as the following."""
    nonce: str = ""
    sealed: str = ""


class SlotFile(Frozen):
    """All slots of a volume."""

    v: Literal[1] = 1
    id: str
    """Random: a slot of another volume's file does not open here."""
    identifier: str = ""
    """What fscrypt calls the key: 16 bytes in hexadecimal, from which nobody learns the key."""
    slots: tuple[Slot, ...]
    password: str = ""
    """The password of a store, sealed under the volume key: nonce and ciphertext in base64. Empty if there is none."""

    def to_json(self) -> bytes:
        """Return the file's bytes."""
        return self.model_dump_json(indent=1).encode()

    def names(self) -> tuple[str, ...]:
        """Return the names of the slots."""
        return tuple(slot.name for slot in self.slots)

    def open(self, key: bytes) -> tuple[Slot, bytes]:
        """Return the slot that a key opens, and the volume key. Raises Forbidden if it opens none."""
        for slot in self.slots:
            secret = _opened(self, slot, key)
            if secret is not None:
                return slot, secret
        raise Forbidden("the key does not open the volume", why="it is the key of none of its slots")

    def with_password(self, secret: bytes, password: bytes) -> SlotFile:
        """Return the file with a password under the volume key."""
        nonce = os.urandom(12)
        sealed = nonce + _chacha(_password_key(secret)).encrypt(nonce, password, _PASSWORD + self.id.encode())
        return self.model_copy(update={"password": _text(sealed)})

    def open_password(self, secret: bytes) -> bytes:
        """Return the password under the volume key. Raises NotFound if there is none, Internal if it is damaged."""
        if not self.password:
            raise NotFound("the volume holds no password of a store")
        from cryptography.exceptions import InvalidTag

        try:
            sealed = base64.b64decode(self.password, validate=True)
            return _chacha(_password_key(secret)).decrypt(sealed[:12], sealed[12:], _PASSWORD + self.id.encode())
        except (InvalidTag, ValueError):
            raise Internal("the password in the key slots of a volume is damaged") from None

    def with_slot(self, secret: bytes, key: bytes, slot: Slot) -> SlotFile:
        """Return the file with a further slot, or with another key in the slot of that name."""
        sealed = _sealed(self, slot, key, secret)
        kept = tuple(s for s in self.slots if s.name != slot.name)
        return self.model_copy(update={"slots": (*kept, sealed)})

    def without(self, name: str) -> SlotFile:
        """Return the file without a slot. Raises NotFound, and Conflict for the last one."""
        if name not in self.names():
            raise NotFound(f"there is no key slot {name!r}", hint=f"Slots: {', '.join(self.names())}")
        if len(self.slots) == 1:
            raise Conflict(f"key slot {name!r} is the last one", why="nothing would open the volume any more")
        return self.model_copy(update={"slots": tuple(s for s in self.slots if s.name != name)})


def new(secret: bytes, key: bytes, slot: Slot) -> SlotFile:
    """Return the file of a new volume, with one slot."""
    empty = SlotFile(id=os.urandom(16).hex(), identifier=fscrypt_identifier(secret), slots=())
    return empty.with_slot(secret, key, slot)


def check_name(name: str) -> str:
    """Return the name of a slot. Raises InvalidParameter."""
    if not _NAME.match(name):
        raise InvalidParameter(f"{name!r} is no name for a key slot", why="letters, digits, '_', '.' and '-' make one")
    return name


def parse(data: bytes, where: str) -> SlotFile:
    """Read the file's bytes. Raises Internal if they are damaged."""
    try:
        return SlotFile.model_validate_json(data)
    except ValidationError as err:
        raise Internal(
            f"the key slots of a volume are damaged: {where}", why=f"{err.error_count()} fields are not valid",
            hint="Put the file back from a backup: without it nothing opens the volume",
        ) from None  # fmt: skip


def fscrypt_identifier(secret: bytes) -> str:
    """Return the identifier that the kernel gives to a key: HKDF-SHA512 without salt (fs/crypto/hkdf.c, context 1)."""
    extracted = digest(bytes(64), secret, "sha512")
    return digest(extracted, b"fscrypt\0\x01" + b"\x01", "sha512")[:16].hex()


def trimmed(key: bytes, form: Literal["text", "bytes"]) -> bytes:
    """Return a key without the end of line that does not count. Raises InvalidParameter for an empty one."""
    key = key.removesuffix(b"\n").removesuffix(b"\r") if form == "text" else key
    if not key:
        raise InvalidParameter("the key is empty", why="an empty key protects nothing")
    return key


def _chacha(key: bytes) -> ChaCha20Poly1305:
    try:
        from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
    except ImportError as err:
        raise Unsupported("encryption needs the package cryptography", why=str(err), hint="Install it") from err
    return ChaCha20Poly1305(key)


def _cipher(slot: Slot, key: bytes) -> ChaCha20Poly1305:
    salt = base64.b64decode(slot.salt, validate=True)
    return _chacha(hashlib.scrypt(key, salt=salt, n=slot.n, r=8, p=1, dklen=32, maxmem=_MAX_MEMORY))


def _password_key(secret: bytes) -> bytes:
    return digest(secret, _PASSWORD, "sha256")


def _bound(file: SlotFile, slot: Slot) -> bytes:
    """Return what is authenticated with the sealed key: all that the file says of it."""
    said = slot.model_copy(update={"sealed": ""}).model_dump_json()
    return f"engine key slot 1 {file.id} {file.identifier} {said}".encode()


def _sealed(file: SlotFile, slot: Slot, key: bytes, secret: bytes) -> Slot:
    nonce = os.urandom(12)
    slot = slot.model_copy(update={"salt": _text(os.urandom(16)), "nonce": _text(nonce), "sealed": ""})
    sealed = _cipher(slot, key).encrypt(nonce, secret, _bound(file, slot))
    return slot.model_copy(update={"sealed": _text(sealed)})


def _opened(file: SlotFile, slot: Slot, key: bytes) -> bytes | None:
    """Return the volume key, or None if the slot does not open: another key, or a slot that was changed."""
    cipher = _cipher(slot, key)
    from cryptography.exceptions import InvalidTag

    try:
        nonce, sealed = base64.b64decode(slot.nonce, validate=True), base64.b64decode(slot.sealed, validate=True)
        return cipher.decrypt(nonce, sealed, _bound(file, slot))
    except (InvalidTag, ValueError):
        return None


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def slot_for(name: str, source: str, form: Literal["text", "bytes"]) -> Slot:
    """Return a slot that has no key yet. Raises InvalidParameter."""
    try:
        return Slot(name=check_name(name), source=source or PROMPT, form=form)
    except ValidationError as err:
        raise InvalidParameter("invalid source of a key", why=err.errors()[0]["msg"]) from None
