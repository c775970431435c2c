"""The manifest as objects: a log of segments, each sealed, each naming the one before.

`.engine/manifest/GENERATION.KIND` holds what changed since the generation before (`changes`), or all of it (`whole`).
The body is sealed by NaCl secretbox under a key derived from the store's, so that it is authenticated and shows no
names; rclone does not take it for a file of its own, and leaves it out. A segment is only ever written where none is:
of two writers one loses, and reads the other's.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import zlib
from collections.abc import Mapping
from hmac import digest
from types import MappingProxyType
from typing import Literal, NamedTuple

from engine_drivers.storage.crypt.content import NONCE, Damaged

DIRECTORY = ".engine/"
"""What belongs to the engine in a store begins with this."""
PREFIX = f"{DIRECTORY}manifest/"
_MAGIC = b"ENGINE\0\2"
"""The last byte is the version of the format."""
_NAME = re.compile(r"\.engine/manifest/(\d{16})\.(whole|changes)\Z")
_LARGEST = 1 << 28
"""Bytes of a segment at most, unpacked."""
Kind = Literal["whole", "changes"]


class Entry(NamedTuple):
    """What is known of an object. The nonce is random, and its blocks are sealed with it: it stands for the content."""

    nonce: bytes
    size: int
    """Of the stored object."""


class Segment(NamedTuple):
    """One link of the log."""

    generation: int
    kind: Kind
    previous: str
    """Digest of the segment before, "" for the first one."""
    objects: dict[str, Entry | None]
    """By stored name; None for one that was removed."""
    retired: tuple[bytes, ...]
    """Families of nonces (see `nonces`) that no object has any more."""
    intents: Mapping[str, Entry] = MappingProxyType({})
    """By stored name: the object that is about to be copied there. Written before it is done."""

    @property
    def name(self) -> str:
        """Name of its object."""
        return f"{PREFIX}{self.generation:016d}.{self.kind}"


def parse_name(name: str) -> tuple[int, Kind] | None:
    """Return generation and kind of a segment's object; None if it is none."""
    match = _NAME.match(name)
    if match is None:
        return None
    return int(match[1]), "whole" if match[2] == "whole" else "changes"


def digest_of(sealed: bytes) -> str:
    """Return the digest of a segment by which the next one names it."""
    return hashlib.sha256(sealed).hexdigest()


class Sealer:
    """Seals and opens segments under one key."""

    def __init__(self, data_key: bytes) -> None:
        import nacl.bindings
        import nacl.exceptions

        self._key = digest(data_key, b"engine manifest 1", "sha256")
        self._seal, self._open = nacl.bindings.crypto_secretbox_easy, nacl.bindings.crypto_secretbox_open_easy
        self._refused = nacl.exceptions.CryptoError

    def seal(self, segment: Segment) -> bytes:
        """Return the bytes of a segment's object."""
        document = {
            "generation": segment.generation,
            "kind": segment.kind,
            "previous": segment.previous,
            "objects": {n: None if e is None else [e.nonce.hex(), e.size] for n, e in segment.objects.items()},
            "retired": [family.hex() for family in segment.retired],
            "intents": {n: [e.nonce.hex(), e.size] for n, e in segment.intents.items()},
        }
        nonce = os.urandom(NONCE)
        packed = zlib.compress(json.dumps(document, separators=(",", ":")).encode(), 1)
        return _MAGIC + nonce + bytes(self._seal(packed, nonce, self._key))

    def open(self, sealed: bytes, name: str) -> Segment:
        """Return a segment; Damaged if it was not sealed under this key, or under another name."""
        head = len(_MAGIC) + NONCE
        if sealed[: len(_MAGIC) - 1] == _MAGIC[:-1] and sealed[: len(_MAGIC)] != _MAGIC:
            raise Damaged(f"the manifest cannot be read: {name} has another format than version {_MAGIC[-1]}")
        if not sealed.startswith(_MAGIC) or len(sealed) <= head:
            raise Damaged(f"the manifest is damaged: {name} is no segment of it")
        try:
            packed = self._open(sealed[head:], sealed[len(_MAGIC) : head], self._key)
        except self._refused:
            raise Damaged(f"the manifest is damaged: {name} was changed, or written with another key") from None
        unpacker = zlib.decompressobj()
        document = json.loads(unpacker.decompress(packed, _LARGEST))
        segment = Segment(
            generation=document["generation"],
            kind=document["kind"],
            previous=document["previous"],
            objects={
                n: None if e is None else Entry(bytes.fromhex(e[0]), e[1]) for n, e in document["objects"].items()
            },
            retired=tuple(bytes.fromhex(family) for family in document["retired"]),
            intents={n: Entry(bytes.fromhex(e[0]), e[1]) for n, e in document["intents"].items()},
        )
        if segment.name != name:
            raise Damaged(f"the manifest is damaged: {name} is the segment {segment.name}")
        return segment
