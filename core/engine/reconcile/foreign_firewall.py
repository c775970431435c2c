"""Living beside iptables' firewalls: they drop what they do not know, whatever another table accepts.

The one thing that is changed outside of our own table is a rule which accepts packets that carry the mark of our
firewall, in iptables' table `filter` (as nf_tables shows it, of IPv4 and IPv6): last in the chain FORWARD, while its
policy is to drop (dockerd's, ufw's). What any rule there decides stands, the operator's in DOCKER-USER too; only the
policy does not hit containers.

For dockerd that policy is a part of its isolation: it keeps others out of its networks. So packets to and from links of
which its rules speak get no mark; our table knows these links in a set. Rule and links change from time to time, and
are therefore looked at whenever the firewall is. Tables of other names are nobody's common ground: their owners let the
mark pass themselves (docs/how-to/firewall-policy.md).
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from engine.reconcile.libnft import Nft, NftError
from engine.reconcile.ruleset import DOCKERS_LINKS, MARK_PASSED

TABLE, FORWARD, DOCKER, DOCKER_USER = "filter", "FORWARD", "DOCKER", "DOCKER-USER"
FAMILIES = ("ip", "ip6")
ENGINES = "engine"
"""How the comments of all engines' rules begin: each is called like its engine's table."""
_LINK = re.compile(r"[\w.:@-]{1,15}", re.ASCII)
Rule = Mapping[str, Any]


class _Chain(NamedTuple):
    """A chain that there is, and our rules in it."""

    path: str
    """What nft calls it."""
    needs_rule: bool
    ours: list[int]
    """Handles."""
    in_place: bool
    """One of ours is where it should be, or none is there and none need be."""


class ForeignFirewall:
    """Our rule in the chains of others, and what we know of theirs. `table` is ours; so is each rule called."""

    def __init__(self, nft: Nft, table: str) -> None:
        self._nft = nft
        self._ours = table

    def _look(self) -> tuple[list[_Chain], set[str]]:
        """Return the chains that may have our rule, and the links of dockerd's networks."""
        chains: list[_Chain] = []
        links: set[str] = set()
        for family in FAMILIES:
            listing = self._nft.listing(f"table {family} {TABLE}") or ()
            rules = [item["rule"] for item in listing if "rule" in item]
            for chain in (item["chain"] for item in listing if "chain" in item):
                if chain["name"] in (FORWARD, DOCKER_USER):
                    chains.append(self._chain(family, chain, [r for r in rules if r["chain"] == chain["name"]]))
            links.update(link for rule in rules if _is_dockers(rule) for link in _links(rule))
        return chains, links

    def _chain(self, family: str, chain: Mapping[str, Any], rules: list[Rule]) -> _Chain:
        needs_rule = chain["name"] == FORWARD and chain.get("policy") == "drop"
        ours = [int(rule["handle"]) for rule in rules if rule.get("comment") == self._ours]
        last = len(rules)
        while last and str(rules[last - 1].get("comment", "")).startswith(ENGINES):
            last -= 1
        trailing = any(rule.get("comment") == self._ours for rule in rules[last:])
        return _Chain(f"{family} {TABLE} {chain['name']}", needs_rule, ours, trailing if needs_rule else not ours)

    def _known(self) -> set[str]:
        """Return the links that our table knows as dockerd's."""
        listing = self._nft.listing(f"set inet {self._ours} {DOCKERS_LINKS}") or ()
        return {str(link) for item in listing for link in item.get("set", {}).get("elem", ())}

    def wrong(self) -> list[str]:
        """Return what is not as it must be, as words."""
        chains, links = self._look()
        wrong = [f"rule in {chain.path}" for chain in chains if not chain.in_place]
        return wrong if self._known() == links else [*wrong, "links of dockerd"]

    def present(self) -> bool:
        """Tell whether there is a rule of ours."""
        return any(chain.ours for chain in self._look()[0])

    def ensure(self) -> None:
        """Learn dockerd's links, then put our rule into every chain that needs it, and take it out of the others."""
        chains, links = self._look()
        known = self._known()
        if links != known:
            name = f"inet {self._ours} {DOCKERS_LINKS}"
            elements = ", ".join(f'"{link}"' for link in sorted(links))
            self._nft.run(f"flush set {name}" + (f"\nadd element {name} {{ {elements} }}" if elements else ""))
        test = f"meta mark and {MARK_PASSED} == {MARK_PASSED}"
        for chain in [chain for chain in chains if not chain.in_place]:
            self._delete(chain)
            if chain.needs_rule:
                self._nft.run(f'add rule {chain.path} {test} accept comment "{self._ours}"')

    def remove(self) -> None:
        """Take our rules out."""
        for chain in self._look()[0]:
            self._delete(chain)

    def _delete(self, chain: _Chain) -> None:
        for handle in chain.ours:
            try:
                self._nft.run(f"delete rule {chain.path} handle {handle}")
            except NftError as err:
                if err.errno != errno.ENOENT:
                    raise


def is_of_interest(chain: str) -> bool:
    """Tell whether a change in a chain of the table can concern us. (In DOCKER itself are rules for single ports.)"""
    return chain == FORWARD or (chain.startswith(DOCKER) and chain != DOCKER)


def _is_dockers(rule: Rule) -> bool:
    """Tell whether dockerd made a rule: in a chain of its own, or one that leads to such a chain."""
    if rule["chain"] != FORWARD:
        return str(rule["chain"]).startswith(DOCKER) and rule["chain"] != DOCKER_USER
    targets = [part[verb]["target"] for part in rule["expr"] for verb in ("jump", "goto") if verb in part]
    return any(str(target).startswith(DOCKER) and target != DOCKER_USER for target in targets)


def _links(rule: Rule) -> Iterator[str]:
    for part in rule["expr"]:
        match = part.get("match", {}) if isinstance(part, Mapping) else {}
        key = match.get("left", {}).get("meta", {}).get("key") if isinstance(match.get("left"), Mapping) else None
        if key in ("iifname", "oifname") and isinstance(match["right"], str) and _LINK.fullmatch(match["right"]):
            yield match["right"]
