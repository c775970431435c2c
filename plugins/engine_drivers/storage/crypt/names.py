"""Names of objects, part by part: encrypted, rotated, or only marked with a suffix."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from datetime import datetime
from typing import Literal

from engine_drivers.storage.crypt.content import Damaged
from engine_drivers.storage.crypt.eme import BLOCK, MOST_BLOCKS, Eme
from engine_drivers.storage.crypt.keys import Keys

Encryption = Literal["standard", "obfuscate", "off"]
Encoding = Literal["base32", "base64"]
LONGEST = MOST_BLOCKS * BLOCK - 1
"""Most bytes of a part of a name: the padding takes one at least."""
_VERSION = re.compile(r"(.*)(-v\d{4}-\d\d-\d\d-\d{6}-\d{3})(\.[^.]*)?", re.DOTALL)
_QUOTE = "!"


class Names:
    """Names under one pair of keys."""

    def __init__(
        self,
        keys: Keys,
        *,
        encryption: Encryption = "standard",
        encoding: Encoding = "base32",
        directories: bool = True,
        suffix: str = ".bin",
    ) -> None:
        self._suffix = suffix if encryption == "off" else ""
        self._plain_directories = encryption == "off" or not directories
        self._encode, self._decode = _ENCODINGS[encoding]
        self._has_versions = encryption != "off"
        if encryption == "standard":
            self._eme = Eme(keys.name, keys.tweak)
            self._hide, self._show = self._encrypt, self._decrypt
        elif encryption == "obfuscate":
            rotation = Rotation(keys.name)
            self._hide, self._show = rotation.hide, rotation.show
        else:
            self._hide, self._show = _same, _same

    def hide(self, key: str) -> str:
        """Return the name under which an object is stored."""
        *directories, last = key.split("/")
        return "/".join([*map(self._hide_directory, directories), self._hide_file(last)])

    def show(self, name: str) -> str:
        """Return the key of a stored name; Damaged if it was not made with these keys and options."""
        *directories, last = name.split("/")
        return "/".join([*map(self._show_directory, directories), self._show_file(last)])

    def hide_directory(self, path: str) -> str:
        """Return the stored name of a directory; an empty path stays one."""
        return "/".join(map(self._hide_directory, path.split("/"))) if path else ""

    def show_directory(self, name: str) -> str:
        """Return the path of a directory's stored name; Damaged if it is none."""
        return "/".join(map(self._show_directory, name.split("/"))) if name else ""

    def longest(self, limit: int) -> int:
        """Return the most bytes of a part of a name that is stored in `limit` bytes; 0 is no limit."""
        if self._hide != self._encrypt:
            return max(1, limit - max(len(self._suffix), len("255."))) if limit else 0
        if not limit:
            return LONGEST
        blocks = next(n for n in range(MOST_BLOCKS, -1, -1) if len(self._encode(bytes(n * BLOCK))) <= limit)
        return max(1, blocks * BLOCK - 1)

    def _hide_directory(self, part: str) -> str:
        return part if self._plain_directories else self._hide(part)

    def _show_directory(self, part: str) -> str:
        return part if self._plain_directories else self._show(part)

    def _hide_file(self, part: str) -> str:
        plain, version = self._without_version(part)
        return _with_version(self._hide(plain), version) + self._suffix

    def _show_file(self, part: str) -> str:
        if not part.endswith(self._suffix) or part == self._suffix:
            raise Damaged(f"the name {part!r} does not end in {self._suffix}")
        stored, version = self._without_version(part.removesuffix(self._suffix))
        return _with_version(self._show(stored), version)

    def _without_version(self, part: str) -> tuple[str, str]:
        """Take a version's time (rclone's lib/version) out of a name, before its extension: it is not encrypted."""
        match = _VERSION.fullmatch(part) if self._has_versions else None
        if match is None or not match[1]:
            return part, ""
        try:
            datetime.strptime(match[2][:-4], "-v%Y-%m-%d-%H%M%S")  # only: is it a time at all
        except ValueError:
            return part, ""
        return match[1] + (match[3] or ""), match[2]

    def _encrypt(self, part: str) -> str:
        data = part.encode()
        padding = BLOCK - len(data) % BLOCK
        return self._encode(self._eme.encrypt(data + bytes([padding]) * padding))

    def _decrypt(self, part: str) -> str:
        try:
            sealed = self._decode(part)
            if self._encode(sealed) != part:
                raise ValueError("another spelling: two names would be one key")
            padded = self._eme.decrypt(sealed)
            padding = padded[-1]
            if not 1 <= padding <= BLOCK or padded[-padding:] != bytes([padding]) * padding:
                raise ValueError("wrong padding")
            plain = padded[:-padding].decode()
            if not plain or "/" in plain or "\0" in plain or plain in (".", ".."):
                raise ValueError("not a name")
        except ValueError as err:
            raise Damaged(f"the name {part!r} was not made with this key") from err
        return plain


