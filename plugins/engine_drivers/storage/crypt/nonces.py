"""Nonces of objects: what one proves of its object, and which belong together.

Block n is sealed with the object's nonce plus n. So whoever cuts off the first blocks, and adds their number to the
nonce in the header, has an object that opens, without the key. The counter is little-endian: its high bytes stay as
they were, and name the family of all that one object can be cut to. An empty object has no block at all, and proves
nothing: where we write one, its nonce is made with the key.
"""

from __future__ import annotations

import os
from hmac import compare_digest, digest

from engine_drivers.storage.crypt.content import NONCE

FAMILY = 8
"""Bytes that name a family. They are random: of 2^20 objects, two have the same with a chance of 2^-25."""
_PURPOSE = b"engine empty 1"


def family_of(nonce: bytes) -> bytes:
    """Return what the nonces of an object and of all its parts have in common."""
    return nonce[-FAMILY:]


class Nonces:
    """Nonces under one key."""

    def __init__(self, data_key: bytes) -> None:
        self._key = data_key

    def fresh(self, *, empty: bool) -> bytes:
        """Return the nonce of a new object."""
        if not empty:
            return os.urandom(NONCE)
        family = os.urandom(FAMILY)
        return self._tag(family) + family

    def prove_empty(self, nonce: bytes) -> bool:
        """Tell whether somebody with the key, who is no rclone, made this nonce for an empty object."""
        return compare_digest(nonce[:-FAMILY], self._tag(family_of(nonce)))

    def _tag(self, family: bytes) -> bytes:
        return digest(self._key, _PURPOSE + family, "sha256")[: NONCE - FAMILY]
