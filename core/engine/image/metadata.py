"""Which images, names and layers exist: one small SQLite database below the image root.

A row is the truth; a directory or file without one is rubbish that `LayerStore.collect` removes, unless the database
was lost (see `engine.database`).
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from engine.database import DatabaseFile
from engine.spec.errors import Unavailable

SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS layers (
    diff_id TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,   -- of its directory below l/ and its blob below b/
    blob TEXT NOT NULL,          -- digest of the blob as it came, compressed or not
    blob_size INTEGER NOT NULL,
    tar_size INTEGER NOT NULL,   -- bytes of the plain tar
    size INTEGER NOT NULL,       -- bytes of its regular files
    boot TEXT NOT NULL           -- the boot in which its directory was written; '' once that is known to be on disk
);
CREATE TABLE IF NOT EXISTS images (
    id TEXT PRIMARY KEY,
    config BLOB NOT NULL,        -- the bytes whose digest is the id
    manifest BLOB,               -- as pulled, so that a push gives the same digest
    last_tagged REAL NOT NULL,
    removed INTEGER NOT NULL DEFAULT 0  -- gone for people, kept for the containers that still use it
);
CREATE TABLE IF NOT EXISTS image_layers (
    image TEXT NOT NULL REFERENCES images(id) ON DELETE CASCADE,
    position INTEGER NOT NULL,
    diff_id TEXT NOT NULL REFERENCES layers(diff_id),
    PRIMARY KEY (image, position)
);
CREATE INDEX IF NOT EXISTS image_layers_diff_id ON image_layers(diff_id);
CREATE TABLE IF NOT EXISTS names (
    name TEXT PRIMARY KEY,       -- full: docker.io/library/busybox:latest, or ...@sha256:...
    image TEXT NOT NULL REFERENCES images(id) ON DELETE CASCADE
);
CREATE INDEX IF NOT EXISTS names_image ON names(image);
"""


def no_room(place: Path, why: str) -> Unavailable:
    """The error for a full disk."""
    return Unavailable(f"no room for images at {place}", why=why, hint="Free space, for example: engine image prune.")


class Layer(NamedTuple):
    """A layer of the store; sizes in bytes."""

    diff_id: str
    name: str
    blob: str
    blob_size: int
    tar_size: int
    size: int
    boot: str


class ImageRow(NamedTuple):
    """An image as stored."""

    id: str
    config: bytes
    manifest: bytes | None
    last_tagged: float
    removed: bool


