"""Living beside iptables' firewalls: they drop what they do not know, whatever another table accepts.

The one thing that is changed outside of our own table is a rule which accepts packets that carry the mark of our
firewall, in iptables' table `filter` (as nf_tables shows it, of IPv4 and IPv6):

    DOCKER-USER  first, while the chain exists: dockerd leaves it to others
    FORWARD      last, while its policy is to drop and dockerd is not there (ufw, for example): what a rule there
                 decides stands, only the policy does not hit containers

Both are made anew by their owners from time to time; the rule is therefore looked for whenever the firewall is. Tables
of other names are nobody's common ground: their owners let the mark pass themselves (docs/how-to/firewall-policy.md).
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from engine.reconcile.libnft import Nft, NftError
from engine.reconcile.ruleset import MARK_PASSED

TABLE, DOCKER_USER, FORWARD = "filter", "DOCKER-USER", "FORWARD"
CHAINS = frozenset({DOCKER_USER, FORWARD})
FAMILIES = ("ip", "ip6")
ENGINES = "engine"
"""How the comments of all engines' rules begin: each is called like its engine's table."""


class _Chain(NamedTuple):
    """A chain that there is, and our rules in it."""

    family: str
    name: str
    needs_rule: bool
    ours: list[int]
    """Handles."""
    in_place: bool
    """One of ours is where it should be."""

    @property
    def path(self) -> str:
        """What nft calls it."""
        return f"{self.family} {TABLE} {self.name}"


class ForeignFirewall:
    """Our rule in the chains of others. `comment` tells it from other engines' rules."""

    def __init__(self, nft: Nft, comment: str) -> None:
        self._nft = nft
        self._comment = comment

    def _chains(self) -> Iterator[_Chain]:
        for family in FAMILIES:
            dockers = self._nft.listing(f"chain {family} {TABLE} {DOCKER_USER}")
            if dockers is not None:
                yield self._chain(family, DOCKER_USER, dockers, needs_rule=True)
            common = self._nft.listing(f"chain {family} {TABLE} {FORWARD}")
            if common is not None:
                drops = any(item.get("chain", {}).get("policy") == "drop" for item in common)
                yield self._chain(family, FORWARD, common, needs_rule=drops and dockers is None)

    def _chain(self, family: str, name: str, listing: list[Mapping[str, Any]], *, needs_rule: bool) -> _Chain:
        rules = [item["rule"] for item in listing if "rule" in item]
        ours = [int(rule["handle"]) for rule in rules if rule.get("comment") == self._comment]
        last = len(rules)
        while last and str(rules[last - 1].get("comment", "")).startswith(ENGINES):
            last -= 1
        trailing = any(rule.get("comment") == self._comment for rule in rules[last:])
        return _Chain(family, name, needs_rule, ours, trailing if name == FORWARD else bool(ours))

    def incomplete(self) -> list[str]:
        """Return the chains that do not have our rule, or not in its place, as nft calls them."""
        return [chain.path for chain in self._chains() if chain.needs_rule and not chain.in_place]

    def present(self) -> bool:
        """Tell whether there is a rule of ours."""
        return any(chain.ours for chain in self._chains())

    def ensure(self) -> None:
        """Put our rule into every chain that needs it and does not have it in its place."""
        test = f"meta mark and {MARK_PASSED} == {MARK_PASSED}"
        for chain in [chain for chain in self._chains() if chain.needs_rule and not chain.in_place]:
            self._delete(chain)
            verb = "add" if chain.name == FORWARD else "insert"
            self._nft.run(f'{verb} rule {chain.path} {test} accept comment "{self._comment}"')

    def remove(self) -> None:
        """Take our rules out."""
        for chain in list(self._chains()):
            self._delete(chain)

    def _delete(self, chain: _Chain) -> None:
        for handle in chain.ours:
            try:
                self._nft.run(f"delete rule {chain.path} handle {handle}")
            except NftError as err:
                if err.errno != errno.ENOENT:
                    raise
