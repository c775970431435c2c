"""The addresses that containers had last on their networks: a restart keeps them while nobody else has taken them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engine.state import State

LAST_ADDRESSES = "last-addresses"
"""Kind of an object in the database, one for each network."""
RECALLED = 256
"""So many names are remembered for a network, those that left last: containers without a name of their own (each
`run` is given another) must not make the row grow."""


class LastAddresses:
    """Last addresses by network and container name. The caller holds the network's lock, and a transaction to write."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._known: dict[str, dict[str, list[str]]] = {
            d["network"]: d["names"] for d in state.read(LAST_ADDRESSES, _parse)
        }

    def of(self, network: str, name: str) -> Sequence[str]:
        """Return the addresses, without prefix lengths, that a container of that name had last."""
        return self._known.get(network, {}).get(name, ())

    def note(self, network: str, name: str, addresses: Sequence[str]) -> None:
        """Remember the addresses of a container that leaves."""
        names = {n: a for n, a in self._known.get(network, {}).items() if n != name}
        names[name] = [a.partition("/")[0] for a in addresses]
        for oldest in list(names)[:-RECALLED]:
            del names[oldest]
        self._state.put(LAST_ADDRESSES, network, {"network": network, "names": names})
        self._known[network] = names

    def forget(self, network: str) -> None:
        """Forget a network that is gone."""
        self._state.delete(LAST_ADDRESSES, network)
        self._known.pop(network, None)


def _parse(doc: dict[str, Any]) -> dict[str, Any]:
    names = {str(name): [str(a) for a in addresses] for name, addresses in doc["names"].items()}
    return {"network": str(doc["network"]), "names": names}
