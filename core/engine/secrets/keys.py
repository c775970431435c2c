"""The keys of encrypted volumes: found by what their slots name, or given by a person and kept until the engine ends.

Keys are in this process's memory and in the kernel; never in the database, a plan, a log or a command line.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from engine.durable import replace_file, write_new_file
from engine.secrets import slots
from engine.secrets.slots import Slot, SlotFile
from engine.spec.encryption import PROMPT, KeySlots
from engine.spec.errors import EngineError, Forbidden, Internal, InvalidParameter, Locked, NotFound

log = logging.getLogger(__name__)
FIRST = "main"
"""Name of the slot that a volume is made with."""
Reader = Callable[[str], bytes]
"""Gives the bytes of a secret's reference: `engine.storage.secrets.Secrets.read`."""
Form = Literal["text", "bytes"]


class VolumeKeys:
    """Key slots of all volumes, by the path of their file. For any thread; scrypt takes 0.1 s."""

    def __init__(self, read: Reader) -> None:
        self._resolve = read
        self._given: dict[str, bytes] = {}
        self._offered: dict[str, bytes] = {}
        self._lock = threading.Lock()

    # Making

    def offer(self, path: str, key: bytes) -> None:
        """Hold the key of a volume that is about to be made, and whose key is not written down anywhere."""
        with self._lock:
            self._offered[path] = key

    def withdraw(self, path: str) -> None:
        """Forget what was offered."""
        with self._lock:
            self._offered.pop(path, None)

    def create(self, resource: KeySlots) -> None:
        """Make the file of a new volume. Raises Locked without a key, what reading it raises, and FileExistsError."""
        with self._lock:
            offered = self._offered.get(resource.path)
        if resource.source == PROMPT and offered is None:
            raise Locked(
                "the volume needs its first passphrase", why="it is to be asked for, and nobody was",
                hint="`engine volume create` asks; or name a key: passphrase-file, key-file, secret, command",
            )  # fmt: skip
        key = slots.trimmed(offered if offered is not None else self._resolve(resource.source), resource.form)
        secret = os.urandom(slots.VOLUME_KEY)
        file = slots.new(secret, key, slots.slot_for(FIRST, resource.source, resource.form))
        if resource.password:
            file = file.with_password(secret, _text_key(key))
        write_new_file(Path(resource.path), file.to_json())
        if resource.source == PROMPT:
            self._keep(resource.path, secret)

    # Opening

    def read(self, path: str) -> bytes:
        """Return a volume's key. Raises Locked if a person has to give it, Forbidden if it is wrong."""
        with self._lock:
            given = self._given.get(path)
        if given is not None:
            return given
        file = self.file(path)
        reasons: list[str] = []
        wrong = False
        for slot in file.slots:
            if slot.source == PROMPT:
                reasons.append(f"slot {slot.name} has a passphrase that a person gives")
                continue
            try:
                return file.open(slots.trimmed(self._resolve(slot.source), slot.form))[1]
            except Forbidden as err:
                wrong = True
                reasons.append(f"slot {slot.name}: {err}")
            except NotFound as err:
                reasons.append(f"slot {slot.name}: {err.what}")
            except EngineError as err:
                reasons.append(f"slot {slot.name}: {err}")
        if wrong:
            raise Forbidden("the volume's key is wrong", why="; ".join(reasons), hint="Nothing was changed")
        raise Locked("the volume is locked", why="; ".join(reasons), hint="Give its key: engine volume unlock NAME")

    def password(self, path: str) -> bytes:
        """Return the password of the volume's store. Raises what `read` raises, and NotFound if it has none."""
        return self.file(path).open_password(self.read(path))

    def fscrypt_identifier(self, path: str) -> bytes:
        """Return what the kernel calls the volume's key; it is no secret."""
        return bytes.fromhex(self.file(path).identifier)

    def unlock(self, path: str, key: bytes) -> str:
        """Keep the volume's key until the engine ends, and return the slot. Raises Forbidden for a wrong one."""
        slot, secret = _open_any(self.file(path), key)
        self._keep(path, secret)
        return slot.name

    def lock(self, path: str) -> None:
        """Forget a key that was given."""
        with self._lock:
            self._given.pop(path, None)

    def needs(self, path: str) -> str:
        """Return what a locked volume needs, empty if its key can be had without a person. Cheap: it reads no key."""
        with self._lock:
            if path in self._given:
                return ""
        missing: list[str] = []
        for slot in self.file(path).slots:
            source, _, name = slot.source.partition(":")
            if slot.source == PROMPT:
                missing.append(f"the passphrase of slot {slot.name}")
            elif source == "file" and not Path(name).is_file():
                missing.append(f"the file {name} (slot {slot.name})")
            elif source == "command" or self._there(slot):
                return ""
            else:
                missing.append(f"{slot.source} (slot {slot.name})")
        return " or ".join(missing)

    def _there(self, slot: Slot) -> bool:
        try:
            self._resolve(slot.source)
        except EngineError:
            return False
        return True

    # Changing

    def file(self, path: str) -> SlotFile:
        """Return the slots of a volume. Raises NotFound, Internal if the file is damaged."""
        try:
            return slots.parse(Path(path).read_bytes(), path)
        except FileNotFoundError as err:
            raise NotFound("the volume has no key slots", why=f"{path} is not there") from err
        except OSError as err:
            raise Internal(f"the key slots of a volume cannot be read: {path}", why=str(err)) from err

    def set_slot(
        self, path: str, name: str, source: str, key: bytes | None, form: Form = "text", old: bytes | None = None
    ) -> SlotFile:
        """Add a slot, or give the slot of that name another key. No content is touched.

        `key` is what a person gave (source `prompt`), None to read it from `source`; `old` a key that opens the volume
        now, where it cannot be had without a person. Raises Locked, Forbidden, InvalidParameter.
        """
        slot = slots.slot_for(name, source, form)
        if (slot.source == PROMPT) is (key is None):
            raise InvalidParameter("give either a passphrase, or where the key is")
        secret = self.read(path) if old is None else _open_any(self.file(path), old)[1]
        wrapped = slots.trimmed(self._resolve(slot.source) if key is None else key, form)
        return self._replace(path, self.file(path).with_slot(secret, wrapped, slot))

    def remove_slot(self, path: str, name: str, old: bytes | None = None) -> SlotFile:
        """Remove a slot. Raises NotFound, Conflict for the last one, and Locked or Forbidden for who has no key."""
        if old is None:
            self.read(path)
        else:
            _open_any(self.file(path), old)
        return self._replace(path, self.file(path).without(name))

    def _replace(self, path: str, file: SlotFile) -> SlotFile:
        try:
            replace_file(Path(path), file.to_json())
        except OSError as err:
            raise Internal("the key slots cannot be written", why=str(err), hint="The old keys still hold") from err
        return file

    def _keep(self, path: str, secret: bytes) -> None:
        with self._lock:
            self._given[path] = secret


def _open_any(file: SlotFile, key: bytes) -> tuple[Slot, bytes]:
    """Open with a key as it was given, or without the end of its line."""
    try:
        return file.open(slots.trimmed(key, "text"))
    except Forbidden:
        if key == slots.trimmed(key, "text"):
            raise
        return file.open(key)


def _text_key(key: bytes) -> bytes:
    """Return a key that others are to type: Raises InvalidParameter if it is no text of one line."""
    try:
        text = key.decode()
    except UnicodeDecodeError:
        text = "\0"
    if not text.isprintable():
        raise InvalidParameter(
            "the key is not a text of one line", why="rclone takes its password as text",
            hint="Give a passphrase; a key file may then be added: engine volume rekey",
        )  # fmt: skip
    return key
