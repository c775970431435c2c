"""Keys from passwords, and rclone's obscured spelling of passwords."""

from __future__ import annotations

import base64
import hashlib
import os
from typing import NamedTuple

DEFAULT_SALT = bytes.fromhex("a80df43a8fbd0308a7cab83e581f86b1")
"""Salt where there is no second password (backend/crypt/cipher.go)."""
_OBSCURE_KEY = bytes.fromhex("9c935b48730a554d6bfd7c63c886a92bd390198eb8128afbf4de162b8b95f638")
"""Public key of `rclone obscure` (fs/config/obscure/obscure.go): it hides a password from a glance."""


class Keys(NamedTuple):
    """What is derived from the passwords. It has no text of its own: a `repr` must not show it."""

    data: bytes
    """32 bytes, for content."""
    name: bytes
    """32 bytes, for names."""
    tweak: bytes
    """16 bytes, for names."""

    def __repr__(self) -> str:
        return "Keys(****)"


def derive(password: bytes, salt: bytes = b"") -> Keys:
    """Derive the keys by scrypt (N 16384, r 8, p 1): it takes a tenth of a second and 16 MiB, on purpose.

    `salt` is rclone's `password2`. An empty password gives keys of zeroes in rclone; ValueError here.
    """
    if not password:
        raise ValueError("an empty password protects nothing")
    material = hashlib.scrypt(password, salt=salt or DEFAULT_SALT, n=16384, r=8, p=1, dklen=80, maxmem=64 << 20)
    return Keys(material[:32], material[32:64], material[64:])


def obscure(password: bytes, iv: bytes | None = None) -> str:
    """Return a password as rclone's configuration spells it: AES-CTR under a public key, base64 without padding."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    iv = iv or os.urandom(16)
    encryptor = Cipher(algorithms.AES(_OBSCURE_KEY), modes.CTR(iv)).encryptor()
    return base64.urlsafe_b64encode(iv + encryptor.update(password) + encryptor.finalize()).rstrip(b"=").decode()


def reveal(text: str) -> bytes:
    """Return the password of an obscured text; ValueError if it is none."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if len(raw) < 16:
        raise ValueError("too short for an obscured password")
    decryptor = Cipher(algorithms.AES(_OBSCURE_KEY), modes.CTR(raw[:16])).decryptor()
    return decryptor.update(raw[16:]) + decryptor.finalize()
