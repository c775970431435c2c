"""Living beside dockerd: its firewall drops what it does not know, whatever another table accepts.

The one thing that is changed outside of our own table: while chain DOCKER-USER exists, it has one rule of ours, which
accepts packets that carry the mark of our firewall. dockerd leaves that chain to others, but makes it anew when it
starts; the rule is therefore looked for whenever the firewall is.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator

from engine.reconcile.libnft import Nft, NftError
from engine.reconcile.ruleset import MARK_PASSED

CHAIN = "DOCKER-USER"
FAMILIES = ("ip", "ip6")


class ForeignFirewall:
    """Our rule in the chain that dockerd leaves to its operator. `comment` tells it from other engines' rules."""

    def __init__(self, nft: Nft, comment: str) -> None:
        self._nft = nft
        self._comment = comment

    def _rules(self) -> Iterator[tuple[str, list[int]]]:
        """Yield each family whose chain exists, with the handles of our rules in it."""
        for family in FAMILIES:
            listing = self._nft.listing(f"chain {family} filter {CHAIN}")
            if listing is not None:
                rules = [item["rule"] for item in listing if "rule" in item]
                yield family, [int(rule["handle"]) for rule in rules if rule.get("comment") == self._comment]

    def complete(self) -> bool:
        """Tell whether our rule is in every chain that there is."""
        return all(handles for _, handles in self._rules())

    def present(self) -> bool:
        """Tell whether there is a rule of ours."""
        return any(handles for _, handles in self._rules())

    def ensure(self) -> None:
        """Put our rule first in every chain that there is and does not have it."""
        test = f"meta mark and {MARK_PASSED} == {MARK_PASSED}"
        for family in [family for family, handles in self._rules() if not handles]:
            self._nft.run(f'insert rule {family} filter {CHAIN} {test} accept comment "{self._comment}"')

    def remove(self) -> None:
        """Take our rules out."""
        found = [(family, handle) for family, handles in self._rules() for handle in handles]
        for family, handle in found:
            try:
                self._nft.run(f"delete rule {family} filter {CHAIN} handle {handle}")
            except NftError as err:
                if err.errno != errno.ENOENT:
                    raise
