"""Detach keys: the sequence that a terminal's user types to leave a container without ending it."""

from __future__ import annotations

from engine.spec.errors import InvalidParameter

DEFAULT_KEYS = bytes((16, 17))
"""ctrl-p, ctrl-q."""

_CONTROL = {**{f"ctrl-{chr(c)}": c - 96 for c in range(97, 123)}, "ctrl-@": 0, "ctrl-[": 27, "ctrl-\\": 28}
_CONTROL |= {"ctrl-]": 29, "ctrl-^": 30, "ctrl-_": 31}


def parse_keys(text: str) -> bytes:
    """Return the bytes of a sequence such as `ctrl-p,ctrl-q` or `a,b`; empty text is the default.

    Raises InvalidParameter.
    """
    if not text:
        return DEFAULT_KEYS
    keys = bytearray()
    for key in text.split(","):
        if key in _CONTROL:
            keys.append(_CONTROL[key])
        elif len(key) == 1 and key.isascii():
            keys.append(ord(key))
        else:
            raise InvalidParameter(f"invalid detach keys {text!r}", why=f"unknown key {key!r}")
    return bytes(keys)


class KeySequence:
    """Finds the detach keys in what a terminal sends; bytes of a sequence that was begun are held back."""

    def __init__(self, keys: bytes) -> None:
        """Look for `keys`; empty: never."""
        self._keys = keys
        self._held = b""

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """Return what to pass on, and whether the sequence is complete (what follows it is dropped)."""
        if not self._keys:
            return data, False
        data = self._held + data
        at = data.find(self._keys)
        if at >= 0:
            self._held = b""
            return data[:at], True
        held = next((n for n in range(len(self._keys) - 1, 0, -1) if data.endswith(self._keys[:n])), 0)
        self._held = data[len(data) - held :]
        return data[: len(data) - held], False
