"""The applier of what the firewall does: segments, masquerading, published ports.

The ruleset (see `ruleset`) is made when the first element is needed, and stays until `collect` finds that nothing is
wanted any more: then the table goes, unless the operator's chain in it has rules. IP forwarding, once on, stays on.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from engine.reconcile import conntrack
from engine.reconcile.applier import BatchError, Context, Difference, Tag
from engine.reconcile.foreign_firewall import ForeignFirewall
from engine.reconcile.forwarding import Forwarding
from engine.reconcile.hot_elements import Change, ChangeRefused, HotElements, are_hot
from engine.reconcile.libnft import Nft, NftError
from engine.reconcile.ruleset import (
    OPERATORS_CHAIN,
    VERSION,
    Element,
    Ruleset,
    elements,
    families_of,
    fingerprint,
    read_elements,
    script,
)
from engine.reconcile.settings import Settings
from engine.spec.firewall import PortMap, Segment
from engine.spec.resource import Key, Resource

_FAMILIES = frozenset({"segment", "masquerade", "port", "open-port", "sealed-port"})


class NftApplier:
    """Elements of the engine's sets and maps, and the ruleset that they are for."""

    families: ClassVar[frozenset[str]] = _FAMILIES | {"firewall"}

    def __init__(self, tag: Tag, settings: Settings | None = None) -> None:
        """`settings` watches the kernel's switches that the firewall relies on."""
        self._table = tag.table
        self._where = f"inet {tag.table}"
        self._nft = Nft()
        self._hot = HotElements(tag.table)
        self._foreign = ForeignFirewall(self._nft, tag.table)
        self._forwarding = Forwarding(settings)
        self._ready = False

    def create(self, batch: Sequence[Resource], context: Context) -> Sequence[Resource]:
        """Make a batch in one transaction; see `Applier.create`."""
        items = [item for item in batch if not isinstance(item, Ruleset)]
        changes = {Change("create", element): item for item in items for element in elements(item)}
        try:
            self._ensure(batch, anew=len(items) < len(batch))
            self._change_with_ruleset(batch, list(changes))
        except ChangeRefused as err:
            failed = changes[err.change] if err.change else batch[0]
            raise BatchError(failed, err, (), exists=err.errno == errno.EEXIST, errno=err.errno or 0) from err
        except OSError as err:
            raise BatchError(batch[0], err, (), errno=err.errno or 0) from err
        self._follow_up(items, items)
        return items

    def update(self, old: Resource, new: Resource, context: Context) -> None:
        """Give an existing thing the values of `new`, in one transaction."""
        try:
            self._ensure([new], anew=isinstance(new, Ruleset))
            seen = read_elements(self._listing() or ())
            wanted = elements(new)
            stale = [e for e in (*elements(old), *_optional(new)) if (e.set, e.key) not in {w[:2] for w in wanted}]
            changes = [Change("delete", e) for e in stale if _plain(e.key) in seen[e.set]]
            for element in wanted:
                data = seen[element.set].get(_plain(element.key))
                if data is not None and data != element.data:
                    changes.append(Change("delete", element))
                if data != element.data:
                    changes.append(Change("create", element))
            self._change_with_ruleset([new], list(dict.fromkeys(changes)))
        except OSError as err:
            raise BatchError(new, err, (), errno=err.errno or 0) from err
        self._follow_up([new], [old, new])

    def exchange(self, old: Sequence[Resource], new: Sequence[Resource]) -> None:
        """Put things in the place of others in one transaction; see `TransactionalApplier.exchange`."""
        stale = {element: item for item in old for element in elements(item)}
        fresh = {element: item for item in new for element in elements(item)}
        changes = {Change("delete", element): item for element, item in stale.items() if element not in fresh}
        changes |= {Change("create", element): item for element, item in fresh.items() if element not in stale}
        try:
            self._ensure(new)
            self._change(list(changes))
        except ChangeRefused as err:
            failed = changes[err.change] if err.change else [*new, *old][0]
            raise BatchError(failed, err, (), exists=err.errno == errno.EEXIST, errno=err.errno or 0) from err
        except OSError as err:
            raise BatchError([*new, *old][0], err, (), errno=err.errno or 0) from err
        self._follow_up(new, [*old, *new])

    def remove(self, batch: Sequence[Resource], context: Context) -> list[tuple[Resource, Exception]]:
        """Remove a batch in one transaction; see `Applier.remove`."""
        doomed = [element for item in batch for element in elements(item)]
        try:
            try:
                self._change([Change("delete", element) for element in doomed])
            except ChangeRefused as err:
                if err.errno != errno.ENOENT:
                    raise
                seen = read_elements(self._listing() or ())
                self._change([Change("delete", e) for e in doomed if _plain(e.key) in seen[e.set]])
        except OSError as err:
            return [(item, err) for item in batch]
        conntrack.forget_soon([item for item in batch if isinstance(item, PortMap)])
        return []

    def diff(self, wanted: Mapping[Key, Resource], contexts: Mapping[Key, Context]) -> list[Difference]:
        """Compare the ruleset, what it relies on, and the elements of wanted resources."""
        if not wanted:
            return []
        listing = self._listing()
        families = sorted({family for item in wanted.values() for family in families_of(item)})
        owner = next(iter(contexts.values())).owner
        found: list[Difference] = []
        if wrong := self._wrong(listing, families):
            ruleset = Ruleset(table=self._table, families=tuple(families))
            state = "missing" if listing is None else "differs"
            found.append(Difference(ruleset.key, state, dict.fromkeys(wrong, (True, False)), owner, ruleset))
        self._ready = not wrong
        seen = read_elements(listing or ())
        for key, item in wanted.items():
            state, fields = self._compare(item, seen)
            if state:
                found.append(Difference(key, state, fields, contexts[key].owner, item))
        return found

    def _compare(
        self, item: Resource, seen: Mapping[str, Mapping[str, str]]
    ) -> tuple[str, dict[str, tuple[object, object]]]:
        fields: dict[str, tuple[object, object]] = {}
        wanted = elements(item)
        for element in wanted:
            data = seen[element.set].get(_plain(element.key))
            if data != element.data:
                fields[f"{element.set} {element.key}"] = (element.data or True, data)
        for element in _optional(item):
            if element not in wanted and _plain(element.key) in seen[element.set]:
                fields[f"{element.set} {element.key}"] = (False, True)
        if wanted and len(fields) == len(wanted) and all(data is None for _, data in fields.values()):
            return "missing", fields
        if isinstance(item, PortMap) and not self._forwarding.loopback_reaches(item):
            fields["route_localnet"] = (1, 0)
        return ("differs" if fields else ""), fields

    def unwanted(self, wanted: Mapping[Key, Resource]) -> list[Difference]:
        """Return elements that nobody wants; if nothing is wanted, the whole table."""
        items = [item for key, item in wanted.items() if key[0] in _FAMILIES]
        listing = self._listing()
        found: list[Difference] = []
        if not items and self._foreign.present():
            found.append(Difference(("firewall", "host", self._table, "foreign"), "unwanted"))
        if listing is None:
            return found
        if not items and not _operators_rules(listing):
            return [*found, Difference(("firewall", "host", self._table), "unwanted")]
        known = {(e.set, _plain(e.key)) for item in items for e in elements(item)}
        seen = read_elements(listing)
        found += [
            Difference(("element", "host", name, key), "unwanted")
            for name, content in seen.items()
            for key in content
            if (name, key) not in known
        ]
        return found

    def discard(self, difference: Difference) -> None:
        """Remove one thing that `unwanted` returned."""
        family, _, *rest = difference.key
        if family == "element":
            name, key = rest
            quoted = " . ".join(f'"{part}"' for part in key.split(" . ")) if name in _NAMED else key
            self._change([Change("delete", Element(name, quoted))])
        elif len(rest) > 1:
            self._foreign.remove()
        else:
            self._ready = False
            self._nft.run(f"delete table {self._where}")

    def _command(self, change: Change) -> str:
        element = change.element
        text = element.text() if change.verb == "create" else element.key
        return f"{change.verb} element {self._where} {element.set} {{ {text} }}"

    def _change(self, changes: Sequence[Change]) -> None:
        """Make changes in one transaction; raises ChangeRefused."""
        if not changes:
            return
        if are_hot(changes):
            self._hot.change(changes)
            return
        commands = {self._command(change): change for change in changes}
        try:
            self._nft.run("\n".join(commands))
        except NftError as err:
            raise ChangeRefused(err, commands.get(err.line)) from err

    def _change_with_ruleset(self, batch: Sequence[Resource], changes: Sequence[Change]) -> None:
        try:
            self._change(changes)
        except ChangeRefused as err:
            if err.errno != errno.ENOENT:
                raise
            self._ready = False  # somebody has flushed the table
            self._ensure(batch)
            self._change(changes)

    def _listing(self, *, terse: bool = False) -> list[Mapping[str, Any]] | None:
        return self._nft.listing(f"table {self._where}", terse=terse)

    def _wrong(self, listing: list[Mapping[str, Any]] | None, families: Iterable[int]) -> list[str]:
        """Return what is not as it must be, apart from elements."""
        names = {item["set"]["name"] for item in listing or () if "set" in item}
        wrong = [] if listing is not None and {VERSION, fingerprint(listing)} <= names else ["rules"]
        wrong += [f"forwarding of IPv{family}" for family in families if not self._forwarding.is_on(family)]
        return wrong + self._foreign.wrong()

    def _ensure(self, batch: Sequence[Resource], *, anew: bool = False) -> None:
        """Make sure that the ruleset, and what it relies on, is there for these resources."""
        families = {family for item in batch for family in families_of(item)}
        if anew or not self._ready:
            if "rules" in self._wrong(self._listing(terse=True), ()):
                self._write()
            self._foreign.ensure()
            self._ready = True
        for family in families:
            self._forwarding.turn_on(family)

    def _write(self) -> None:
        before = self._listing(terse=True) or []
        names = [item["set"]["name"] for item in before if "set" in item]
        try:
            self._nft.run(script(self._table))
        except NftError:
            if not before or VERSION in names:
                raise
            # Another version's sets are in the way. The operator's rules are carried over; elements are found missing.
            self._nft.run(f"delete table {self._where}\n{script(self._table)}")
            if rules := _operators_rules(before):
                self._nft.restore(rules)
            names = []
        markers = [name for name in names if name.startswith(("v_", "h_"))]
        commands = [f"delete set {self._where} {name}" for name in markers]
        new = (VERSION, fingerprint(self._listing(terse=True) or []))
        commands += [f"add set {self._where} {name} {{ type mark; }}" for name in new]
        self._nft.run("\n".join(commands))

    def _follow_up(self, items: Sequence[Resource], flows: Sequence[Resource]) -> None:
        """Do what belongs to a published port besides its element; raises BatchError with everything as created."""
        for item in items:
            try:
                if isinstance(item, PortMap):
                    self._forwarding.let_loopback_reach(item)
            except OSError as err:
                raise BatchError(item, err, items, errno=err.errno or 0) from err
        conntrack.forget_soon([item for item in flows if isinstance(item, PortMap)])


_OF_A_SEGMENT = ("internal", "closed", "routed4", "routed6", "unprotected4", "unprotected6")
"""Sets that the link of a segment may be in."""
_NAMED = frozenset({"segments", "same", "trusted", *_OF_A_SEGMENT})
"""Sets of names of links, which nft wants quoted."""


def _plain(key: str) -> str:
    return key.replace('"', "")


def _optional(item: Resource) -> list[Element]:
    """Return the elements that a resource may have, depending on its fields."""
    if not isinstance(item, Segment):
        return []
    return [Element(name, f'"{item.link}"') for name in _OF_A_SEGMENT]


def _operators_rules(listing: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [item for item in listing if item.get("rule", {}).get("chain") == OPERATORS_CHAIN]
