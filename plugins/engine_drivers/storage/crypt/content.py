"""Content: a header with a random nonce, then blocks of 64 KiB, each sealed by NaCl secretbox.

PyNaCl (libsodium) is used because the format needs XSalsa20-Poly1305, which `cryptography` does not have.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from engine_sdk import Conflict

MAGIC = b"RCLONE\0\0"
NONCE = 24
HEADER = len(MAGIC) + NONCE
BLOCK = 65536
"""Plain bytes of a block; the last one has 1 to as many."""
MAC = 16
SEALED = MAC + BLOCK


class Damaged(Conflict):
    """Content does not have the form that this key gives: another key, another format, or bytes that were changed."""


def sealed_size(size: int) -> int:
    """Return the bytes of an object whose content has `size` bytes."""
    return HEADER + size + MAC * -(-size // BLOCK)


def plain_size(size: int) -> int:
    """Return the bytes of content of an object of `size` bytes; Damaged if no content gives such an object."""
    full, rest = divmod(size - HEADER, SEALED)
    if size < HEADER or 0 < rest <= MAC:
        raise Damaged(f"no content gives an object of {size} bytes")
    return full * BLOCK + max(0, rest - MAC)


def apparent_size(size: int) -> int:
    """Return the bytes of content that an object of `size` bytes seems to have, of whatever form: one at least.

    So it is told in a listing: who wants its content reads it, and gets the error.
    """
    full, rest = divmod(max(0, size - HEADER), SEALED)
    return max(1, full * BLOCK + max(0, rest - MAC))


def nonce_at(nonce: bytes, block: int) -> bytes:
    """Return the nonce of a block: the file's plus its number, as a 192-bit little-endian counter that wraps."""
    return ((int.from_bytes(nonce, "little") + block) % (1 << 192)).to_bytes(NONCE, "little")


def nonce_of(header: bytes) -> bytes:
    """Return the nonce of a header; Damaged if it is none."""
    if len(header) != HEADER or not header.startswith(MAGIC):
        raise Damaged("the object has no header of the rclone crypt format")
    return header[len(MAGIC) :]


class Content:
    """Seals and opens content under one key."""

    def __init__(self, key: bytes) -> None:
        import nacl.bindings
        import nacl.exceptions

        self._key = key
        self._seal, self._open = nacl.bindings.crypto_secretbox_easy, nacl.bindings.crypto_secretbox_open_easy
        self._refused = nacl.exceptions.CryptoError

    def seal(self, chunks: Iterable[bytes], nonce: bytes) -> Iterator[bytes]:
        """Yield the object's bytes for content that comes in pieces of any size: the header, then the blocks."""
        yield MAGIC + nonce
        number = 0
        waiting = bytearray()
        for chunk in chunks:
            waiting += chunk
            whole = len(waiting) - len(waiting) % BLOCK
            for start in range(0, whole, BLOCK):
                yield self._seal(bytes(waiting[start : start + BLOCK]), nonce_at(nonce, number), self._key)
                number += 1
            del waiting[:whole]
        if waiting:
            yield self._seal(bytes(waiting), nonce_at(nonce, number), self._key)

    def open(self, sealed: bytes | memoryview, nonce: bytes, first: int) -> bytes:
        """Return the content of consecutive blocks, of which the first has the number `first`.

        Raises Damaged when a block was not sealed under this key with this nonce and number.
        """
        view = memoryview(sealed)
        plain = []
        for count, start in enumerate(range(0, len(view), SEALED)):
            block = bytes(view[start : start + SEALED])
            if len(block) <= MAC:
                raise Damaged(f"block {first + count} is cut")
            try:
                plain.append(self._open(block, nonce_at(nonce, first + count), self._key))
            except self._refused:
                raise Damaged(f"block {first + count} was not written with this key, or was changed") from None
        return b"".join(plain)
