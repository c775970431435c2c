"""Which image a word means: names, digests, full and short ids."""

from __future__ import annotations

import contextlib
import difflib
import json
import threading
import time
from collections.abc import Iterable
from typing import Any

from engine.alone import alone
from engine.image.host import BUILTIN_HOST
from engine.image.metadata import Database, ImageRow
from engine.image.model import Image
from engine.image.reference import Reference
from engine.spec.errors import Conflict, InvalidParameter, NotFound

_HEX = frozenset("0123456789abcdef")


class Catalogue:
    """Finds and names images.

    `lock` is held while names change, so that a removal sees all of them; it is taken before the database's own.
    """

    def __init__(self, database: Database, host: Image) -> None:
        self._db = database
        self.host = host
        self.lock = threading.RLock()

    def id_of(self, text: str) -> str:
        """The id that a word means. Raises NotFound, Conflict (ambiguous), InvalidParameter (no possible name)."""
        hexadecimal = text.removeprefix("sha256:")
        if len(hexadecimal) == 64 and set(hexadecimal) <= _HEX:
            full = f"sha256:{hexadecimal}"
            row = self._db.image(full)
            if full == self.host.id or (row and not row.removed):
                return full
            raise self._unknown(text)
        if not text.startswith("sha256:"):
            reference = Reference.parse(text).with_default_tag()
            if str(reference.tagged()) == BUILTIN_HOST:
                return self.host.id
            found = self._db.image_named(str(reference.at(reference.digest) if reference.digest else reference))
            if found:
                return found
        return self._by_prefix(text, hexadecimal)

    def _by_prefix(self, text: str, prefix: str) -> str:
        found = self._db.ids_with_prefix(prefix) if prefix and set(prefix) <= _HEX else []
        if prefix and self.host.id.startswith(f"sha256:{prefix}"):
            found.append(self.host.id)
        if len(found) > 1:
            raise Conflict(f"the short image id {text!r} is ambiguous", hint="Give more digits.")
        if not found:
            raise self._unknown(text)
        return found[0]

    def _unknown(self, text: str) -> NotFound:
        known = {Reference.parse(name).familiar for name in self._db.names() if "@" not in name} | {BUILTIN_HOST}
        known |= {name.removesuffix(":latest") for name in known}
        near = difflib.get_close_matches(text, known, 1)
        hint = f"Did you mean {near[0]}?" if near else "`engine pull` fetches an image from a registry."
        return NotFound(f"No such image: {text}", hint=hint)

    def row(self, id: str) -> ImageRow:
        """The stored image of a full id. Raises NotFound."""
        row = self._db.image(id)
        if row is None or row.removed:
            raise NotFound(f"No such image: {id}")
        return row

    def image(self, id: str) -> Image:
        """The image of a full id. Raises NotFound."""
        return self.image_of(self.row(id))

    def image_of(self, row: ImageRow) -> Image:
        """A stored image with its names."""
        names = self.names_of(row.id)
        layers = self._db.layers_of(row.id)
        return Image(
            id=row.id,
            config=self._config(row),
            layers=tuple(layer.diff_id for layer in layers),
            size=sum(layer.size for layer in layers),
            repo_tags=tuple(name.familiar for name in names if not name.digest),
            repo_digests=tuple(name.familiar for name in names if name.digest),
            last_tagged=row.last_tagged,
        )

    def _config(self, row: ImageRow) -> dict[str, Any]:
        """The configuration; empty, with a line in the log, if it cannot be read: the image is shown, to be removed."""
        with alone(f"image {row.id}"):
            config = json.loads(row.config)
            if isinstance(config, dict):
                return config
            raise ValueError("its configuration is no JSON object")
        return {}

    def names_of(self, id: str) -> list[Reference]:
        """All names of an image."""
        return [Reference.parse(name) for name in self._db.names_of(id)]

    def named(self, ref: str) -> list[tuple[str, list[Reference]]]:
        """The images that `ref` names by tag, with those names; nothing when it is an id or a digest."""
        with contextlib.suppress(InvalidParameter):
            reference = Reference.parse(ref)
            if reference.digest:
                return []
            named: dict[str, list[Reference]] = {}
            for name, id in self._db.names().items():
                found = Reference.parse(name)
                if not found.digest and found.name == reference.name and reference.tag in ("", found.tag):
                    named.setdefault(id, []).append(found)
            return [*named.items()]
        return []

    def name(self, id: str, names: Iterable[str]) -> bool:
        """Let names mean an image; whether that was new for any."""
        with self.lock, self._db.transaction():
            fresh = [name for name in names if self._db.image_named(name) != id]
            for name in fresh:
                self._db.put_name(name, id, time.time())
            return bool(fresh)
