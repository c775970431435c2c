"""Which paths a store can hold, and which names are the engine's own. Paths are spelled: see `engine.tree.spelling`."""

from __future__ import annotations

import os
import re

from engine.spec.errors import InvalidParameter
from engine.spec.storage import StorageCaps, check_key
from engine.tree.attributes import Kind
from engine.tree.spelling import RESERVED, Spelling

SIDECAR = ".engine-attributes.json"
"""Object beside those of a directory, with the attributes of its files: see `engine.tree.sidecar`."""
STAGING = ".engine-staging"
"""Directory of unfinished files in the root of a tree, where there is no other place on its file system."""
NAME_MAX = 255
"""Bytes of a file's name (linux/limits.h)."""
_CONFLICT = re.compile(r"\.conflict-[^/]+$")


def sidecar_of(directory: str) -> str:
    """Return the key of a directory's sidecar."""
    return f"{directory}/{SIDECAR}" if directory else SIDECAR


def unstorable(path: str, kind: Kind, caps: StorageCaps) -> str:
    """Return why a file of the tree cannot be an object, or a directory cannot have a sidecar; "" if it can."""
    try:
        check_key(sidecar_of(path) if kind == "directory" else path, caps)
    except InvalidParameter as err:
        return err.why
    return ""


def unnameable(key: str, spelling: Spelling) -> str:
    """Return why an object cannot be a file; "" if it can."""
    segments = key.split("/")
    if any(s in ("", ".", "..") for s in segments):
        return "a part of its key is empty, `.` or `..`"
    if any(s.startswith(RESERVED) for s in segments):
        return f"names that begin with {RESERVED} are the engine's"
    if "\0" in key:
        return "it has a NUL"
    if not spelling.is_spelled(key):
        return f"it is not how the name {spelling.local(key)!r} is stored"
    if any(len(os.fsencode(spelling.local(s))) > NAME_MAX for s in segments):
        return f"a part of its key has more than {NAME_MAX} bytes"
    return ""


def conflict_name(name: str, host: str, stamp: str, number: int) -> str:
    """Return the name of a conflict copy, shortened where it would be too long; `number` tells apart equal ones."""
    ending = f".conflict-{host}-{stamp}" + (f"-{number}" if number else "")
    stem = name
    while len(os.fsencode(stem + ending)) > NAME_MAX:
        stem = stem[:-1]
    return stem + ending


def is_conflict_copy(path: str) -> bool:
    """Return whether a path has the name of a conflict copy, of any host."""
    return _CONFLICT.search(path) is not None
