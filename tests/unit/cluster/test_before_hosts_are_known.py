"""A daemon that has just started hears of endpoints before it hears of their hosts: it forgets nothing."""

from __future__ import annotations

import time
from typing import Any

from tests.host import until

from engine.cluster.memory import MemoryStore
from engine.cluster.model import ClusterEndpoint, Node
from engine.cluster.peers import Peers, Remote
from engine.cluster.store import Put
from engine.spec.network import Peer

NETWORK = "ab" * 32
ENDPOINT = ClusterEndpoint(
    id="cd" * 16, network=NETWORK, node="other", mac="02:42:0a:00:00:02", addresses=("10.0.0.2/24",)
)  # fmt: skip
REMOTE = Remote(
    ENDPOINT,
    Peer(id=ENDPOINT.id, host="192.0.2.2", mac=ENDPOINT.mac, addresses=ENDPOINT.addresses, node="other"),
)


def test_a_peer_that_was_known_stands_until_its_host_is_known_to_be_gone() -> None:
    store, told, nodes = MemoryStore(), [], {}
    known = False
    store.commit([], [Put(ENDPOINT.key, ENDPOINT.encode())])

    def callback(network: str, changes: Any) -> tuple[str, ...]:
        told.append(dict(changes))
        return ()

    peers = Peers(store, "own", nodes.get, callback, lambda: known)
    try:
        peers.seed(NETWORK, {ENDPOINT.id: REMOTE})
        view = peers.view(NETWORK)
        assert view is not None
        until(lambda: view.complete, "the listing of endpoints")
        time.sleep(0.1)
        assert told == []
        known = True
        nodes["other"] = Node(name="other", id="01", address="192.0.2.2")
        peers.nodes_changed()
        time.sleep(0.1)
        assert told == [], "nothing is different from what was known"
        del nodes["other"]
        peers.nodes_changed()
        until(lambda: told == [{ENDPOINT.id: None}], "its end")
    finally:
        peers.close()
