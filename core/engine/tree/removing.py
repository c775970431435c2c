"""The removal of an object that another host may be writing at the same moment."""

from __future__ import annotations

from engine.spec.errors import Conflict, Unsupported
from engine.spec.storage import Stat, Store
from engine.tree.listing import version_of


def remove(store: Store, key: str, seen: Stat) -> None:
    """Remove an object that `head` has described as `seen`; raise Conflict if it is another one by now.

    The store decides that, where it can. Elsewhere the object is asked for once more, immediately before its removal:
    somebody who writes within that moment is not noticed, and what was removed cannot be had back from such a store.
    """
    if store.caps.delete_if and seen.etag is not None:
        try:
            return store.delete(key, if_match=seen.etag)
        except Unsupported:
            pass  # its server heeds no conditions, as the store has found out by now: there is only the other way
    now = store.head(key)
    if now is None:
        return None
    if version_of(now) != version_of(seen):
        raise Conflict(f"removing {key!r}", why="somebody else wrote it meanwhile")
    return store.delete(key)
