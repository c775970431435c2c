"""EME: a wide-block mode over AES, in which every byte of a name depends on every other (Halevi and Rogaway, 2003)."""

from __future__ import annotations

from typing import Any

BLOCK = 16
MOST_BLOCKS = 128
"""EME is proven for up to 16 * 8 blocks."""


class Eme:
    """EME with AES-256 under one key and one tweak. May be used from several threads."""

    def __init__(self, key: bytes, tweak: bytes) -> None:
        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

        # ECB is AES itself here: the mode around it is EME.
        self._cipher = Cipher(algorithms.AES(key), modes.ECB())
        self._tweak = int.from_bytes(tweak, "little")
        doubled = _double(int.from_bytes(self._aes(bytes(BLOCK), self._cipher.encryptor()), "little"))
        self._masks = [doubled]

    @staticmethod
    def _aes(data: bytes, context: Any) -> bytes:
        result: bytes = context.update(data) + context.finalize()
        return result

    def _mask(self, count: int) -> list[int]:
        masks = list(self._masks[:count])
        while len(masks) < count:
            masks.append(_double(masks[-1]))
        if len(masks) > len(self._masks):
            self._masks = masks
        return masks

    def encrypt(self, data: bytes) -> bytes:
        """Encrypt 1 to 128 blocks of 16 bytes; ValueError for another length."""
        return self._transform(data, self._cipher.encryptor)

    def decrypt(self, data: bytes) -> bytes:
        """Decrypt; ValueError for a length that `encrypt` does not give."""
        return self._transform(data, self._cipher.decryptor)

    def _transform(self, data: bytes, direction: Any) -> bytes:
        count, rest = divmod(len(data), BLOCK)
        if rest or not 1 <= count <= MOST_BLOCKS:
            raise ValueError(f"{len(data)} bytes are no 1 to {MOST_BLOCKS} blocks of {BLOCK}")
        masks = self._mask(count)
        first = self._blocks(_join([p ^ m for p, m in zip(_split(data), masks, strict=True)]), direction)
        mixed = self._tweak
        for block in first:
            mixed ^= block
        (middle,) = self._blocks(_join([mixed]), direction)
        factor = mixed ^ middle
        second = [0] * count
        total = 0
        for j in range(1, count):
            factor = _double(factor)
            second[j] = first[j] ^ factor
            total ^= second[j]
        second[0] = middle ^ self._tweak ^ total
        last = self._blocks(_join(second), direction)
        return _join([c ^ m for c, m in zip(last, masks, strict=True)])

    def _blocks(self, data: bytes, direction: Any) -> list[int]:
        return _split(self._aes(data, direction()))


def _double(value: int) -> int:
    """Multiply by x in GF(2^128), little-endian."""
    value <<= 1
    return value ^ (1 << 128) ^ 0x87 if value >> 128 else value


def _split(data: bytes) -> list[int]:
    return [int.from_bytes(data[n : n + BLOCK], "little") for n in range(0, len(data), BLOCK)]


def _join(blocks: list[int]) -> bytes:
    return b"".join(block.to_bytes(BLOCK, "little") for block in blocks)
