"""The removal of an object that another host may be writing at the same moment."""

from __future__ import annotations

from engine.spec.errors import Conflict, Unsupported
from engine.spec.storage import Store
from engine.tree.listing import version_of


def remove(store: Store, key: str, version: str) -> None:
    """Remove the object of a version (see `version_of`); raise Conflict if it is another one. Gone is no error.

    The store decides that, where it can. Elsewhere the object is asked for immediately before its removal: somebody who
    writes within that moment is not noticed, and what was removed cannot be had back from such a store.
    """
    if store.caps.delete_if:
        try:
            return store.delete(key, if_match=version)
        except Unsupported:
            pass  # its server heeds no conditions, as the store has found out by now: there is only the other way
    found = store.head(key)
    if found is None:
        return None
    if version_of(found) != version:
        raise Conflict(f"removing {key!r}", why="somebody else wrote it meanwhile")
    return store.delete(key)