class Database:
    """Thread-safe access; every method is one transaction. Durable when it returns (WAL, synchronous=FULL)."""

    def __init__(self, path: Path) -> None:
        """Open the database, or make it. Raises Internal if a newer engine wrote it, Unavailable if it is damaged."""
        self._lock = threading.RLock()
        self._path = path
        self._file = DatabaseFile(path, _SCHEMA, SCHEMA_VERSION)
        blobs = path.with_name("b")
        self._connection = self._file.open(data_there=lambda: blobs.is_dir() and any(blobs.iterdir()))

    @property
    def loss(self) -> str:
        """A sentence about the database's loss, until a person has removed the note of it; else empty."""
        return self._file.loss()

    def keep_backup(self) -> None:
        """Write the backup anew if something has changed since the start."""
        with self._lock:
            self._file.keep_backup(self._connection)

    def close(self) -> None:
        """Close the database, and keep a backup of it."""
        with self._lock:
            self._file.keep_backup(self._connection)
            self._connection.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing; other threads wait. Nests by joining the outer one."""
        with self._lock:
            if self._connection.in_transaction:
                yield
                return
            self._rows("BEGIN IMMEDIATE")
            try:
                yield
                self._rows("COMMIT")
            except BaseException:
                if self._connection.in_transaction:  # a full disk rolls back by itself
                    self._connection.execute("ROLLBACK")
                raise

    def _rows(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        with self._lock:
            try:
                return self._connection.execute(sql, values).fetchall()
            except sqlite3.DatabaseError as err:
                if err.sqlite_errorcode == sqlite3.SQLITE_FULL:
                    raise no_room(self._path, str(err)) from err
                raise self._file.failure(err) from err

    # -- layers

    def layer(self, diff_id: str) -> Layer | None:
        """The layer of a diff id, if it is in the store."""
        rows = self._rows("SELECT * FROM layers WHERE diff_id = ?", diff_id)
        return Layer(*rows[0]) if rows else None

    def layers(self) -> list[Layer]:
        """All layers."""
        return [Layer(*row) for row in self._rows("SELECT * FROM layers")]

    def layers_of(self, image: str) -> list[Layer]:
        """The layers of an image, bottom first."""
        sql = "SELECT l.* FROM image_layers i JOIN layers l USING (diff_id) WHERE i.image = ? ORDER BY position"
        return [Layer(*row) for row in self._rows(sql, image)]

    def put_layer(self, layer: Layer) -> None:
        """Add a layer."""
        with self.transaction():
            self._rows("INSERT INTO layers VALUES (?, ?, ?, ?, ?, ?, ?)", *layer)

    def mark_on_disk(self, names: Iterable[str]) -> None:
        """Note that the directories of these layers are on disk."""
        with self.transaction():
            for name in names:
                self._rows("UPDATE layers SET boot = '' WHERE name = ?", name)

    def drop_unused_layers(self) -> list[Layer]:
        """Delete the rows of layers that no image has; returns them."""
        with self.transaction():
            sql = "DELETE FROM layers WHERE diff_id NOT IN (SELECT diff_id FROM image_layers) RETURNING *"
            return [Layer(*row) for row in self._rows(sql)]

    # -- images and names

    def images(self) -> list[ImageRow]:
        """All images, the removed ones too."""
        return [ImageRow(*row) for row in self._rows("SELECT * FROM images")]

    def image(self, id: str) -> ImageRow | None:
        """The image of an id, also a removed one."""
        rows = self._rows("SELECT * FROM images WHERE id = ?", id)
        return ImageRow(*rows[0]) if rows else None

    def ids_with_prefix(self, prefix: str) -> list[str]:
        """Ids that begin with "sha256:" and these hexadecimal digits."""
        sql = "SELECT id FROM images WHERE removed = 0 AND id >= ? AND id < ? LIMIT 2"
        low = f"sha256:{prefix}"
        return [row[0] for row in self._rows(sql, low, low + "g")]

    def put_image(self, id: str, config: bytes, manifest: bytes | None, layers: Iterable[str]) -> None:
        """Add an image or bring a removed one back; a manifest that is known stays when none is given."""
        with self.transaction():
            self._rows(
                "INSERT INTO images VALUES (?, ?, ?, 0, 0) ON CONFLICT (id) DO UPDATE "
                "SET removed = 0, manifest = coalesce(excluded.manifest, manifest)",
                id,
                config,
                manifest,
            )
            for position, diff_id in enumerate(layers):
                self._rows("INSERT OR IGNORE INTO image_layers VALUES (?, ?, ?)", id, position, diff_id)

    def drop_image(self, id: str) -> None:
        """Delete an image and its names."""
        with self.transaction():
            self._rows("DELETE FROM images WHERE id = ?", id)

    def hide_image(self, id: str) -> None:
        """Delete the names of an image and mark it removed."""
        with self.transaction():
            self._rows("DELETE FROM names WHERE image = ?", id)
            self._rows("UPDATE images SET removed = 1 WHERE id = ?", id)

    def names(self) -> dict[str, str]:
        """Every full name and its image id."""
        return dict(self._rows("SELECT name, image FROM names ORDER BY name"))

    def names_of(self, image: str) -> list[str]:
        """The full names of an image."""
        return [row[0] for row in self._rows("SELECT name FROM names WHERE image = ? ORDER BY name", image)]

    def image_named(self, name: str) -> str | None:
        """The image id of a full name."""
        rows = self._rows("SELECT image FROM names WHERE name = ?", name)
        return str(rows[0][0]) if rows else None

    def put_name(self, name: str, image: str, now: float) -> None:
        """Let a name mean an image, whatever it meant before."""
        with self.transaction():
            self._rows("INSERT OR REPLACE INTO names VALUES (?, ?)", name, image)
            self._rows("UPDATE images SET last_tagged = ? WHERE id = ?", now, image)

    def drop_name(self, name: str) -> None:
        """Forget a name."""
        with self.transaction():
            self._rows("DELETE FROM names WHERE name = ?", name)
