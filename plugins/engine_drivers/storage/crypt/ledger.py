"""What is known of the objects of a store, and the judgement on one that is found. In memory, without locks.

An object's nonce stands for its content: blocks are sealed with it, and nobody without the key makes others. Known are
the nonce and size that each name has now, and the nonces that were given up. An object of another size, or of a later
part of the nonce's family, is cut; one with another name's nonce was exchanged; one with a nonce that was given up is
old. A nonce that nobody knows was written by somebody with the key: by rclone, by another host, or by us before a
crash. Only an empty object needs no key (see `nonces`).
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable

from engine_drivers.storage.crypt.content import HEADER
from engine_drivers.storage.crypt.nonces import family_of
from engine_drivers.storage.crypt.segments import Entry, Segment

_REMEMBERED = 1 << 16
"""Families that were given up and are remembered when everything is written anew."""


class Ledger:
    """The objects that should be there."""

    def __init__(self, proves_empty: Callable[[bytes], bool]) -> None:
        self._proves_empty = proves_empty
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self.objects: dict[str, Entry] = {}
        """By stored name."""
        self.intents: dict[str, Entry] = {}
        """By stored name: what the server is about to copy there."""
        self._holders: Counter[bytes] = Counter()
        self._given_up: OrderedDict[bytes, None] = OrderedDict()

    def follow(self, segment: Segment) -> None:
        """Take in what a segment of the log says."""
        if segment.kind == "whole":
            self.clear()
        self.give_up(segment.retired)
        for name, entry in segment.objects.items():
            self.set(name, entry)
        self.intents.update(segment.intents)

    def everything(self) -> tuple[dict[str, Entry | None], tuple[bytes, ...], dict[str, Entry]]:
        """Return objects, families that were given up, and intents, as a whole segment has them."""
        while len(self._given_up) > _REMEMBERED:
            self._given_up.popitem(last=False)
        return dict(self.objects), tuple(self._given_up), dict(self.intents)

    def set(self, name: str, entry: Entry | None) -> bytes | None:
        """Put an entry in the place of another one; return the family that no object has any more."""
        self.intents.pop(name, None)
        before = self.objects.pop(name, None)
        if entry is not None:
            self.objects[name] = entry
            self._holders[family_of(entry.nonce)] += 1
            self.restore(entry)
        if before is None:
            return None
        family = family_of(before.nonce)
        self._holders[family] -= 1
        if self._holders[family] > 0:
            return None
        del self._holders[family]
        return family

    def give_up(self, families: Iterable[bytes]) -> None:
        """Remember families whose objects are old from now on."""
        self._given_up.update(dict.fromkeys(families))

    def restore(self, entry: Entry) -> None:
        """Forget that an object's family was given up."""
        self._given_up.pop(family_of(entry.nonce), None)

    def problem(self, name: str, found: Entry, shown: Callable[[str], str]) -> tuple[str, str] | None:
        """Return what is wrong with an object, as `Checked.problem` and in words; None if nothing is."""
        known = self.objects.get(name)
        if found in (known, self.intents.get(name)):
            return None
        family = family_of(found.nonce)
        if known is not None and family_of(known.nonce) == family:
            if known.nonce != found.nonce:
                return "truncated", "its first blocks are cut off"
            return "truncated", f"it has {found.size} bytes instead of {known.size}"
        if self._holders[family]:
            others = [shown(n) for n, e in self.objects.items() if family_of(e.nonce) == family][:1]
            return "swapped", f"it is the object of {others[0]!r}"
        if family in self._given_up:
            return "rolled-back", "it is an object that was replaced or removed before"
        emptied = known is not None and known.size > HEADER and found.size == HEADER
        if emptied and not self._proves_empty(found.nonce):
            return "truncated", "it is empty, which takes no key: it was not emptied by an engine that has the key"
        return None