def _with_version(name: str, version: str) -> str:
    """Put a version's time before the extension of a name."""
    stem, dot, extension = name.rpartition(".")
    return f"{stem}{version}.{extension}" if version and dot else name + version


def _same(part: str) -> str:
    return part


def _base32(data: bytes) -> str:
    return base64.b32hexencode(data).decode().rstrip("=").lower()


def _from_base32(text: str) -> bytes:
    return base64.b32hexdecode(text.upper() + "=" * (-len(text) % 8))


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _from_base64(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)


_ENCODINGS: dict[str, tuple[Callable[[bytes], str], Callable[[str], bytes]]] = {
    "base32": (_base32, _from_base32),
    "base64": (_base64, _from_base64),
}


class Rotation:
    """Names with rotated letters (rclone's `obfuscate`): it hides them from a glance, and from nobody who looks."""

    def __init__(self, key: bytes) -> None:
        self._offset = sum(key)

    def hide(self, part: str) -> str:
        """Return the rotated name, with the number that it is rotated by before a dot."""
        number = sum(map(ord, part)) % 256
        return f"{number}." + "".join(self._rotated(c, number + self._offset) for c in part)

    def show(self, part: str) -> str:
        """Return the name; Damaged if it was not rotated."""
        number, dot, text = part.partition(".")
        if not dot or not text or not (number.isascii() and number.isdecimal()):
            raise Damaged(f"the name {part!r} is not obfuscated")
        characters = iter(text)
        amount = int(number) + self._offset
        plain = "".join(next(characters, _QUOTE) if c == _QUOTE else _rotate(c, -1, amount) for c in characters)
        if sum(map(ord, plain)) % 256 != int(number) or "/" in plain:
            raise Damaged(f"the name {part!r} was not made with this key")
        return plain

    @staticmethod
    def _rotated(character: str, amount: int) -> str:
        if character == _QUOTE:
            return _QUOTE * 2
        rotated = _rotate(character, 1, amount)
        return _QUOTE + character if "\ud800" <= rotated <= "\udfff" else rotated


def _rotate(character: str, sign: int, amount: int) -> str:
    """Move a character within its own range (digits, ASCII letters, Latin-1, 256 of Unicode); others stay."""
    code = ord(character)
    if "0" <= character <= "9":
        return chr(48 + (code - 48 + sign * (amount % 9 + 1)) % 10)
    if character.isascii() and character.isalpha():
        position = code - 65 if code < 97 else code - 71
        position = (position + sign * (amount % 25 + 1)) % 52
        return chr(position + 65 if position < 26 else position + 71)
    if 0xA0 <= code <= 0xFF:
        return chr(0xA0 + (code - 0xA0 + sign * (amount % 95 + 1)) % 96)
    if code >= 0x100:
        base = code - code % 256
        return chr(base + (code - base + sign * (amount % 127 + 1)) % 256)
    return character
