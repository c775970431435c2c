"""libnftables, in process: one call is one transaction.

Heeded: a batch that lists and changes can crash version 1.0.6, so the two are never mixed; text comes only from our
own templates. The library is loaded when it is first needed, in the thread that uses it.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Mapping, Sequence
from typing import Any

_ERRNOS = {
    "File exists": errno.EEXIST,
    "interval overlaps with an existing one": errno.EEXIST,
    "No such file or directory": errno.ENOENT,
    "Operation not permitted": errno.EPERM,
    "Operation not supported": errno.EOPNOTSUPP,
    "No buffer space available": errno.ENOBUFS,
    "Device or resource busy": errno.EBUSY,
}


class NftError(OSError):
    """libnftables refused a transaction; nothing of it was done. `line` is the command that it complained about."""

    def __init__(self, message: str) -> None:
        lines = message.splitlines() or ["unknown error"]
        first = lines[0].removeprefix("Error: ").removeprefix("Could not process rule: ")
        number = next((value for text, value in _ERRNOS.items() if text in first), errno.EINVAL)
        super().__init__(number, f"nftables: {first}")
        self.line = lines[1] if len(lines) > 1 else ""


class Nft:
    """The library, loaded on first use. For one thread."""

    def __init__(self) -> None:
        self._library: Any = None

    def _load(self) -> Any:
        if self._library is None:
            from nftables import Nftables

            self._library = Nftables()
            self._library.set_json_output(True)
            self._library.set_handle_output(True)
        return self._library

    def run(self, commands: str) -> None:
        """Make changes, all or nothing; raises NftError."""
        code, _, message = self._load().cmd(commands)
        if code:
            raise NftError(message)

    def restore(self, items: Sequence[Mapping[str, Any]]) -> None:
        """Add what was listed before; raises NftError."""
        library = self._load()
        code, _, message = library.json_cmd({"nftables": [{"add": _without_handles(item)} for item in items]})
        if code:
            raise NftError(message)

    def listing(self, what: str, *, terse: bool = False) -> list[Mapping[str, Any]] | None:
        """Return what `list WHAT` shows; None if there is no such thing. `terse` leaves the elements of sets out."""
        library = self._load()
        library.set_terse_output(terse)
        code, output, message = library.cmd(f"list {what}")
        if code:
            err = NftError(message)
            if err.errno == errno.ENOENT:
                return None
            raise err
        found: list[Mapping[str, Any]] = json.loads(output)["nftables"] if output else []
        return found


def _without_handles(item: Mapping[str, Any]) -> Mapping[str, Any]:
    return {what: {key: value for key, value in body.items() if key != "handle"} for what, body in item.items()}
