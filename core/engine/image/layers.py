"""The content-addressed layer store: each layer is unpacked once, verified, and published by a rename."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import secrets
import threading
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from engine.alone import alone
from engine.durable import sync_directory, sync_file_system
from engine.image.compression import Readable
from engine.image.hashing import Hashed
from engine.image.metadata import Database, Layer, no_room
from engine.image.unpack import drain
from engine.image.unpacking import unpack_apart
from engine.spec.errors import InvalidParameter
from engine.treewalk import remove_tree

log = logging.getLogger(__name__)

SYNC_SECONDS = 5.0
"""How long the end of the engine waits for the disk."""


class LayerStore:
    """Layers below `root`: directories `l/NAME` for overlayfs, blobs `b/NAME` as they came, `tmp/` for work.

    Blobs are synced to disk before a layer counts; its directory (thousands of files) is synced later, in background.
    After a power failure `collect` makes the directories that had not been synced again, from their blobs.
    """

    def __init__(self, root: Path, database: Database) -> None:
        self.root = root
        self._db = database
        self._lock = threading.Lock()
        self._writers = 0
        self._sweep_due = False
        self._making: defaultdict[str, threading.RLock] = defaultdict(threading.RLock)
        self._syncing: threading.Thread | None = None
        self._closed = False
        for name in ("l", "b", "tmp", "e"):
            (root / name).mkdir(exist_ok=True)
        self.empty = root / "e"
        """An empty directory: the root file system of an image without layers."""
        self._boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()

    def close(self) -> None:
        """Wait a moment for the background sync; what a slow disk has not taken by then stays marked."""
        with self._lock:
            thread = self._syncing
        if thread is not None:
            thread.join(SYNC_SECONDS)
        with self._lock:
            self._closed = True

    # -- reading

    def get(self, diff_id: str) -> Layer | None:
        """The layer of a diff id, if it is here."""
        return self._db.layer(diff_id)

    def directory(self, layer: Layer) -> Path:
        """What overlayfs takes as lowerdir."""
        return self.root / "l" / layer.name

    def blob(self, layer: Layer) -> Path:
        """The file with the layer's blob as it came."""
        return self.root / "b" / layer.name

    # -- writing

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Layers that are added within are safe from `sweep` until the image that needs them is stored."""
        with self._lock:
            self._writers += 1
        try:
            yield
        except BaseException:
            self._sweep_due = True
            raise
        finally:
            with self._lock:
                self._writers -= 1
                due = self._sweep_due and not self._writers
            if due:
                self.sweep()

    @contextlib.contextmanager
    def alone(self, diff_id: str) -> Iterator[None]:
        """Only one thread at a time makes a layer; the others find it made."""
        with self._lock:
            lock = self._making[diff_id]
        with lock:
            yield

    def add(self, source: Readable, *, diff_id: str = "", blob: str = "") -> Layer:
        """Unpack, verify and publish the layer whose (compressed or plain) tar `source` yields.

        `diff_id` and `blob` are the digests it must have; what is not given is taken as it comes. To be called within
        `writing`, and within `alone` when the diff id is known. Raises InvalidParameter for a corrupt or hostile
        layer, Unavailable for a full disk; nothing is left then.
        """
        with self.scratch() as scratch:
            made = self._make(source, scratch, diff_id, blob)
            with self.alone(made.diff_id):
                return self.get(made.diff_id) or self._publish(made, scratch)

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """A directory on the store's file system that is gone afterwards. A full disk becomes a clear error here."""
        path = self.root / "tmp" / secrets.token_hex(6)
        try:
            path.mkdir()
            yield path
        except OSError as err:
            if err.errno in (errno.ENOSPC, errno.EDQUOT):
                raise no_room(self.root, os.strerror(err.errno)) from err
            raise
        finally:
            _clear_away(path)

    def _make(self, source: Readable, scratch: Path, diff_id: str, blob: str) -> Layer:
        (scratch / "fs").mkdir()
        (scratch / "fs").chmod(0o755)  # whatever the umask
        with (scratch / "blob").open("wb") as file:
            tee = Hashed(source, file.write)
            try:
                made = unpack_apart(tee, scratch / "fs")
                drain(tee)
            except InvalidParameter as err:
                drain(tee)
                _verify("blob", tee.digest, blob, err)  # what was damaged on the way is no fault of the layer
                raise
            _verify("blob", tee.digest, blob)
            _verify("content", made.diff_id, diff_id)
            file.flush()
            os.fsync(file.fileno())
        return Layer(made.diff_id, secrets.token_hex(6), tee.digest, tee.size, made.tar_size, made.size, self._boot)

    def _publish(self, layer: Layer, scratch: Path) -> Layer:
        (scratch / "blob").rename(self.blob(layer))
        (scratch / "fs").rename(self.directory(layer))
        sync_directory(self.root / "b")
        sync_directory(self.root / "l")
        self._db.put_layer(layer)
        self._sync_later()
        return layer

    def _sync_later(self) -> None:
        with self._lock:
            if self._syncing is None:
                self._syncing = threading.Thread(target=self._sync, name="image-sync", daemon=True)
                self._syncing.start()

    def _sync(self) -> None:
        while True:
            with self._lock:
                names = [layer.name for layer in self._db.layers() if layer.boot == self._boot]
                if not names:
                    self._syncing = None
                    return
            try:
                _sync_file_system_of(self.root)
            except OSError as err:
                log.warning("layers not synced to disk, they stay marked: %s", err)
                with self._lock:
                    self._syncing = None
                return
            with self._lock:
                if self._closed:
                    return
                self._db.mark_on_disk(names)
                self._db.keep_backup()

    # -- removing

    def sweep(self) -> int:
        """Remove the layers that no image has; returns the bytes freed. Put off while an image is being stored."""
        with self._lock:
            if self._writers:
                self._sweep_due = True
                return 0
            self._sweep_due = False
            dropped = self._db.drop_unused_layers()
        for layer in dropped:
            self._discard(layer)
        return sum(layer.size + layer.blob_size for layer in dropped)

    def _discard(self, layer: Layer) -> None:
        self.blob(layer).unlink(missing_ok=True)
        grave = self.root / "tmp" / layer.name
        with contextlib.suppress(FileNotFoundError):
            self.directory(layer).rename(grave)
        _clear_away(grave)

    def collect(self) -> None:
        """At start, before anything uses the store: remove what a crash left, restore what a power failure took."""
        for leftover in (self.root / "tmp").iterdir():
            _clear_away(leftover)
        self.sweep()
        known = {layer.name: layer for layer in self._db.layers()}
        for kind in ("l", "b"):
            for path in () if self._db.loss else (self.root / kind).iterdir():
                if path.name not in known:
                    log.info("%s goes: left by a crash", path)
                    _clear_away(path)
        for layer in known.values():
            if layer.boot not in ("", self._boot) or not self.directory(layer).is_dir():
                with alone(f"layer {layer.diff_id}"):
                    self._restore(layer)
        if any(layer.boot for layer in self._db.layers()):
            self._sync_later()

    def _restore(self, layer: Layer) -> None:
        log.warning("layer %s may be incomplete after a power failure: made again from its blob", layer.diff_id)
        with self.scratch() as scratch, self.blob(layer).open("rb") as blob:
            self._make(blob, scratch, layer.diff_id, layer.blob)
            remove_tree(self.directory(layer))
            (scratch / "fs").rename(self.directory(layer))
        _sync_file_system_of(self.root)
        self._db.mark_on_disk([layer.name])


def _verify(what: str, found: str, wanted: str, cause: BaseException | None = None) -> None:
    if wanted and found != wanted:
        raise InvalidParameter(
            f"the layer is corrupt: its {what} does not have the digest {wanted}",
            why=f"it has {found}",
            hint="Try again; if it stays so, the registry or the archive is damaged.",
        ) from cause


def _sync_file_system_of(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sync_file_system(fd)
    finally:
        os.close(fd)


def _clear_away(path: Path) -> None:
    try:
        remove_tree(path)
    except OSError as err:
        log.warning("%s is left, and removed at the next start: %s", path, err)
