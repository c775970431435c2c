"""A process of its own that unpacks one layer: what a stranger wrote can exhaust nothing but this process.

Run as `python -I -m engine.image.unpack_child FD`: FD is the empty directory; the layer's blob comes on standard
input. Standard output is one JSON object: `{"size", "tar_size", "diff_id"}`, or `{"refused": {"what", "why"}}` for a
damaged or hostile layer, or `{"errno"}` for what the host cannot do.
"""

from __future__ import annotations

import json
import resource
import sys
from typing import Any

from engine.image.compression import DECOMPRESSION_ERRORS, Readable, decompressed
from engine.image.hashing import Hashed
from engine.image.unpack import drain, unpack
from engine.runtime import confinement
from engine.spec.errors import InvalidParameter

CPU_SECONDS = 300
"""Processor time that any layer may take."""
BYTES_A_SECOND = 1 << 20
"""A large layer gets one more second of processor time for so many bytes of its blob, which a slow machine needs."""
_STEP = 1 << 24


class _Allowance:
    """The blob, with which the limit of processor time grows."""

    def __init__(self, source: Readable, seconds: int) -> None:
        self._source = source
        self._seconds = seconds
        self._count = 0
        self._next = 0

    def read(self, size: int = -1, /) -> bytes:
        data = self._source.read(size)
        self._count += len(data)
        if self._count >= self._next:
            self._next += _STEP
            _, hard = resource.getrlimit(resource.RLIMIT_CPU)
            seconds = self._seconds + self._count // BYTES_A_SECOND
            soft = seconds if hard == resource.RLIM_INFINITY else min(seconds, hard)
            resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))
        return data


def _result(source: Readable, root: int) -> dict[str, Any]:
    try:
        content = Hashed(decompressed(source))
        size = unpack(content, root)
        drain(content)
        drain(source)
    except InvalidParameter as err:
        return {"refused": {"what": err.what, "why": err.why, "hint": err.hint}}
    except MemoryError:
        return {"refused": {"what": "the layer cannot be unpacked", "why": "it needs more than 1 GiB of memory"}}
    except DECOMPRESSION_ERRORS as err:
        return _corrupt(err)
    except OSError as err:
        return _corrupt(err) if err.errno is None else {"errno": err.errno}  # bz2 has no number
    return {"size": size, "tar_size": content.size, "diff_id": content.digest}


def _corrupt(err: Exception) -> dict[str, Any]:
    return {"refused": {"what": "the layer is corrupt", "why": str(err) or "its compressed data ends early"}}


def main(arguments: list[str]) -> int:
    """Unpack standard input into the directory of a descriptor."""
    root, seconds = (int(argument) for argument in arguments)
    confinement.give_up((*confinement.FILES, "CAP_SYS_ADMIN"))  # which trusted.overlay.* takes (xattr(7))
    confinement.end_with_parent()
    json.dump(_result(_Allowance(sys.stdin.buffer, seconds), root), sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
