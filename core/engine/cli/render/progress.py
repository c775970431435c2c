"""Progress of long work from the API's JSON messages: a line for each layer on a terminal, plain lines in a pipe."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from typing import Any, TextIO

from engine.cli.errors import Failure
from engine.cli.render.words import bytes_decimal
from engine.cli.terminal import columns, is_terminal

_BAR = 30


def _bar(detail: Mapping[str, Any]) -> str:
    done, total = int(detail.get("current") or 0), int(detail.get("total") or 0)
    if units := detail.get("units"):
        return f"{done} {units}" if done else ""
    if total <= 0:
        return bytes_decimal(done, 3) if done else ""
    filled = min(_BAR, _BAR * done // total)
    return f"[{'=' * filled:<{_BAR}}] {bytes_decimal(done, 3)}/{bytes_decimal(total, 3)}"


class Progress:
    """Shows messages of the form {"id", "status", "progressDetail"}; `error` raises Failure."""

    def __init__(self, out: TextIO, *, quiet: bool = False) -> None:
        self._out, self._quiet = out, quiet
        self._live = not quiet and is_terminal(out.fileno()) and os.environ.get("TERM") != "dumb"
        self._rows: dict[str, int] = {}
        self._told: dict[str, str] = {}

    def show(self, messages: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """Show all messages; return those that carry `aux` data. Raises Failure where one says that the work failed."""
        results = []
        for message in messages:
            if message.get("error"):
                detail = message.get("errorDetail") or {}
                raise Failure(str(detail.get("message") or message["error"]))
            if message.get("aux"):
                results.append(message["aux"])
            if not self._quiet:
                self._one(message)
        return results

    def _one(self, message: Mapping[str, Any]) -> None:
        if "stream" in message:
            self._out.write(message["stream"])
            self._out.flush()
            return
        status, identifier = message.get("status", ""), str(message.get("id") or "")
        if not status:
            return
        if self._live and identifier:
            self._redraw(identifier, f"{identifier}: {status} {_bar(message.get('progressDetail') or {})}".rstrip())
            return
        if identifier and self._told.get(identifier) == status:
            return
        self._told[identifier] = status if identifier else ""
        print(f"{identifier}: {status}" if identifier else status, file=self._out, flush=True)
        if self._live:
            self._rows = {name: row + 1 for name, row in self._rows.items()}

    def _redraw(self, identifier: str, text: str) -> None:
        """Rewrite a layer's own line: rows count up from the cursor's line."""
        text = text[: columns(self._out.fileno()) - 1]
        if identifier not in self._rows:
            self._rows = {name: row + 1 for name, row in self._rows.items()}
            self._rows[identifier] = 1
            self._out.write(text + "\n")
        else:
            up = self._rows[identifier]
            self._out.write(f"\x1b[{up}A\r\x1b[2K{text}\x1b[{up}B\r")
        self._out.flush()


def stdout_progress(quiet: bool = False) -> Progress:
    """Return the progress on our stdout."""
    return Progress(sys.stdout, quiet=quiet)
